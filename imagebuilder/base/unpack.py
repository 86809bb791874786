"""Decoding a base image: .img, .xz, .gz, .zst or .zip to a sparse file, in one bounded pass.

What it is decides the file's first bytes, and its name must not say otherwise. xz decodes with all
cores (Raspberry Pi's images have many independent blocks).
"""

import contextlib
import gzip
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from imagebuilder.base.catalogue import WrongContent
from imagebuilder.base.space import check_room, writing
from imagebuilder.events import Reporter
from imagebuilder.progress import Task, task
from imagebuilder.reading import open_regular
from imagebuilder.system import process

LARGEST = 32 << 30
"""Bytes; no base image is larger (Raspberry Pi OS Full is about 15 GB), so more is a decompression bomb."""

_SECTOR = 512  # bytes; a disk image is a whole number of them
_PAGE = 4096  # bytes; the unit in which zeros become holes
_CHUNK = 1 << 20  # bytes; a multiple of _PAGE
_ZEROS = bytes(_CHUNK)

# The first bytes of each format: the .xz file format 1.1.0, RFC 1952, RFC 8878, PKWARE APPNOTE.
_MAGIC = {
    ".xz": b"\xfd7zXZ\x00",
    ".gz": b"\x1f\x8b",
    ".zst": b"\x28\xb5\x2f\xfd",
    ".zip": b"PK\x03\x04",
}


@dataclass(frozen=True)
class Unpacked:
    """The image that came out: its sha256 (hex) and size in bytes."""

    digest: str
    size: int


def unpack(
    source: Path,
    target: Path,
    *,
    name: str,
    subject: str,
    reporter: Reporter,
    expected_size: int | None = None,
) -> Unpacked:
    """Decode ``source`` into the existing empty file ``target``, leaving out blocks of zeros.

    ``name`` is the file's name where it came from; ``expected_size`` the image's size in bytes if known.
    Raises PiimgError when the file is damaged, cut short, not what its name says or larger than it
    declares, or when the disk is full; ``target`` is then incomplete and the caller's to remove.
    """
    kind = kind_of(source, name)
    size = _declared_size(source, kind, name, expected_size)
    if size is not None:
        check_room(target.parent, size, f"unpack {name}")
    with task(reporter, "unpack", subject, size) as unpacking:
        # the decoder inside: gzip's errors about damage are OSErrors too
        with writing(f"unpack {name}"), _decoded(source, kind, name) as stream, target.open("r+b") as output:
            done = _write_sparse(stream, output, size or LARGEST, name, unpacking)
        _check_size(done.size, size, name)
        return done


def kind_of(source: Path, name: str) -> str:
    """The suffix of the format ``source`` is in (".img" when not compressed).

    Raises PiimgError when ``name`` ends otherwise: an error page in place of the file, say.
    """
    with open_regular(source) as stream:
        head = stream.read(8)
    found = next((suffix for suffix, magic in _MAGIC.items() if head.startswith(magic)), ".img")
    claimed = Path(name).suffix.lower()
    if claimed in (*_MAGIC, ".img") and claimed != found:
        raise WrongContent(
            f"{name} is not {claimed} inside" + ("" if found == ".img" else f" but {found}"),
            "the download or the file is not what its name says: look where it comes from",
        )
    return found


def _declared_size(source: Path, kind: str, name: str, expected: int | None) -> int | None:
    """How large the image says it is; None when its format does not tell and nobody knows."""
    declared = expected
    if kind == ".img":
        declared = source.stat().st_size
    elif kind == ".xz":
        declared = _xz_size(source, name)
    elif kind == ".zip":
        with _zip_reading(name), zipfile.ZipFile(source) as archive:
            declared = _member(archive, name).file_size
    if expected is not None and declared != expected:
        raise WrongContent(
            f"{name} holds an image of {declared} bytes, but its entry says {expected}",
            "the file and its entry do not belong together: check the entry",
        )
    if declared is not None and declared > LARGEST:
        raise WrongContent(f"{name} would grow to {declared} bytes: refused", "no base image is that large")
    return declared


def _xz_size(source: Path, name: str) -> int:
    """From the index at the end of the .xz file (the line `totals` of `xz --robot --list`, xz(1))."""
    try:
        listed = process.run(["xz", "--robot", "--list", "--", source.resolve()]).stdout.decode()
    except process.ToolError as error:
        raise _damaged(name, ".xz", error.message) from error
    totals = next(line.split("\t") for line in listed.splitlines() if line.startswith("totals\t"))
    return int(totals[4])


def _damaged(name: str, kind: str, said: str) -> WrongContent:
    return WrongContent(
        f"{name} is damaged or cut short ({kind}: {said})", "fetch it again, or check the file"
    )


@contextlib.contextmanager
def _decoded(source: Path, kind: str, name: str) -> Iterator[IO[bytes]]:
    """The image inside ``source`` as a stream; PiimgError when the compressed data is damaged."""
    path = source.resolve()
    if kind == ".zip":
        with (
            _zip_reading(name),
            zipfile.ZipFile(path) as archive,
            archive.open(_member(archive, name)) as stream,
        ):
            yield stream
    elif kind == ".gz":
        try:
            with gzip.open(path) as stream:
                yield cast(IO[bytes], stream)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _damaged(name, kind, str(error)) from error
    elif kind == ".img":
        with path.open("rb") as stream:
            yield stream
    else:
        command = ["xz", "-T0", "--memlimit-decompress=1GiB", "-dc"] if kind == ".xz" else ["zstd", "-dcq"]
        try:
            with process.streaming([*command, "--", path]) as stream:
                yield stream
        except process.ToolError as error:
            raise _damaged(name, kind, error.message) from error


@contextlib.contextmanager
def _zip_reading(name: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise _damaged(name, ".zip", str(error)) from error


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The one image in the archive. Its name is never used as a path, so it cannot lead anywhere."""
    images = [info for info in archive.infolist() if info.filename.lower().endswith(".img")]
    if len(images) != 1:
        raise WrongContent(
            f"{name} holds {len(images)} images, not one", "unpack it yourself and give the .img file"
        )
    return images[0]


def _write_sparse(stream: IO[bytes], output: IO[bytes], limit: int, name: str, unpacking: Task) -> Unpacked:
    digest = hashlib.sha256()
    position = 0
    while chunk := stream.read(_CHUNK):
        if position + len(chunk) > limit:
            raise WrongContent(
                f"{name} grows beyond the {limit} bytes it may have: refused",
                "this is a decompression bomb or a damaged file: do not use it",
            )
        digest.update(chunk)
        for start, end in _not_zero(chunk):
            output.seek(position + start)
            output.write(memoryview(chunk)[start:end])
        position += len(chunk)
        unpacking.advance(len(chunk))
    output.truncate(position)
    output.flush()
    os.fsync(output.fileno())
    return Unpacked(digest.hexdigest(), position)


def _not_zero(chunk: bytes) -> Iterator[tuple[int, int]]:
    """The (start, end) ranges of ``chunk``, in whole pages, that hold anything but zeros."""
    if chunk == _ZEROS[: len(chunk)]:
        return
    start = None
    for page in range(0, len(chunk), _PAGE):
        empty = chunk.startswith(_ZEROS[: min(_PAGE, len(chunk) - page)], page)
        if empty and start is not None:
            yield start, page
            start = None
        elif not empty and start is None:
            start = page
    if start is not None:
        yield start, len(chunk)


def _check_size(size: int, declared: int | None, name: str) -> None:
    if declared is not None and size != declared:
        raise WrongContent(
            f"{name} is cut short: {size} of {declared} bytes came out", "fetch it again, or check the file"
        )
    if size == 0 or size % _SECTOR:
        raise WrongContent(
            f"{name} is not a disk image: {size} bytes is not a whole number of {_SECTOR}-byte sectors",
            "give a Raspberry Pi OS image: .img, .img.xz, .img.gz, .img.zst or .zip",
        )
