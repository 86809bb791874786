"""A card that is broken in one way: an nbdkit plugin (nbdkit-python-plugin(3)) over a file.

Run as ``nbdkit python faulty.py file=PATH NAME=VALUE…``. It knows nothing of piimg.

    announced=BYTES  the size it says it has (else the file's)
    wrap=BYTES       a fake: every BYTES it begins again at its start
    limbo=BYTES      a fake: what is written from here on is lost, and read as ``void`` (0 or 255; else 0)
    cache=BYTES      what such a fake remembers nevertheless of what was last written to it
    map=PATH         a fake of any kind: where each block of 4 KiB really is, as 32-bit numbers of blocks
    spoil=WHERE      a write also damages 4 KiB: those ``behind`` it, or a ``page`` of its erase block
    misdirect=BYTES  a write goes to a place so many bytes further on instead
    every=N          spoil and misdirect happen with every Nth write (else with each)
    volatile=BYTES   what was last written is kept in a cache, and lost when the server ends
    delay=SECONDS    each write takes so much longer

    fault=NAME       one of FAULTS
    at=BYTE          only operations that touch this byte have the fault (else all)
    after=BYTES      only once so many bytes were written (for a fault of reading: read)
    times=N          so often, then never again (else always)
    switch=PATH      only while this file is there
    stall=SECONDS    how long a stall is; it also ends when ``switch`` goes, or the server's parent; when it
                     begins, the file ``stalled`` is made beside ``switch``
    error=NAME       what an error is called (else EIO)
    far=BYTE         what ``flip-far`` damages
"""

import array
import errno
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import nbdkit  # type: ignore[import-not-found]  # there is one only inside nbdkit

API_VERSION = 2
BLOCK = 4096  # bytes; what a fault that loses or tears data does it to
SECTOR = 512  # bytes; what ``cache`` is counted in
ERASE = 128 << 10  # bytes; an erase block

_config: dict[str, str] = {}
_moved = {"write": 0, "read": 0, "flush": 0}  # bytes
_hits = 0
_writes = 0
_kept: OrderedDict[int, bytes] = OrderedDict()
_volatile: OrderedDict[int, bytes] = OrderedDict()  # blocks by the byte they begin at
_map = array.array("I")
_parent = os.getppid()


def config(key: str, value: str) -> None:
    """Take a parameter of the command line."""
    _config[key] = value
    if key == "map":
        _map.frombytes(Path(value).read_bytes())


def open(readonly: bool) -> int:
    """Called for each connection; what it returns is handed to the functions below."""
    return os.open(_config["file"], os.O_RDWR)


def get_size(handle: int) -> int:
    """The size of the card in bytes."""
    return _number("announced", os.fstat(handle).st_size)


def flush(handle: int, flags: int) -> None:
    """Make what was written durable."""
    _afflict("flush", handle, 0, bytearray())


def _number(name: str, otherwise: int) -> int:
    return int(_config.get(name, otherwise))


def _fail(handle: int, start: int, data: bytearray) -> None:
    name = _config.get("error", "EIO")
    nbdkit.set_error(getattr(errno, name))
    raise OSError(f"the card is broken here ({name})")


def _lose(handle: int, start: int, data: bytearray) -> None:
    """What was in the block stays there."""
    _keep_old(handle, start, data, _number("at", start) // BLOCK * BLOCK, BLOCK)


def _tear(handle: int, start: int, data: bytearray) -> None:
    """Only the first half of the block arrives."""
    _keep_old(handle, start, data, _number("at", start) // BLOCK * BLOCK + BLOCK // 2, BLOCK // 2)


def _keep_old(handle: int, start: int, data: bytearray, first: int, length: int) -> None:
    low, high = max(first, start) - start, min(first + length, start + len(data)) - start
    data[low:high] = os.pread(handle, high - low, start + low)


def _flip(handle: int, start: int, data: bytearray) -> None:
    data[_number("at", start) - start] ^= 0x40


def _flip_far(handle: int, start: int, data: bytearray) -> None:
    """The write arrives, and damages what lies at ``far``."""
    far = _number("far", 0)
    block = os.pread(handle, 1, far)
    os.pwrite(handle, bytes([block[0] ^ 0x40]), far)


def _clear(handle: int, start: int, data: bytearray) -> None:
    data[:] = bytes(len(data))


def _stall(handle: int, start: int, data: bytearray) -> None:
    if "switch" in _config:
        Path(_config["switch"]).with_name("stalled").touch()
    end = time.monotonic() + float(_config["stall"])
    while time.monotonic() < end and os.getppid() == _parent and _switched_on():
        time.sleep(0.02)


FAULTS: Mapping[str, tuple[str, Callable[[int, int, bytearray], None]]] = {
    "write-error": ("write", _fail),
    "read-error": ("read", _fail),
    "lost-write": ("write", _lose),
    "torn-write": ("write", _tear),
    "flip-on-write": ("write", _flip),
    "flip-on-read": ("read", _flip),
    "flip-far": ("write", _flip_far),
    "zeros": ("read", _clear),
    "stall-on-write": ("write", _stall),
    "stall-on-read": ("read", _stall),
    "stall-on-flush": ("flush", _stall),
}


def _switched_on() -> bool:
    return "switch" not in _config or os.path.exists(_config["switch"])  # noqa: PTH110


def _afflict(way: str, handle: int, start: int, data: bytearray) -> None:
    """Do to ``data``, on its way to or from byte ``start``, what the fault does to it, if it is its turn."""
    global _hits  # noqa: PLW0603
    moved, _moved[way] = _moved[way], _moved[way] + len(data)
    if "fault" not in _config or FAULTS[_config["fault"]][0] != way or not _switched_on():
        return
    touched = "at" not in _config or start <= int(_config["at"]) < start + len(data)
    if touched and moved >= _number("after", 0) and _hits < _number("times", _hits + 1):
        _hits += 1
        FAULTS[_config["fault"]][1](handle, start, data)


def _parts(start: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Where bytes really are on a fake: (first, last) of ``length`` bytes at ``start``, and their place."""
    end, wrap, limbo = start + length, _number("wrap", start + length), _number("limbo", start + length)
    while start < end:
        if _map:
            within = start % BLOCK
            place, stop = _map[start // BLOCK] * BLOCK + within, min(end, start + BLOCK - within)
        else:
            place = start % wrap
            stop = min(end, start + wrap - place, start + limbo - place if place < limbo else end)
        yield start, stop, place
        start = stop


def _spoil(handle: int, start: int, end: int) -> None:
    """Damage what lies near a write of the bytes ``start`` to ``end``."""
    if _config["spoil"] == "behind":
        place = end
    else:
        erase = start // ERASE * ERASE
        place = erase + (start - erase + ERASE // 2) // BLOCK * BLOCK % ERASE
        if start <= place < end:
            return
    block = bytearray(os.pread(handle, BLOCK, place))
    if block:
        block[len(block) // 2] ^= 0x20
        os.pwrite(handle, block, place)


def _hold(handle: int, start: int, data: bytes) -> None:
    """Keep whole blocks in the volatile cache; the oldest go to the medium."""
    for at in range(start, start + len(data), BLOCK):
        _volatile[at] = data[at - start : at - start + BLOCK]
        _volatile.move_to_end(at)
    while len(_volatile) * BLOCK > _number("volatile", 0):
        at, block = _volatile.popitem(last=False)
        os.pwrite(handle, block, at)


def _remember(start: int, data: bytes) -> None:
    for at in range(start, start + len(data), SECTOR):
        _kept[at] = data[at - start : at - start + SECTOR]
        _kept.move_to_end(at)
    while len(_kept) * SECTOR > _number("cache", 0):
        _kept.popitem(last=False)


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    """Fill ``buffer`` from byte ``offset``."""
    data = bytearray()
    for start, stop, place in _parts(offset, len(buffer)):
        if place < _number("limbo", place + 1):
            data += os.pread(handle, stop - start, place)
        else:
            data += bytes([_number("void", 0)]) * (stop - start)
    for at in range(offset // BLOCK * BLOCK, offset + len(data), BLOCK) if _volatile else ():
        block = _volatile.get(at, b"")
        low, high = max(at, offset), min(at + len(block), offset + len(data))
        if low < high:
            data[low - offset : high - offset] = block[low - at : high - at]
    if _kept:
        for at in range(offset, offset + len(data), SECTOR):
            kept = _kept.get(at, b"")
            data[at - offset : at - offset + len(kept)] = kept
    _afflict("read", handle, offset, data)
    buffer[:] = data


def pwrite(handle: int, buffer: bytes, offset: int, flags: int) -> None:
    """Write ``buffer`` at byte ``offset``."""
    global _writes  # noqa: PLW0603
    time.sleep(float(_config.get("delay", "0")))
    data = bytearray(buffer)
    _afflict("write", handle, offset, data)
    _writes += 1
    struck = _writes % _number("every", 1) == 0
    if "misdirect" in _config and struck:
        offset = min(offset + _number("misdirect", 0), get_size(handle) - len(data))
    if "volatile" in _config and offset % BLOCK == 0 and len(data) % BLOCK == 0:
        _hold(handle, offset, bytes(data))
        return
    if "cache" in _config:
        _remember(offset, bytes(data))
    for start, stop, place in _parts(offset, len(data)):
        if place < _number("limbo", place + 1):
            os.pwrite(handle, data[start - offset : stop - offset], place)
    if "spoil" in _config and struck:
        _spoil(handle, offset, offset + len(data))
