"""A card, or a node image, to compare: what stands where on it, and the contents that were asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.image import guarded
from imagebuilder.image.guarded import Found
from imagebuilder.image.partitions import read_table
from imagebuilder.model import Partition


@dataclass
class Medium:
    """What is known of ``image``. ``boot`` and ``root`` are where its partitions begin, in bytes.

    ``oversize`` are files of the boot partition too large to be what an overlay put there.
    """

    image: Path
    boot: int
    root: int
    stats: dict[str, Found] = field(default_factory=dict)
    contents: dict[tuple[Partition, str], bytes | None] = field(default_factory=dict, repr=False)
    oversize: set[str] = field(default_factory=set)

    def learn(self, paths: Sequence[str]) -> None:
        """Look at paths of the root partition."""
        self.stats |= guarded.ext4_stat(self.image, self.root, paths)

    def names(self, folder: str) -> list[str]:
        """The names in a folder of the root partition."""
        return guarded.ext4_names(self.image, self.root, [folder])[folder]

    def read_root(self, sizes: Mapping[str, int]) -> None:
        """Read files of the root partition, so many bytes of each."""
        for path, content in guarded.ext4_read(self.image, self.root, sizes):
            self.contents[Partition.ROOT, path] = content

    def read_boot(self, path: str, limit: int) -> None:
        """Read a file of the boot partition, unless it has more than ``limit`` bytes."""
        try:
            self.contents[Partition.BOOT, path] = guarded.fat_file(self.image, self.boot, path, limit)
        except guarded.TooLarge:
            self.contents[Partition.BOOT, path] = b""
            self.oversize.add(path)


def medium(image: Path) -> Medium:
    """What ``image`` is. Raises Damaged when one of the partitions is missing."""
    table = read_table(image)
    boot, root = guarded.boot_start(table), guarded.root_start(table)
    if boot is None or root is None:
        which = Partition.BOOT if boot is None else Partition.ROOT
        raise guarded.Damaged(image, which, f"{image.name} has no {which} partition")
    return Medium(image, boot, root)
