"""Letting go of what is held, without hiding why."""

import contextlib
from collections.abc import Callable, Iterator

from imagebuilder.errors import PiimgError


@contextlib.contextmanager
def releasing(release: Callable[[], None]) -> Iterator[None]:
    """Call ``release`` at the end, however it comes.

    When both the block and ``release`` fail, the block's error stays the one that is raised and the
    second is told in its hint. When only ``release`` fails, that is the error.
    """
    try:
        yield
    except BaseException as first:
        try:
            release()
        except PiimgError as second:
            if isinstance(first, PiimgError):
                first.hint = f"{first.hint}\nalso: {second.whole}".strip()
            else:
                first.add_note(second.whole)
        raise
    release()
