"""Reading ext4 file systems that are not trusted, without mounting them.

The programs of e2fsprogs read; each run is bounded in bytes, memory and seconds (``untrusted``). Nothing is
attached to the host, and root is not needed for an image file.
"""

import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image.untrusted import Damaged, OutputTooLarge, TooLarge, tool_output, unreadable
from imagebuilder.model import Partition
from imagebuilder.system.process import ToolError

SECONDS = 60.0
"""For one run of debugfs, which may read thousands of files; a dying card can keep a read waiting."""

CHECK_SECONDS = 900.0
"""For one run of e2fsck, which reads all metadata."""

_LISTING = 4 << 20  # bytes debugfs may print of all paths; about 700 each, and a list of extents
_BATCH = 64 << 20  # bytes of content read in one run
_LINKS = 8  # symbolic links followed at most
_LONGEST_LINK = 4096  # bytes (PATH_MAX)

_STAT = re.compile(
    rb"Inode: \d+ +Type: (?P<kind>[a-z ]+?) +Mode: +(?P<mode>[0-7]+) .*\n"
    rb"Generation:.*\n"
    rb"User: +(?P<uid>\d+) +Group: +(?P<gid>\d+).* Size: (?P<size>\d+)\n"
)
_FAST_LINK = b'\nFast link dest: "'
_LISTED = re.compile(rb"^/\d+/[0-7]+/\d+/\d+/([^/\n]+)/\d*/$", re.MULTILINE)  # a line of debugfs's "ls -p"


@dataclass(frozen=True)
class FileStatus:
    """One path of an ext4 file system, itself: a link at its end is not followed.

    ``kind`` is debugfs's word: regular, directory, symlink, …; ``size`` in bytes; ``target`` is a link's,
    empty where it is too long to be kept in the inode.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    target: bytes = b""


def read_file(image: Path, offset: int, path: str, limit: int) -> bytes | None:
    """The content of the file ``path`` of the ext4 file system at ``offset`` bytes of ``image``.

    Symbolic links are followed, within that file system. None when there is no such file. Raises TooLarge
    when it has more than ``limit`` bytes, and Damaged when it cannot be read.
    """
    for _ in range(_LINKS):
        found = stat(image, offset, [path]).get(path)
        if found is None or found.kind not in ("regular", "symlink"):
            return None
        if found.size > (limit if found.kind == "regular" else _LONGEST_LINK):
            raise TooLarge(image, Partition.ROOT)
        if found.kind == "regular":
            return _content(image, offset, path, found.size)
        target = (found.target or _content(image, offset, path, found.size)).decode("utf-8", "replace")
        if not target.isprintable():
            return None  # debugfs has no way to quote it
        path = target if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"
    return None


def _content(image: Path, offset: int, path: str, size: int) -> bytes:
    ((_, content),) = read(image, offset, {path: size})
    return content


def stat(image: Path, offset: int, paths: Sequence[str]) -> Mapping[str, FileStatus]:
    """The status of each of ``paths``; those that do not exist are left out.

    Raises Damaged when there is no ext4 file system, or it cannot be read.
    """
    answers = debugfs(image, offset, [f"stat {_quoted(path)}" for path in paths])
    parsed = ((path, parse_stat(said)) for path, said in zip(paths, answers, strict=True))
    return {path: found for path, found in parsed if found is not None}


def names(image: Path, offset: int, folders: Sequence[str]) -> Mapping[str, list[str]]:
    """The names in each of ``folders``, in no order; none where there is no folder.

    A name that is not UTF-8 is left out. Raises Damaged when there is no ext4 file system, or it cannot be
    read.
    """
    answers = debugfs(image, offset, [f"ls -p {_quoted(folder)}" for folder in folders])
    return {folder: parse_names(said) for folder, said in zip(folders, answers, strict=True)}


def parse_names(said: bytes) -> list[str]:
    """The names in what debugfs's "ls -p" printed of a folder, without "." and "..". Pure."""
    found = []
    for raw in _LISTED.findall(said):
        try:
            found.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            continue
    return [name for name in found if name not in (".", "..")]


def parse_stat(said: bytes) -> FileStatus | None:
    """The status in what debugfs's "stat" printed of a path; None when there is none. Pure."""
    match = _STAT.match(said)
    if match is None:
        return None
    size, target = int(match["size"]), b""
    start = said.find(_FAST_LINK, match.end() - 1)
    if match["kind"] == b"symlink" and start >= 0:
        target = said[start + len(_FAST_LINK) :][:size]
    mode, uid, gid = int(match["mode"], 8), int(match["uid"]), int(match["gid"])
    return FileStatus(match["kind"].decode(), mode, uid, gid, size, target)


def read(image: Path, offset: int, sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Each path of ``sizes`` and its content: so many bytes, or fewer when it cannot be read to its end.

    ``sizes`` are those of ``stat``. Raises Damaged when nothing can be read.
    """
    for paths in _batches(sizes):
        limit = sum(sizes[path] for path in paths) + _LISTING
        answers = debugfs(image, offset, [f"cat {_quoted(path)}" for path in paths], limit)
        yield from zip(paths, answers, strict=True)


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    for path, size in sizes.items():
        if batch and sum(sizes[one] for one in batch) + size > _BATCH:
            yield batch
            batch = []
        batch.append(path)
    if batch:
        yield batch


def debugfs(
    image: Path, offset: int, commands: Sequence[str], limit: int = _LISTING, seconds: float = SECONDS
) -> list[bytes]:
    """What debugfs(8) prints for each of ``commands``, all in one run.

    debugfs prints a comment as it stands, so one with random digits separates the answers, whatever a file
    holds; and before each answer the command. Raises TooLarge, and Damaged.
    """
    mark = f"#{secrets.token_hex(16)}\n"
    script = "".join(f"{mark}{command}\n" for command in ("stat <2>", *commands)) + mark
    handle = os.memfd_create("debugfs-commands")
    try:
        os.write(handle, script.encode())
        argv = ["debugfs", "-f", f"/dev/fd/{handle}", f"{{}}?offset={offset}"]
        said = tool_output(argv, image, limit, seconds, pass_fds=(handle,))
    except OutputTooLarge as error:
        raise TooLarge(image, Partition.ROOT) from error
    except ToolError as error:
        raise _damaged(image, error) from error
    finally:
        os.close(handle)
    _, root, *answers = (part.partition(b"\n")[2] for part in said.split(mark.encode())[:-1])
    if not root.startswith(b"Inode: 2 ") or len(answers) != len(commands):
        superblock(image, offset)  # debugfs does not fail then; tune2fs does, and says why
        raise _no_ext4(image)
    return answers


def superblock(image: Path, offset: int) -> dict[str, str]:
    """The fields of an ext4 superblock as tune2fs(8) names them: "Free blocks", "Block size", …

    Raises Damaged when there is none, or it has features that this e2fsprogs does not know.
    tune2fs rather than dumpe2fs: that of e2fsprogs 1.47.2 (Debian 13) takes an offset for the name of a tag.
    """
    try:
        said = tool_output(["tune2fs", "-l", f"{{}}?offset={offset}"], image, _LISTING, SECONDS)
    except OutputTooLarge as error:
        raise TooLarge(image, Partition.ROOT) from error
    except ToolError as error:
        raise _damaged(image, error) from error
    lines = (line.split(":", 1) for line in said.decode("utf-8", "replace").splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in lines}


def check(image: Path, offset: int, *, fix: bool = False) -> bytes:
    """What e2fsck(8) prints of the file system, all of which it checks; ``fix`` corrects what is safe to.

    Raises ToolError when it is damaged, and OutputTooLarge.
    """
    ok: Collection[int] = (0, 1) if fix else (0,)  # 1: errors were corrected
    argv = ["e2fsck", "-f", "-p" if fix else "-n", f"{{}}?offset={offset}"]
    return tool_output(argv, image, _LISTING, CHECK_SECONDS, ok=ok, write=fix)


def _quoted(path: str) -> str:
    """A path for debugfs (ss_parse of e2fsprogs: a quote within quotes is doubled). Raises PiimgError."""
    if not path.isprintable():
        raise PiimgError(f"{path!r} cannot be looked for", "build the node again")
    return '"' + path.replace('"', '""') + '"'


def _damaged(image: Path, error: ToolError) -> Damaged:
    if b"Bad magic number" in error.stderr:
        return _no_ext4(image)
    if b"unsupported feature" in error.stderr:
        said = f"the root partition of {image.name} has ext4 features that e2fsprogs here does not know"
        return Damaged(image, Partition.ROOT, said, "a newer e2fsprogs is needed; see: e2fsck -V")
    return unreadable(image, Partition.ROOT, error)


def _no_ext4(image: Path) -> Damaged:
    return Damaged(image, Partition.ROOT, f"the root partition of {image.name} holds no ext4 file system")
