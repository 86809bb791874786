"""Software that is put into a base image before nodes are built from it: packages, build scripts, downloads.

No I/O.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian Policy 5.6.1
_CHOICES = {"=": "a version", "/": "a release", ":": "an architecture"}  # apt-get(8)
_LONGEST = 200  # characters; the longest name in Debian 13 has 80
_SHOWN = 60  # characters of a wrong value in a message
_URL = re.compile(r"https?://[^\s/?#]+/[^\s]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_package(value: str) -> str:
    """Return ``value`` if it is the name of a Debian package. Raises ValueError otherwise.

    A name that ends in a hyphen is refused: for apt-get(8) it means a removal.
    """
    for mark, what in _CHOICES.items():
        name = value.partition(mark)[0]
        if mark in value and _PACKAGE.fullmatch(name):
            raise ValueError(f"{value[:_SHOWN]!r}: {what} cannot be chosen here; write {name}")
    if value.endswith("-") and _PACKAGE.fullmatch(value):
        raise ValueError(f"{value[:_SHOWN]!r} is not the name of a Debian package: it ends in a hyphen")
    if len(value) > _LONGEST or not _PACKAGE.fullmatch(value):
        lower = value.strip().lower().replace("_", "-").replace(" ", "-")
        meant = f"; is {lower} meant?" if _PACKAGE.fullmatch(lower) and len(lower) < _SHOWN else ""
        raise ValueError(f"{value[:_SHOWN]!r} is not the name of a Debian package{meant}")
    return value


def check_url(value: str) -> str:
    """Return ``value`` if it is an http or https URL of a file. Raises ValueError otherwise."""
    if not _URL.fullmatch(value) or not value.isprintable():
        raise ValueError(f"{value[:_SHOWN]!r} is not a URL such as https://example.org/file")
    return value


def check_sha256(value: str) -> str:
    """Return ``value`` if it is a sha256 in hex, lower case. Raises ValueError otherwise."""
    if not _SHA256.fullmatch(value):
        raise ValueError(f"{value[:_SHOWN]!r} is not a sha256: 64 digits 0-9 and a-f")
    return value


@dataclass(frozen=True)
class BuildScript:
    """A script of a layer's ``build.d/``, run once in the base image before nodes are built from it.

    ``source`` is its file, for messages. ``internet``: it declares ``# needs: internet``. ``timeout`` is in
    seconds.
    """

    name: str
    layer: str
    source: str
    content: bytes = field(repr=False)
    internet: bool = False
    timeout: int = 1800


@dataclass(frozen=True)
class Software:
    """The packages of a node by name, each with the places that name it, and its build scripts by name."""

    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scripts: tuple[BuildScript, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.packages or self.scripts)


@dataclass(frozen=True)
class Download:
    """A file from the internet for an entry. ``unpack``: it is an archive for the folder of the entry."""

    url: str
    sha256: str
    unpack: bool = False


@dataclass(frozen=True)
class Installed:
    """A package that is installed in an image."""

    name: str
    version: str
    architecture: str
