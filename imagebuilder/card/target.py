"""The content to write to a card, in order: everything in use, then the partition table."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from imagebuilder.card.source import HEAD, ImageSource, Piece, Reading

TABLE = 4096  # bytes; the block with the partition table, as large as the largest sector


@dataclass(frozen=True)
class CardContent:
    """The content to write to a card: the image, with zeros where its first MiB is not in use."""

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
        """The first MiB without the block of the partition table; empty for an image that has no more."""
        if len(self.head) <= TABLE:
            return ()
        return (Piece(TABLE, len(self.head), hashlib.sha256(self.head[TABLE:]).digest()),)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """Everything except the partition table, in order."""
        return (*self.rest, *(piece for piece in self.source.pieces if piece.start >= HEAD))

    def fill(self, piece: Piece, into: memoryview) -> None:
        """Copy the content of ``piece`` to the start of ``into``. Raises PiimgError."""
        if piece.start < HEAD:
            into[: piece.size] = self.head[piece.start : piece.end]
        else:
            self.reading.fill(piece, into)

    def bytes_of(self, piece: Piece) -> bytes:
        """The content of ``piece``. Raises PiimgError when the image no longer matches its block map."""
        return self.head[piece.start : piece.end] if piece.start < HEAD else self.reading.bytes_of(piece)
