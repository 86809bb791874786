"""Entry point of the ``piimg`` command: an interrupt during loading exits without a message."""

import gc
import signal

_GARBAGE = 50_000  # new objects before a collection; with the default of 700 they take a fifth of the start


def main() -> None:
    """Load the command line, then run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in a background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to clean up yet, and no traceback
    gc.set_threshold(_GARBAGE)
    from imagebuilder.cli.main import main as run

    run()
