"""Cache of the status of paths and the contents of files of a card or a node image, for a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.image import ext4, fat
from imagebuilder.image.partitions import read_table
from imagebuilder.image.untrusted import Damaged, TooLarge
from imagebuilder.model import Partition


@dataclass
class Snapshot:
    """The data read from ``image``. ``boot`` and ``root`` are the starts of its partitions, in bytes.

    ``oversize`` are the files of the boot partition that are too large for a file of the overlay.
    """

    image: Path
    boot: int
    root: int
    stats: dict[str, ext4.FileStatus] = field(default_factory=dict)
    contents: dict[tuple[Partition, str], bytes | None] = field(default_factory=dict, repr=False)
    oversize: set[str] = field(default_factory=set)

    def learn(self, paths: Sequence[str]) -> None:
        """Read the status of paths of the root partition."""
        self.stats |= ext4.stat(self.image, self.root, paths)

    def names(self, folder: str) -> list[str]:
        """The names in a folder of the root partition."""
        return ext4.names(self.image, self.root, [folder])[folder]

    def read_root(self, sizes: Mapping[str, int]) -> None:
        """Read files of the root partition, with their sizes in bytes."""
        for path, content in ext4.read(self.image, self.root, sizes):
            self.contents[Partition.ROOT, path] = content

    def read_boot(self, path: str, limit: int) -> None:
        """Read a file of the boot partition, unless it has more than ``limit`` bytes."""
        try:
            self.contents[Partition.BOOT, path] = fat.read_file(self.image, self.boot, path, limit)
        except TooLarge:
            self.contents[Partition.BOOT, path] = b""
            self.oversize.add(path)


def snapshot(image: Path) -> Snapshot:
    """A snapshot of ``image`` with only the partition table read.

    Raises Damaged when one of the partitions is missing.
    """
    table = read_table(image)
    boot, root = table.boot_start, table.root_start
    if boot is None or root is None:
        which = Partition.BOOT if boot is None else Partition.ROOT
        raise Damaged(image, which, f"it has no {which} partition")
    return Snapshot(image, boot, root)
