"""Slots that real loop devices are: cards are put in and taken out while piimg runs.

Each has a number that no other program gets: while there is no card in it, its loop device does not exist.
"""

import errno
import fcntl
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagebuilder.system.loop import backing
from tests.support.waiting import wait_until

_ADD, _REMOVE = 0x4C80, 0x4C81  # linux/loop.h
_FIRST, _LAST = 1000, 1_000_000


class Slot:
    """An empty slot."""

    def __init__(self) -> None:
        while True:
            self.number = random.randint(_FIRST, _LAST)
            if not Path(f"/sys/block/loop{self.number}").exists():
                break
        self.name = f"loop{self.number}"
        self.node = Path(f"/dev/{self.name}")

    def put(self, card: Path, *more: str) -> None:
        """Put a card in: its bytes are in the file ``card``."""
        _control(_ADD, self.number)
        subprocess.run(["losetup", "--direct-io=on", *more, self.node, card], check=True)

    def take(self) -> None:
        """Take the card out; nobody may use it."""
        subprocess.run(["losetup", "--detach", self.node], check=True)
        wait_until(
            lambda: backing(self.node) is None and _removed(self.number),
            20,
            lambda: f"{self.node} is in use",
        )

    @property
    def is_full(self) -> bool:
        return self.node.exists() and backing(self.node) is not None


def _control(request: int, number: int) -> None:
    handle = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, request, number)
    finally:
        os.close(handle)


def _removed(number: int) -> bool:
    try:
        _control(_REMOVE, number)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        if error.errno != errno.ENODEV:
            raise
    return True


@contextmanager
def slots(count: int) -> Iterator[list[Slot]]:
    """So many slots, all empty, which they are at the end again."""
    made = [Slot() for _ in range(count)]
    try:
        yield made
    finally:
        for slot in made:
            if slot.is_full:
                slot.take()
