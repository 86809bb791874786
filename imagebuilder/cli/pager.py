"""Long output at a terminal, through the user's pager: $PAGER, else less, as git does it.

It ends by itself when all fits on the screen, passes colours on, and leaves the text there (LESS=FRX), unless
$LESS says otherwise. PAGER=cat, or an empty $PAGER, means none.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from imagebuilder.errors import PiimgError
from imagebuilder.system import process

_DEFAULTS = {"LESS": "FRX", "LV": "-c", "LESSCHARSET": "utf-8"}
_SECRETS = "PIIMG_SECRET_"  # the pager needs none


def page(text: str) -> bool:
    """Show ``text`` in the pager until the user leaves it; False, and nothing is shown, if there is none."""
    command = _command()
    if not command:
        return False
    try:
        with (
            _no_interrupt(),
            process.feeding(command, _environment()) as stream,
            contextlib.suppress(BrokenPipeError),  # the user has left it already
        ):
            stream.write(text.encode(sys.stdout.encoding, "backslashreplace"))
    except PiimgError:  # it is not installed
        return False
    return True


def _command() -> list[str]:
    try:
        words = shlex.split(os.environ.get("PAGER", "less"))
    except ValueError:  # an open quote
        return []
    return [] if words == ["cat"] else words


def _environment() -> dict[str, str]:
    """The user's own environment. A restricted sudo must not become a shell by less."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
    secure = {"LESSSECURE": "1"} if os.geteuid() == 0 and "SUDO_UID" in os.environ else {}
    return {**_DEFAULTS, **kept, **secure}


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Within the block Ctrl-C is for the pager only. A handler is not inherited by it, ignoring would be."""

    def nothing(number: int, frame: FrameType | None) -> None:
        pass

    before = signal.signal(signal.SIGINT, nothing)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
