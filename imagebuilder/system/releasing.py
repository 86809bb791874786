"""Release resources without hiding the first error."""

import contextlib
from collections.abc import Callable, Iterator

from imagebuilder.errors import PiimgError


@contextlib.contextmanager
def releasing(release: Callable[[], None]) -> Iterator[None]:
    """Call ``release`` at the end of the block, also when the block fails.

    When both the block and ``release`` fail, the block's error is raised, with the second error in its hint.
    When only ``release`` fails, its error is raised.
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
