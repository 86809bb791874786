"""The content to write to a card, in order: everything in use, then the partition table."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from imagebuilder.card.source import HEAD, ImageSource, Piece, Reading
from imagebuilder.system import blockdev

TABLE = 4096  # bytes; the block with the partition table, as large as the largest sector


@dataclass(frozen=True)
class CardContent:
    """The content to write to a card: the image, with zeros where its first MiB is not in use."""

    source: ImageSource
    reading: Reading

    @property
    def head_size(self) -> int:
        """The size of the first MiB in bytes: less for a smaller image."""
        return min(HEAD, self.source.size)

    def head(self) -> memoryview:
        """The first MiB, read anew: it is rarely needed, and many cards would keep it. Raises PiimgError."""
        head = blockdev.buffer(self.head_size)
        for piece in self.source.pieces:
            if piece.start < HEAD:
                self.reading.fill_checked(piece, head[piece.start : piece.end])
        return head

    @cached_property
    def table(self) -> bytes:
        """The block with the partition table."""
        return bytes(self.head()[:TABLE])

    @cached_property
    def rest(self) -> tuple[Piece, ...]:
        """The first MiB without the block of the partition table; empty for an image that has no more."""
        if self.head_size <= TABLE:
            return ()
        return (Piece(TABLE, self.head_size, hashlib.sha256(self.head()[TABLE:]).digest()),)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """Everything except the partition table, in order."""
        return (*self.rest, *(piece for piece in self.source.pieces if piece.start >= HEAD))

    def fill(self, piece: Piece, into: memoryview) -> None:
        """Copy the content of ``piece`` to the start of ``into``. Raises PiimgError."""
        if piece.start < HEAD:
            into[: piece.size] = self.head()[piece.start : piece.end]
        else:
            self.reading.fill(piece, into)

    def bytes_of(self, piece: Piece) -> bytes:
        """The content of ``piece``. Raises PiimgError when the image no longer matches its block map."""
        if piece.start < HEAD:
            return bytes(self.head()[piece.start : piece.end])
        return self.reading.bytes_of(piece)
