"""The serial console of an emulated board at the terminal."""

import contextlib
import os
import select
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator

from imagebuilder.boot.machine import Machine

LEAVE = b"\x1d"  # Ctrl-]
_STEP = 0.1  # seconds


def attach(board: Machine) -> None:
    """Connect the terminal with the console of ``board`` until it is off or the user presses Ctrl-]."""
    with _raw(sys.stdin.fileno()):
        while board.is_on:
            connection = board.serial()
            if connection is None:  # QEMU is restarted at each reset
                time.sleep(_STEP)
                continue
            with connection:
                if not _pass_on(connection):
                    return


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Raw mode: every key goes to the console, also Ctrl-C."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _pass_on(connection: socket.socket) -> bool:
    """Pass bytes both ways; False when the user wants to leave, True when the console has ended."""
    keys, screen = sys.stdin.fileno(), sys.stdout.fileno()
    while True:
        ready, _, _ = select.select([keys, connection], [], [])
        if keys in ready:
            pressed = os.read(keys, 1024)
            if not pressed or LEAVE in pressed:
                return False
            with contextlib.suppress(OSError):
                connection.sendall(pressed)
        if connection in ready:
            try:
                output = connection.recv(4096)
            except OSError:
                return True
            if not output:
                return True
            os.write(screen, output)
