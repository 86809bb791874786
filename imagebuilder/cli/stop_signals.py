"""The signals that stop piimg."""

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ignore_signals() -> None:
    """Ignore the signals: the remaining work is short and must not be interrupted."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
