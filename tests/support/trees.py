"""The tree digest of a whole image file, by walks over both of its partitions: the long way."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from imagebuilder.image import digest
from imagebuilder.image.partitions import boot_and_root, read_table
from imagebuilder.model import Entry, Kind, Partition
from imagebuilder.system import mount


def records_in(image: Path, entries: Iterable[Entry] = ()) -> digest.Records:
    """The record of every path of ``image``; ``entries`` are what an overlay wrote."""
    written: dict[Partition, set[bytes]] = {part: set() for part in Partition}
    for entry in entries:
        if entry.kind is not Kind.REMOVE:
            written[entry.partition].add(entry.path.encode())
    boot, root = boot_and_root(read_table(image))
    with tempfile.TemporaryDirectory() as folder:
        on_boot = digest.walk_boot(image, boot.start, Path(folder), written[Partition.BOOT])
        records = digest.records_of(on_boot)
    with mount.ext4(image, root.start, root.size, read_only=True) as point:
        return records | digest.records_of(digest.walk_root(point, written[Partition.ROOT]))


def digest_of(image: Path, entries: Iterable[Entry] = ()) -> str:
    """The tree digest of ``image``."""
    return digest.digest(records_in(image, entries))
