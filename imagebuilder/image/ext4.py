"""Looking into an image without mounting it: any user can, nothing is attached, nothing can leak."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system.process import ToolError, run

_LINKS = 8  # symbolic links followed at most
_LARGEST = 64 << 20  # bytes; what is looked into is read into memory
_LINK_TARGET = re.compile(rb'Fast link dest: "(.*)"')


def ext4_file(image: Path, offset: int, path: str) -> bytes | None:
    """The content of ``path`` in the ext4 file system at ``offset``, or None; symbolic links are followed.

    Raises PiimgError when there is no ext4 file system.
    """
    for _ in range(_LINKS):
        said = _debugfs(image, offset, f'stat "{path}"')
        if b"Type: regular" in said:
            size = re.search(rb"\bSize: (\d+)", said)
            if size is None or int(size[1]) > _LARGEST:
                raise PiimgError(f"{path} in the image is larger than 64 MiB", "is this base image whole?")
            return _debugfs(image, offset, f'cat "{path}"')
        target = _LINK_TARGET.search(said)
        if not target:
            return None
        name = target[1].decode("utf-8", "replace")
        if '"' in name or not name.isprintable():
            return None  # debugfs has no way to quote it
        path = name if name.startswith("/") else f"{path.rpartition('/')[0]}/{name}"
    return None


def _debugfs(image: Path, offset: int, command: str) -> bytes:
    try:
        done = run_at(["debugfs", "-R", command], image, offset)
    except ToolError as error:
        raise _no_ext4(image) from error
    if b"Bad magic number" in done.stderr or b"Filesystem not open" in done.stderr:
        raise _no_ext4(image)
    return done.stdout


def run_at(
    argv: list[str], image: Path, offset: int, *, ok: Sequence[int] = (0,), write: bool = False
) -> "subprocess.CompletedProcess[bytes]":
    """Run a program of e2fsprogs on the ext4 file system at ``offset`` bytes of ``image``.

    Named by descriptor: a "?" in the image's own path would be taken for the option. ``ok`` are the exit
    statuses that are no failure. Raises ToolError, and OSError when the image cannot be opened.
    """
    with image.open("r+b" if write else "rb") as stream:
        device = f"/dev/fd/{stream.fileno()}?offset={offset}"
        return run([*argv, device], pass_fds=(stream.fileno(),), ok=ok)


def _no_ext4(image: Path) -> PiimgError:
    return PiimgError(
        f"the second partition of {image.name} holds no ext4 file system",
        "is this Raspberry Pi OS, and whole?",
    )


def superblock(image: Path, offset: int) -> dict[str, str]:
    """The fields of an ext4 superblock as tune2fs(8) names them: "Free blocks", "Block size", …

    Raises PiimgError when there is none.
    """
    try:
        return fields_at(image, offset)
    except ToolError as error:
        raise _no_ext4(image) from error


def fields_at(image: Path, offset: int) -> dict[str, str]:
    """The same. Raises ToolError when there is none, or it has features that are not known here.

    Not asked of dumpe2fs: that of e2fsprogs 1.47.2, Debian 13's, takes an offset for the name of a tag.
    """
    return fields_of(run_at(["tune2fs", "-l"], image, offset).stdout)


def fields_of(said: bytes) -> dict[str, str]:
    """The fields of a superblock as a program of e2fsprogs lists them: a name, a colon and a value a line."""
    lines = (line.split(":", 1) for line in said.decode("utf-8", "replace").splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in lines}
