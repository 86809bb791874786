"""The content of a node image: a base image, and over it the blocks in which the node differs.

A whole image file is the same without such blocks. Reading needs neither a copy of the base nor a mount.
"""

import bisect
import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.image.allocation import Span
from imagebuilder.system import blockdev


@dataclass(frozen=True)
class ImageContent:
    """An image of ``size`` bytes: those of the file ``base``, and over them those of the file ``changes``.

    ``spans`` are the ranges of the image that ``changes`` has, one after another, in order and not
    overlapping. Beyond the end of ``base`` the image has zeros.
    """

    base: Path
    size: int
    changes: Path | None = None
    spans: tuple[Span, ...] = ()

    @contextlib.contextmanager
    def opened(self) -> Iterator["OpenContent"]:
        """Open both files for reading. Raises OSError."""
        with contextlib.ExitStack() as stack:
            handles = [os.open(self.base, os.O_RDONLY | os.O_CLOEXEC)]
            stack.callback(os.close, handles[0])
            if self.changes is not None and self.spans:
                handles.append(os.open(self.changes, os.O_RDONLY | os.O_CLOEXEC))
                stack.callback(os.close, handles[1])
            yield OpenContent(
                self, handles[0], os.fstat(handles[0]).st_size, handles[-1], _places(self.spans)
            )


def _places(spans: Sequence[Span]) -> tuple[int, ...]:
    """Where in the file of changes each of ``spans`` begins."""
    places, at = [], 0
    for start, end in spans:
        places.append(at)
        at += end - start
    return tuple(places)


@dataclass(frozen=True)
class OpenContent:
    """An open image: ``base`` with ``base_size`` bytes, and ``changes`` with the place of each span."""

    content: ImageContent
    base: int
    base_size: int
    changes: int
    places: Sequence[int]

    def read(self, start: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from ``start``. Raises OSError, also at the end of the file."""
        end = start + len(into)
        position, spans = start, self.content.spans
        number = bisect.bisect_right(spans, start, key=lambda span: span[1])
        while position < end:
            low, high = spans[number] if number < len(spans) else (end, end)
            if position < low:
                stop = min(low, end)
                self._read_base(position, into[position - start : stop - start])
            else:
                stop = min(high, end)
                place = self.places[number] + position - low
                blockdev.read_at(self.changes, into[position - start : stop - start], place)
                number += 1
            position = stop

    def _read_base(self, position: int, into: memoryview) -> None:
        inside = max(0, min(len(into), self.base_size - position))
        if inside:
            blockdev.read_at(self.base, into[:inside], position)
        if inside < len(into):
            into[inside:] = bytes(len(into) - inside)
