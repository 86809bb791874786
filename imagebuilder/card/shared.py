"""Buffers that the cards of a run share: a piece that several of them need is read once.

The nodes of a cluster have mostly the same content, and cards written at the same time are at about the same
place of it. So the last pieces that were read are kept, by their digest, and written to each card from the
same memory. What is kept was not checked: that is the task of the read-back.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagebuilder.card.source import Piece
from imagebuilder.card.streams import Fill
from imagebuilder.image.bmap import PIECE
from imagebuilder.system import blockdev

_KEPT = 16  # pieces; cards of the same speed are closer together than that


@dataclass(eq=False)
class _Slot:
    """One buffer. ``users`` read it now, or wait until it is filled; ``good`` once it is."""

    data: memoryview
    users: int = 0
    good: bool = False
    filling: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class SharedPieces:
    """At most ``kept`` pieces of one run. Safe from any thread."""

    kept: int = _KEPT
    _free: list[memoryview] = field(default_factory=list, repr=False)
    _slots: OrderedDict[bytes, _Slot] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextlib.contextmanager
    def filled(self, piece: Piece, fill: Fill, own: memoryview) -> Iterator[memoryview]:
        """The bytes of ``piece``, at the start of a buffer that is a shared one or ``own``.

        ``fill`` reads them, if they are not there. Raises what ``fill`` raises.
        """
        slot = self._taken(piece.digest) if piece.digest else None
        if slot is None:
            fill(piece, own)
            yield own
            return
        try:
            with slot.filling:
                if not slot.good:
                    fill(piece, slot.data)
                    slot.good = True
            yield slot.data
        finally:
            with self._lock:
                slot.users -= 1

    def _taken(self, digest: bytes) -> _Slot | None:
        """The slot for a digest, which one more card uses now; None when all slots are in use."""
        with self._lock:
            slot = self._slots.get(digest)
            if slot is None:
                data = self._unused()
                if data is None:
                    return None
                slot = self._slots[digest] = _Slot(data)
            slot.users += 1
            return slot

    def _unused(self) -> memoryview | None:
        """A buffer that was not used yet, else that of the piece that was read first and is not in use."""
        if len(self._slots) < self.kept:
            if not self._free:  # two at once: one huge page, which direct I/O pins in one step
                self._free.extend(blockdev.buffers(2, PIECE))
            return self._free.pop()
        for digest, slot in self._slots.items():
            if slot.users == 0:
                return self._slots.pop(digest).data
        return None
