"""What a card is to hold, in the order it is written: all that is in use, then the partition table."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from imagebuilder.card.source import HEAD, ImageSource, Piece, Reading

TABLE = 4096  # bytes; the block with the partition table, as large as the largest sector


@dataclass(frozen=True)
class CardContent:
    """What a card is to hold: the image, with zeros where its first MiB is not in use."""

    source: ImageSource
    reading: Reading

    @cached_property
    def head(self) -> bytes:
        """The first MiB."""
        head = bytearray(min(HEAD, self.source.size))
        for piece in self.source.pieces:
            if piece.start < HEAD:
                head[piece.start : piece.end] = self.reading.bytes_of(piece)
        return bytes(head)

    @cached_property
    def table(self) -> bytes:
        """The block with the partition table."""
        return self.head[:TABLE]

    @cached_property
    def rest(self) -> tuple[Piece, ...]:
        """What is in the first MiB besides the partition table; nothing where the image is smaller."""
        if len(self.head) <= TABLE:
            return ()
        return (Piece(TABLE, len(self.head), hashlib.sha256(self.head[TABLE:]).digest()),)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All but the partition table, in order."""
        return (*self.rest, *(piece for piece in self.source.pieces if piece.start >= HEAD))

    def fill(self, piece: Piece, into: memoryview) -> None:
        """Copy the content of ``piece`` to the start of ``into``. Raises PiimgError."""
        if piece.start < HEAD:
            into[: piece.size] = self.head[piece.start : piece.end]
        else:
            self.reading.fill(piece, into)

    def bytes_of(self, piece: Piece) -> bytes:
        """The content of ``piece``. Raises PiimgError when the image is not what its map says any more."""
        return self.head[piece.start : piece.end] if piece.start < HEAD else self.reading.bytes_of(piece)
