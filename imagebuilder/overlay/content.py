"""Checks of the content of a layer's files, and the default modes of files."""

import re

from imagebuilder.errors import UsageError
from imagebuilder.overlay.layer import FIRSTBOOT_FOLDER

NEEDS = ("none", "lan", "internet", "time")
"""The requirements that a first-boot script can declare: ``# needs: lan``."""

_SUFFIX = r"\.(service|socket|timer|target|path|mount)"
_UTF8 = "save it as UTF-8"
_UNIT = re.compile(rf"/(etc|usr/lib|lib)/systemd/system/[^/]+{_SUFFIX}(\.d/[^/]+\.conf)?")
_PRIVATE = re.compile(
    r"/etc/NetworkManager/system-connections/[^/]+|/etc/netplan/[^/]+"
    r"|.*/ssh_host_[a-z0-9]+_key|.*/\.ssh/[^/]+"
)


def default_mode(path: str, raw: bytes, executable: bool) -> int:
    """The mode of a file at ``path`` of the root partition, if its layer declares none.

    NetworkManager ignores a keyfile that others can read (NetworkManager's settings-keyfile(5)), sudo ignores
    a drop-in that others can write (sudoers(5)), sshd ignores a key that others can read (sshd(8)).
    """
    if _PRIVATE.fullmatch(path):
        return 0o600
    if path.startswith("/etc/sudoers.d/"):
        return 0o440
    return 0o755 if executable or raw.startswith(b"#!") else 0o644


def check(path: str, raw: bytes, source: str) -> None:
    """Raise UsageError (with file and line) for a script or a unit that would fail on the node."""
    if raw.startswith(b"#!") or path.endswith(".sh"):
        _check_script(raw, source)
    if path.startswith(f"{FIRSTBOOT_FOLDER}/"):
        _check_firstboot(raw, source)
    if _UNIT.fullmatch(path):
        parse_unit(raw, source)


def _check_script(raw: bytes, source: str) -> None:
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.endswith(b"\r"):
            raise UsageError(
                f"{source}:{number}: a script with CRLF line ends", f"convert it with: dos2unix {source}"
            )


def _check_firstboot(raw: bytes, source: str) -> None:
    if not raw.startswith(b"#!"):
        raise UsageError(f"{source}:1: a first-boot script starts with #!", "such as #!/bin/sh")
    for number, line in enumerate(raw.split(b"\n"), start=1):
        needs = re.match(rb"#\s*needs:\s*(.*?)\s*$", line)
        if needs and needs[1].decode("utf-8", "replace") not in NEEDS:
            raise UsageError(
                f"{source}:{number}: needs: takes one of {', '.join(NEEDS)}", "correct the comment"
            )


def parse_unit(raw: bytes, source: str) -> dict[tuple[str, str], list[str]]:
    """The values of each (section, key) of a systemd unit. Raises UsageError naming the line at fault.

    The syntax is systemd.syntax(7), which differs from INI files: a key may occur several times, an empty
    value discards the earlier ones, indentation has no meaning, ``#`` and ``;`` start comments, and a
    backslash at the end of a line continues it after any comments.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: a unit must be UTF-8 text (byte {error.start})", _UTF8) from error
    values: dict[tuple[str, str], list[str]] = {}
    section = carried = ""
    for number, line in enumerate([*text.split("\n"), ""], start=1):  # "" ends a continued last line
        stripped = line.strip()
        if stripped[:1] in ("#", ";") or not (stripped or carried):
            continue
        stripped = carried + stripped
        carried = f"{stripped[:-1]} " if stripped.endswith("\\") else ""
        if carried:
            continue
        if header := re.fullmatch(r"\[([A-Za-z0-9-]+)\]", stripped):
            section = header[1]
        elif not section:
            raise UsageError(f"{source}:{number}: a unit's line outside any section", "begin with [Unit]")
        elif setting := re.fullmatch(r"([A-Za-z0-9-]+)\s*=\s*(.*)", stripped):
            earlier = values.get((section, setting[1]), [])
            values[section, setting[1]] = [*earlier, setting[2]] if setting[2] else []
        else:
            raise UsageError(
                f"{source}:{number}: not a unit's KEY=VALUE line: {stripped[:60]!r}", "see systemd.syntax(7)"
            )
    return values
