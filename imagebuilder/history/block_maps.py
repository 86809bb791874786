"""Block maps of the images that earlier runs wrote, saved so that a later run can find the changes of a card.

A card states which node it carries, but not which build of it. So the maps of the last few images of a node
are saved, by digest, and a sample of the card shows which of them it contains (``compare.py``). A map alone
never makes data count as right: everything in use is read after the writing.
"""

import contextlib
import hashlib
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.card.source import ImageSource, Piece
from imagebuilder.errors import PiimgError
from imagebuilder.image import bmap
from imagebuilder.image.bmap import PIECE, BlockMap, Range
from imagebuilder.system import files

_FOLDER = "written"
KEPT = 4  # maps per node; the oldest ones are removed


def earlier_in(state: Path, home: Path) -> "BlockMapStore":
    """The maps of the cluster with the state folder ``state`` and the cluster folder ``home``."""
    return BlockMapStore(written_in(state), home)


def written_in(state: Path) -> Path:
    """The folder with what was written, in the state folder ``state``."""
    return state / _FOLDER


def newest_of(folder: Path, node: str, suffix: str) -> list[Path]:
    """The files NODE-DIGEST.SUFFIX in ``folder``, the newest first."""
    name = re.compile(rf"{re.escape(node)}-[0-9a-f]{{32}}\.{suffix}")
    dated: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            info = path.lstat()
            if name.fullmatch(path.name) and stat.S_ISREG(info.st_mode):
                dated.append((info.st_mtime_ns, path))
    return [path for _, path in sorted(dated, reverse=True)]


@dataclass(frozen=True)
class BlockMapStore:
    """The maps in ``folder``. New files and folders get the owner of ``home``."""

    folder: Path
    home: Path

    def keep(self, node: str, source: ImageSource) -> None:
        """Save the map of an image that was written for ``node``. Raises OSError or PiimgError."""
        path = self.folder / f"{node}-{name_of(source)}.bmap"
        files.make_private(self.folder, self.home)
        ranges = tuple(Range(piece.start, piece.end, piece.digest.hex()) for piece in source.pieces)
        block = min(
            source.map.block_size, bmap.BLOCK
        )  # ranges that the map omitted were added in blocks of this size
        bmap.write(path, BlockMap(source.size, block, "sha256", ranges), 0o600)
        files.hand_over(path, self.home)
        for old in newest_of(self.folder, node, "bmap")[KEPT:]:
            old.unlink(missing_ok=True)

    def of(self, node: str) -> list[Sequence[Piece]]:
        """The pieces of each image that was written for ``node``, the newest image first."""
        return list(self.named(node).values())

    def named(self, node: str) -> dict[str, Sequence[Piece]]:
        """The same, by the name of each block map (``name_of``)."""
        images: dict[str, Sequence[Piece]] = {}
        for path in newest_of(self.folder, node, "bmap")[:KEPT]:
            with contextlib.suppress(PiimgError):  # ignore a damaged map
                ranges = bmap.read(path)
                if ranges.algorithm == "sha256" and all(
                    part.digest and part.size <= PIECE for part in ranges
                ):
                    pieces = [Piece(part.start, part.end, bytes.fromhex(part.digest)) for part in ranges]
                    images[path.stem.rpartition("-")[2]] = pieces
        return images


def name_of(source: ImageSource) -> str:
    """The name of the block map of an image: a digest of its pieces."""
    return hashlib.sha256(b"".join(_bytes(piece) for piece in source.pieces)).hexdigest()[:32]


def _bytes(piece: Piece) -> bytes:
    return piece.start.to_bytes(8, "little") + piece.end.to_bytes(8, "little") + piece.digest
