"""Identify the release of Raspberry Pi OS in an image. Pure: functions of the caller read the files."""

import datetime
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from imagebuilder.errors import PiimgError
from imagebuilder.model import Release
from imagebuilder.text import printable

Reader = Callable[[str, int], bytes | None]
"""Returns the content of the file at a path, up to a limit in bytes; None when there is no such file."""

SMALL = 256 << 10  # bytes; a configuration file is smaller
PACKAGES = 64 << 20  # bytes; dpkg's status file

_ISSUE_DATE = re.compile(r"Raspberry Pi reference (\d{4}-\d{2}-\d{2})")
*_FORMER, _LAST = Release
_HINT = f"piimg sets up Raspberry Pi OS (or Debian with its layout): {', '.join(_FORMER)} or {_LAST}"


@dataclass(frozen=True)
class BaseInfo:
    """What the files of a base image state. ``architecture`` is Debian's name, empty when it is unknown."""

    release: Release
    architecture: str
    date: datetime.date | None
    pretty: str


def identify(read_root: Reader, read_boot: Reader) -> BaseInfo:
    """Identify an image by os-release(5) on its root and pi-gen's issue.txt on its boot partition.

    Raises PiimgError when piimg cannot set it up.
    """
    raw = read_root("/etc/os-release", SMALL) or read_root("/usr/lib/os-release", SMALL)
    if raw is None:
        raise PiimgError("the image is not Raspberry Pi OS: it has no /etc/os-release", _HINT)
    fields = os_release(raw.decode("utf-8", "replace"))
    codename = fields.get("VERSION_CODENAME", "")
    pretty = printable(fields.get("PRETTY_NAME") or codename or "an unknown system", 80)
    try:
        release = Release(codename)
    except ValueError:
        raise PiimgError(f"the image is {pretty!r}, which piimg does not know", _HINT) from None
    if read_boot("/cmdline.txt", SMALL) is None:
        raise PiimgError("the image is not for a Raspberry Pi: its boot partition has no cmdline.txt", _HINT)
    issue = (read_boot("/issue.txt", SMALL) or b"").decode("utf-8", "replace")
    return BaseInfo(
        release=release,
        architecture=_architecture(read_root),
        date=issue_date(issue),
        pretty=pretty,
    )


def os_release(text: str) -> dict[str, str]:
    """The fields of an os-release(5) file: shell assignments, one per line; other lines are ignored."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, found, value = line.strip().partition("=")
        if not found or name.startswith("#"):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        fields[name] = words[0] if words else ""
    return fields


def issue_date(text: str) -> datetime.date | None:
    """The date in pi-gen's issue.txt ("Raspberry Pi reference 2025-05-13"); None without one."""
    found = _ISSUE_DATE.search(text)
    try:
        return datetime.date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def _architecture(read_root: Reader) -> str:
    """The first of dpkg's architectures (dpkg(1), --add-architecture), else that of the package dpkg."""
    listed = (read_root("/var/lib/dpkg/arch", SMALL) or b"").split()
    if listed:
        return printable(listed[0].decode("ascii", "replace"), 40)
    status = read_root("/var/lib/dpkg/status", PACKAGES) or b""
    found = re.search(rb"^Package: dpkg\n(?:.+\n){0,50}?Architecture: (\S+)$", status, re.MULTILINE)
    return printable(found[1].decode("ascii", "replace"), 40) if found else ""
