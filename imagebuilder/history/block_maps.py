"""Block maps of what earlier runs wrote, kept so that a later run knows what of a card is to be changed.

A card says which node it carries, not which build of it. So the maps of a node's last few images are kept, by
digest, and a sample of the card shows which of them it holds (``compare.py``). Nothing is believed because of
a map: all that is in use is read after the writing.
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
KEPT = 4  # maps of each node; the oldest go


def earlier_in(state: Path, home: Path) -> "BlockMapStore":
    """The maps of a cluster whose state folder is ``state``, in the cluster folder ``home``."""
    return BlockMapStore(state / _FOLDER, home)


@dataclass(frozen=True)
class BlockMapStore:
    """The maps in ``folder``. What is made for it belongs to the owner of ``home``."""

    folder: Path
    home: Path

    def keep(self, node: str, source: ImageSource) -> None:
        """Keep the map of an image that was written for ``node``. Raises OSError or PiimgError."""
        digest = hashlib.sha256(b"".join(_bytes(piece) for piece in source.pieces)).hexdigest()
        path = self.folder / f"{node}-{digest[:32]}.bmap"
        files.make_private(self.folder, self.home)
        ranges = tuple(Range(piece.start, piece.end, piece.digest.hex()) for piece in source.pieces)
        block = min(source.map.block_size, bmap.BLOCK)  # what a map left out was added in blocks of this size
        bmap.write(path, BlockMap(source.size, block, "sha256", ranges), 0o600)
        files.hand_over(path, self.home)
        for old in self._maps(node)[KEPT:]:
            old.unlink(missing_ok=True)

    def of(self, node: str) -> list[Sequence[Piece]]:
        """The pieces of the images that were written for ``node``, the newest first."""
        found: list[Sequence[Piece]] = []
        for path in self._maps(node)[:KEPT]:
            with contextlib.suppress(PiimgError):  # a damaged map is no map
                ranges = bmap.read(path)
                if ranges.algorithm == "sha256" and all(one.digest and one.size <= PIECE for one in ranges):
                    found.append([Piece(one.start, one.end, bytes.fromhex(one.digest)) for one in ranges])
        return found

    def _maps(self, node: str) -> list[Path]:
        own = re.compile(re.escape(node) + r"-[0-9a-f]{32}\.bmap")
        found: list[tuple[int, Path]] = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                info = path.lstat()
                if own.fullmatch(path.name) and stat.S_ISREG(info.st_mode):
                    found.append((info.st_mtime_ns, path))
        return [path for _, path in sorted(found, reverse=True)]


def _bytes(piece: Piece) -> bytes:
    return piece.start.to_bytes(8, "little") + piece.end.to_bytes(8, "little") + piece.digest
