"""Entry point of the ``piimg`` command: an interrupt during loading exits without a message."""

import signal


def main() -> None:
    """Load the command line, then run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in a background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to clean up yet, and no traceback
    from imagebuilder.cli.main import main as run

    run()
