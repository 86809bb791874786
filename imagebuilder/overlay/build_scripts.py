"""Build scripts: the files of a layer's ``build.d/``, run in the base image's own system while it is built.

They declare what they need as first-boot scripts do (docs/first-boot.md), in their first twenty lines.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagebuilder.errors import UsageError
from imagebuilder.overlay import content
from imagebuilder.overlay.layer import FIRSTBOOT_NAME, Layer, read_bytes
from imagebuilder.software import BuildScript

FOLDER = "build.d"
NEEDS = ("none", "internet")
"""What a build script can declare: ``# needs: internet``."""

_HEADER_LINES = 20
_TIMEOUT = 1800  # seconds
_LONGEST = 1 << 20  # bytes
_DECLARED = re.compile(rb"#\s*(needs|timeout):\s*(.*?)\s*$")


def merged(layers: Sequence[Layer]) -> tuple[BuildScript, ...]:
    """The build scripts of ``layers`` in the order of their names; a later layer overrides an earlier one.

    Raises UsageError, naming file and line, for a script that could not run.
    """
    scripts = {script.name: script for layer in layers for script in scripts_of(layer)}
    return tuple(scripts[name] for name in sorted(scripts))


def scripts_of(layer: Layer) -> Iterator[BuildScript]:
    """The build scripts of one layer, in the order of their names. Raises UsageError."""
    folder = layer.folder / FOLDER
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link", "a layer's folders must be real folders")
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir()):
        if file.name != ".gitkeep":
            yield _script(layer, file)


def _script(layer: Layer, file: Path) -> BuildScript:
    name = file.name
    if name.endswith(".j2"):
        raise UsageError(
            f"{file}: a build script is not a template", "it runs once for several nodes: use firstboot.d/"
        )
    if not FIRSTBOOT_NAME.fullmatch(name):
        raise UsageError(
            f"{os.fsencode(file).decode('utf-8', 'replace')!r}: the name of a build script is NN-name",
            "rename it, such as 20-tools; NN is the order",
        )
    if not stat.S_ISREG(file.lstat().st_mode):
        raise UsageError(f"{file} is not a plain file", f"{FOLDER}/ contains scripts only")
    raw = read_bytes(file)
    if len(raw) > _LONGEST:
        raise UsageError(f"{file} is larger than 1 MiB", "get large files by [[downloads]] in layer.toml")
    if not raw.startswith(b"#!"):
        raise UsageError(f"{file}:1: a build script starts with #!", "such as #!/bin/sh")
    content.check(f"/{name}.sh", raw, str(file))
    internet, timeout = False, _TIMEOUT
    for number, line in enumerate(raw.split(b"\n")[:_HEADER_LINES], start=1):
        declared = _DECLARED.match(line)
        value = declared[2].decode("utf-8", "replace") if declared else ""
        if declared and declared[1] == b"needs":
            if value not in NEEDS:
                raise UsageError(
                    f"{file}:{number}: needs: takes one of {', '.join(NEEDS)} in a build script",
                    "a script that needs the LAN or the time runs on the node: move it to firstboot.d/",
                )
            internet = value == "internet"
        elif declared:
            if not re.fullmatch(r"[1-9][0-9]{0,5}", value):
                raise UsageError(
                    f"{file}:{number}: timeout: takes a number of seconds, such as 600", "correct the comment"
                )
            timeout = int(value)
    return BuildScript(name, layer.name, str(file), raw, internet, timeout)
