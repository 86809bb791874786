"""A card that is broken in one way: an nbdkit plugin (nbdkit-python-plugin(3)) over a file.

Run as ``nbdkit python faulty.py file=PATH fault=NAME at=BYTE``; see ``FAULTS``. ``wrap=BYTES`` fakes a larger
capacity, ``delay=SECONDS`` makes each write slow. It knows nothing of piimg.
"""

import os
import time
from collections.abc import Callable, Mapping

API_VERSION = 2

_config: dict[str, str] = {}


def config(key: str, value: str) -> None:
    """Take a parameter of the command line."""
    _config[key] = value


def open(readonly: bool) -> int:
    """Called for each connection; what it returns is handed to the functions below."""
    return os.open(_config["file"], os.O_RDWR)


def get_size(handle: int) -> int:
    """The size of the card in bytes."""
    return os.fstat(handle).st_size


def flush(handle: int, flags: int) -> None:
    """Make what was written durable."""


def _hit(start: int, length: int) -> bool:
    return start <= int(_config["at"]) < start + length


def _fail(start: int, data: bytearray) -> bytearray | None:
    raise OSError("the card is broken here")


def _lose(start: int, data: bytearray) -> bytearray | None:
    return None


def _flip(start: int, data: bytearray) -> bytearray | None:
    data[int(_config["at"]) - start] ^= 0x40
    return data


def _tear(start: int, data: bytearray) -> bytearray | None:
    """Only the first half of the 4 KiB block arrives."""
    middle = int(_config["at"]) // 4096 * 4096 + 2048 - start
    data[middle : middle + 2048] = b"\xaa" * 2048
    return data


FAULTS: Mapping[str, tuple[str, Callable[[int, bytearray], bytearray | None]]] = {
    "write-error": ("write", _fail),
    "read-error": ("read", _fail),
    "lost-write": ("write", _lose),
    "flip-on-write": ("write", _flip),
    "flip-on-read": ("read", _flip),
    "torn-write": ("write", _tear),
}


def _afflicted(way: str, start: int, data: bytearray) -> bytearray | None:
    if "fault" not in _config:
        return data
    when, change = FAULTS[_config["fault"]]
    return change(start, data) if when == way and _hit(start, len(data)) else data


def _place(start: int) -> int:
    """A card with a fake capacity wraps round."""
    return start % int(_config["wrap"]) if "wrap" in _config else start


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    """Fill ``buffer`` from byte ``offset``."""
    data = bytearray(os.pread(handle, len(buffer), _place(offset)))
    buffer[:] = _afflicted("read", offset, data) or data


def pwrite(handle: int, buffer: bytes, offset: int, flags: int) -> None:
    """Write ``buffer`` at byte ``offset``."""
    time.sleep(float(_config.get("delay", "0")))
    data = _afflicted("write", offset, bytearray(buffer))
    if data is not None:
        os.pwrite(handle, data, _place(offset))
