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
    return BlockMapStore(state / _FOLDER, home)


@dataclass(frozen=True)
class BlockMapStore:
    """The maps in ``folder``. New files and folders get the owner of ``home``."""

    folder: Path
    home: Path

    def keep(self, node: str, source: ImageSource) -> None:
        """Save the map of an image that was written for ``node``. Raises OSError or PiimgError."""
        digest = hashlib.sha256(b"".join(_bytes(piece) for piece in source.pieces)).hexdigest()
        path = self.folder / f"{node}-{digest[:32]}.bmap"
        files.make_private(self.folder, self.home)
        ranges = tuple(Range(piece.start, piece.end, piece.digest.hex()) for piece in source.pieces)
        block = min(
            source.map.block_size, bmap.BLOCK
        )  # ranges that the map omitted were added in blocks of this size
        bmap.write(path, BlockMap(source.size, block, "sha256", ranges), 0o600)
        files.hand_over(path, self.home)
        for old in self._maps(node)[KEPT:]:
            old.unlink(missing_ok=True)

    def of(self, node: str) -> list[Sequence[Piece]]:
        """The pieces of each image that was written for ``node``, the newest image first."""
        images: list[Sequence[Piece]] = []
        for path in self._maps(node)[:KEPT]:
            with contextlib.suppress(PiimgError):  # ignore a damaged map
                ranges = bmap.read(path)
                if ranges.algorithm == "sha256" and all(
                    part.digest and part.size <= PIECE for part in ranges
                ):
                    images.append(
                        [Piece(part.start, part.end, bytes.fromhex(part.digest)) for part in ranges]
                    )
        return images

    def _maps(self, node: str) -> list[Path]:
        name = re.compile(re.escape(node) + r"-[0-9a-f]{32}\.bmap")
        dated: list[tuple[int, Path]] = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                info = path.lstat()
                if name.fullmatch(path.name) and stat.S_ISREG(info.st_mode):
                    dated.append((info.st_mtime_ns, path))
        return [path for _, path in sorted(dated, reverse=True)]


def _bytes(piece: Piece) -> bytes:
    return piece.start.to_bytes(8, "little") + piece.end.to_bytes(8, "little") + piece.digest
