"""Where the ``piimg`` command begins: an interrupt while it is still being loaded ends it without a word."""

import signal


def main() -> None:
    """Load the command line, then run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in a background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing was begun yet: no traceback, no clean-up
    from imagebuilder.cli.main import main as run

    run()
