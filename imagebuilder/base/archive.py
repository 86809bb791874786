"""The disk image in a .zip: which member it is, and its content as a stream.

zipfile reads what it can. unzip(1) reads Deflate64, the method of Windows for files above 2 GB, which
zipfile does not have.
"""

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imagebuilder.base.catalogue import IMAGE_SUFFIXES, WrongContent
from imagebuilder.system import process
from imagebuilder.text import printable

# Compression methods: PKWARE APPNOTE 4.4.5.
_BY_ZIPFILE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_BY_UNZIP = {9: "Deflate64"}
_OTHER = {1: "Shrink", 6: "Implode", 93: "Zstandard", 95: "xz", 98: "PPMd"}

_ENCRYPTED = 0x1  # general purpose flag, bit 0: APPNOTE 4.4.4
_LISTED = 5  # members that a message names
_HINT = "unpack it yourself and give the image file: piimg fetch FILE, piimg build --base FILE"


class DamagedZip(Exception):
    """The archive cannot be read to its end."""


@dataclass(frozen=True)
class ZippedImage:
    """The image in the archive ``path``: its place in the list of members, and its size in bytes."""

    path: Path
    index: int
    size: int


def find_image(path: Path, name: str) -> ZippedImage:
    """The one image in the archive ``path``, called ``name`` in errors.

    Raises WrongContent unless exactly one member is an image that can be read, DamagedZip when the archive is
    damaged.
    """
    with _reading(), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    files = [member for member in members if not member.is_dir() and not _is_metadata(member.filename)]
    images = [member for member in files if member.filename.lower().endswith(IMAGE_SUFFIXES)]
    if len(images) != 1:
        listed = ", ".join(printable(member.filename, 60) for member in (images or files)[:_LISTED])
        count = f"{len(images)} images, not one" if images else f"no image ({' or '.join(IMAGE_SUFFIXES)})"
        raise WrongContent(f"{name} contains {count}" + (f": {listed}" if listed else ""), _HINT)
    image = images[0]
    if image.flag_bits & _ENCRYPTED:
        raise WrongContent(f"{name}: the image in it is encrypted with a password", _HINT)
    method = image.compress_type
    if method not in (*_BY_ZIPFILE, *_BY_UNZIP):
        method_name = _OTHER.get(method, f"method {method}")
        raise WrongContent(f"{name}: piimg cannot unpack the image in it, compressed by {method_name}", _HINT)
    return ZippedImage(path, members.index(image), image.file_size)


def _is_metadata(name: str) -> bool:
    """Whether a member is metadata that macOS adds (AppleDouble: "._" and the name of the file)."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


@contextlib.contextmanager
def open_image(image: ZippedImage) -> Iterator[IO[bytes]]:
    """The content of ``image`` as a stream. The member's name is never used as a path.

    Raises DamagedZip, also from the block, and PiimgError when unzip is needed and is not installed.
    """
    with _reading(), zipfile.ZipFile(image.path) as archive:
        member = archive.infolist()[image.index]
        if member.compress_type in _BY_ZIPFILE:
            with archive.open(member) as stream:
                yield stream
        else:
            command = ("unzip", "-qq", "-p", image.path, _pattern(member.filename))
            with process.streaming(command) as stream:
                yield stream


def _pattern(name: str) -> str:
    """A pattern of unzip(1) for the member ``name``, of which nothing can be taken for an option or wildcard.

    It may match other members too. unzip then prints more bytes than the image has, which is refused.
    """
    return re.sub(r"[^A-Za-z0-9/_.]", lambda found: "?" if found[0].isascii() else "*", name)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, process.ToolError) as error:
        raise DamagedZip(error.message if isinstance(error, process.ToolError) else str(error)) from error
