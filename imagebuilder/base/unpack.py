"""Decode a base image: .img, .xz, .gz, .zst or .zip to a sparse file, in one pass with bounds.

The first bytes decide which format a file is in, and its name must not contradict them. xz decodes with all
cores (Raspberry Pi's images have many independent blocks).
"""

import contextlib
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from imagebuilder.base import archive
from imagebuilder.base.catalogue import WrongContent
from imagebuilder.base.formats import OWN, check_disk_image, kind_of
from imagebuilder.base.space import check_room, writing
from imagebuilder.events import Reporter
from imagebuilder.progress import Task, task
from imagebuilder.system import process

LARGEST = 32 << 30
"""Bytes; no base image is larger (Raspberry Pi OS Full is about 15 GB): more is a decompression bomb, unless
the caller knows better."""

_SECTOR = 512  # bytes; a disk image is a whole number of them
_PAGE = 4096  # bytes; the unit in which zeros become holes
_CHUNK = 1 << 20  # bytes; a multiple of _PAGE
_ZEROS = bytes(_CHUNK)

_MEMORY = 1 << 30  # bytes of memory that a decoder may use
_LISTING = 60.0  # seconds that xz may take to list an archive's blocks


@dataclass(frozen=True)
class Unpacked:
    """The unpacked image: its sha256 (hex) and its size in bytes."""

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
    largest: int | None = None,
) -> Unpacked:
    """Decode ``source`` into the existing empty file ``target``, sparse: blocks of zeros become holes.

    ``name`` is the original file name; ``expected_size`` is the size of the image in bytes, if known, and
    ``largest`` the most that it may be (None: ``LARGEST``).
    Raises PiimgError when the file is damaged, cut short, of another format than its name or larger than it
    declares, or when the disk is full. ``target`` is then incomplete, and the caller removes it.
    """
    kind, largest = kind_of(source, name), largest or LARGEST
    size = _declared_size(source, kind, name, expected_size, largest)
    if size is not None:
        check_room(target.parent, size, f"unpack {name}")
    with task(reporter, "unpack", subject, size) as unpacking:
        # the decoder is the inner one: gzip reports damage by an OSError
        with writing(f"unpack {name}"), _decoded(source, kind, name) as stream, target.open("r+b") as output:
            unpacked = _write_sparse(stream, output, size or largest, kind, name, unpacking)
        _check_size(unpacked.size, size, name)
        return unpacked


def _declared_size(source: Path, kind: str, name: str, expected: int | None, largest: int) -> int | None:
    """The size of the image in bytes by its format, else ``expected``; None when neither is known."""
    declared = expected
    if kind == ".img":
        declared = source.stat().st_size
    elif kind == ".xz":
        declared = _xz_size(source, name)
    elif kind == ".zip":
        with _reporting_damage(source, kind, name):
            declared = archive.find_image(source, name).size
    if expected is not None and declared != expected:
        raise WrongContent(
            f"{name} contains an image of {declared} bytes, but its entry says {expected}",
            "check the entry in images.toml or the catalogue, and the file",
        )
    if declared is not None and declared > largest:
        raise WrongContent(f"{name} would grow to {declared} bytes: refused", "no base image is that large")
    return declared


def _xz_size(source: Path, name: str) -> int:
    """From the index at the end of the .xz file (the line `totals` of `xz --robot --list`, xz(1))."""
    with _reporting_damage(source, ".xz", name):
        listed = process.run(["xz", "--robot", "--list", "--", source.resolve()]).stdout.decode()
    totals = next(line.split("\t") for line in listed.splitlines() if line.startswith("totals\t"))
    return int(totals[4])


@contextlib.contextmanager
def _decoded(source: Path, kind: str, name: str) -> Iterator[IO[bytes]]:
    """The image inside ``source`` as a stream; PiimgError when it cannot be decoded."""
    path = source.resolve()
    memory = f"{_MEMORY >> 20}MiB"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_reporting_damage(path, kind, name))
        match kind:
            case ".zip":
                yield stack.enter_context(archive.open_image(archive.find_image(path, name)))
            case ".gz":
                yield cast(IO[bytes], stack.enter_context(gzip.open(path)))
            case ".xz":
                xz = ("xz", "-T0", f"--memlimit-decompress={memory}", "-dc", "--", path)
                yield stack.enter_context(process.streaming(xz))
            case ".zst":
                zstd = ("zstd", "-dcq", f"--memory={memory}", "--", path)
                yield stack.enter_context(process.streaming(zstd))
            case _:
                yield stack.enter_context(path.open("rb"))


@contextlib.contextmanager
def _reporting_damage(source: Path, kind: str, name: str) -> Iterator[None]:
    """Turn what a decoder reports into a WrongContent: ``source`` is damaged, or valid but not decodable."""
    try:
        yield
    except process.ToolError as error:
        raise _undecodable(source, kind, name, error) or _damaged(name, kind, error.message) from error
    except (archive.DamagedZip, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(name, kind, str(error)) from error


def _damaged(name: str, kind: str, reason: str) -> WrongContent:
    return WrongContent(
        f"{name} is damaged or cut short ({kind}: {reason})", "fetch it again, or check the file"
    )


def _undecodable(source: Path, kind: str, name: str, error: process.ToolError) -> WrongContent | None:
    """The error for a valid file that a decoder refuses, by its messages; None for a damaged file."""
    messages = error.stderr.decode("utf-8", "replace")
    if kind == ".xz" and "Memory usage limit reached" in messages:
        needed = _xz_memory(source)
        unpacking = "xz -d FILE"
    elif window := re.search(r"Window size larger than maximum : ([0-9]{1,20}) >", messages):
        needed = int(window[1])
        unpacking = f"zstd -d --long={max(needed - 1, 1).bit_length()} FILE"
    elif "Unsupported options" in messages:
        text = f"{name} is compressed with options that the installed xz does not know"
        return WrongContent(text, f"install a newer xz-utils, or unpack it elsewhere (xz -d FILE) {OWN}")
    elif "Dictionary mismatch" in messages:
        text = f"{name} is compressed with a zstd dictionary, which is not in the file"
        return WrongContent(text, f"unpack it yourself (zstd -d -D DICTIONARY FILE) {OWN}")
    else:
        return None
    size = f"{-(-needed >> 20)} MiB of memory" if needed else "more memory"
    return WrongContent(
        f"{name} needs {size} to unpack; piimg allows {_MEMORY >> 20} MiB",
        f"unpack it yourself ({unpacking}) {OWN}",
    )


def _xz_memory(source: Path) -> int:
    """Bytes of memory that decoding takes; 0 when xz does not say in time.

    From the line `summary` of `xz --robot --list -vv` (xz(1)): the error of xz 5.4 names 1 MiB in any case.
    """
    command = ("xz", "--robot", "--list", "-vv", "--", source)
    needed = 0
    with (
        contextlib.suppress(process.ToolError),
        process.streaming(command, patience=_LISTING) as lines,
    ):
        for line in lines:  # one for each block
            if line.startswith(b"summary\t"):
                needed = int(line.split(b"\t")[1])
    return needed


def _write_sparse(
    stream: IO[bytes], output: IO[bytes], limit: int, kind: str, name: str, unpacking: Task
) -> Unpacked:
    digest = hashlib.sha256()
    position = 0
    while chunk := stream.read(_CHUNK):
        if position == 0:
            check_disk_image(chunk, name, verb="is" if kind == ".img" else "contains")
        if position + len(chunk) > limit:
            raise WrongContent(
                f"{name} unpacks to more than {limit} bytes: refused",
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
    """The (start, end) ranges of ``chunk``, in whole pages, with other bytes than zeros."""
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
            f"{name} is cut short: it unpacks to {size} of {declared} bytes",
            "fetch it again, or check the file",
        )
    if size == 0 or size % _SECTOR:
        raise WrongContent(
            f"{name} is not a disk image: {size} bytes is not a whole number of {_SECTOR}-byte sectors",
            "give a Raspberry Pi OS image: .img, .img.xz, .img.gz, .img.zst or .zip",
        )
