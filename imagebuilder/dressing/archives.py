"""Package files without compression: unpacked here, at this machine's speed, and not in emulation.

deb(5): an ar(5) archive with a control and a data member, whose names say how they are compressed. dpkg reads
uncompressed members since 1.10.24.
"""

import contextlib
import gzip
import io
import lzma
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from imagebuilder.errors import PiimgError

_MAGIC = b"!<arch>\n"
_HEADER = 60  # bytes: ar(5)
_END = b"`\n"
_CHUNK = 1 << 20  # bytes
_LARGEST = 16 << 30  # bytes of one member; an ar header has ten digits


class _Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def make_plain(source: Path, target: Path) -> None:
    """Write the package file ``source`` to ``target`` with its members unpacked.

    Members with another compression stay as they are. Raises PiimgError when ``source`` is damaged, and
    OSError.
    """
    try:
        with source.open("rb") as reader, target.open("xb") as writer:
            if reader.read(len(_MAGIC)) != _MAGIC:
                raise PiimgError(f"{source.name} is not a Debian package", "remove it from the cache")
            writer.write(_MAGIC)
            while header := reader.read(_HEADER):
                _member(source, header, reader, writer)
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError, ValueError) as error:
        raise PiimgError(f"{source.name} is damaged: {error}", "remove it from the cache") from error


def _member(source: Path, header: bytes, reader: BinaryIO, writer: BinaryIO) -> None:
    if len(header) != _HEADER or header[58:] != _END:
        raise ValueError("an invalid header")
    name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
    part = _Part(reader, size)
    stem, _, suffix = name.rpartition(".")
    at, written = writer.tell(), 0
    writer.write(header)
    with contextlib.ExitStack() as stack:
        packed = io.BufferedReader(part)
        content: _Reader = packed
        if stem.endswith(".tar") and suffix == "xz":
            content = stack.enter_context(lzma.open(packed))
        elif stem.endswith(".tar") and suffix == "gz":
            content = stack.enter_context(gzip.open(packed))
        shown = name if content is packed else stem
        while chunk := content.read(_CHUNK):
            written += len(chunk)
            if written > _LARGEST:
                raise ValueError(f"{name} is too large")
            writer.write(chunk)
    if part.left:
        raise ValueError(f"{name} is too short")
    if written % 2:
        writer.write(b"\n")
    if size % 2:
        reader.read(1)
    end = writer.tell()
    writer.seek(at)
    writer.write(f"{shown:<16}".encode() + header[16:48] + f"{written:<10}".encode() + _END)
    writer.seek(end)


class _Part(io.RawIOBase):
    """The next ``size`` bytes of a stream, as a stream."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data = self._stream.read(min(len(view), self.left))
        if not data and self.left:
            raise EOFError("it ends early")
        view[: len(data)] = data
        self.left -= len(data)
        return len(data)
