"""Retries: write, read or fix a piece again, up to ``TRIES`` times, and count the attempts."""

from collections.abc import Callable

from imagebuilder.card.io import BadCard, CardError, Gone, OpenCard
from imagebuilder.card.progress import Meter
from imagebuilder.card.source import Piece, first_difference
from imagebuilder.card.target import TABLE

TRIES = 3  # attempts after the one that failed

_BAD = "use another card; if that one fails too, another reader"


def write(meter: Meter, card: OpenCard, piece: Piece, content: bytes | memoryview, more: int = TRIES) -> None:
    """Write a piece; when that fails, repeat it up to ``more`` times. Raises CardError."""
    while True:
        try:
            card.write(piece, content)
            return
        except Gone:
            raise
        except CardError:
            if more == 0:
                raise
            more -= 1
            meter.retries += 1


def fault(card: OpenCard, piece: Piece, wanted: bytes | memoryview) -> BadCard | None:
    """Read ``piece`` and return what is wrong with it; None when it contains ``wanted``. Raises Gone."""
    try:
        have = card.read(piece)
    except BadCard as bad:
        return bad
    return None if have == wanted else difference(card, piece, bytes(have), wanted)


def difference(card: OpenCard, piece: Piece, have: bytes, wanted: bytes | memoryview) -> BadCard | None:
    """The error for the first byte in which ``have`` differs from ``wanted``; None when none does."""
    index = first_difference(have, wanted)
    if index is None:
        return None
    offset = piece.start + index
    return BadCard(card.node, f"has wrong data from byte {offset} on", _BAD, offset)


def read(meter: Meter, card: OpenCard, piece: Piece, wanted: bytes | memoryview) -> BadCard | None:
    """Read a wrong piece again, up to ``TRIES`` times; returns what is still wrong, as ``fault`` does."""
    return _again(meter, lambda: fault(card, piece, wanted))


def fix(meter: Meter, card: OpenCard, piece: Piece, wanted: bytes) -> BadCard | None:
    """Write a bad piece again and read it back, up to ``TRIES`` times; returns what is still wrong.

    Raises CardError when it cannot be written.
    """

    def rewrite() -> BadCard | None:
        card.write(piece, wanted)
        card.flush()
        return fault(card, piece, wanted)

    return _again(meter, rewrite)


def wipe(meter: Meter, card: OpenCard, size: int) -> None:
    """Fill the first ``size`` bytes with zeros, and read back whether they are there.

    A card that misdirects writes keeps its old partition table otherwise. The kernel may split a large write,
    and the card misdirect the same part of it each time: then the first block is written alone. Raises
    CardError.
    """
    write(meter, card, Piece(0, size), bytes(size))
    card.flush()
    for piece in (Piece(0, size), Piece(0, TABLE)):
        if fault(card, piece, bytes(piece.size)) is not None:
            fix(meter, card, piece, bytes(piece.size))


def _again(meter: Meter, action: Callable[[], BadCard | None]) -> BadCard | None:
    for _ in range(TRIES):
        meter.retries += 1
        bad = action()
        if bad is None:
            return None
    return bad
