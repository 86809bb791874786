"""Looking into the file systems of a card without mounting it. It may come from anywhere, and may be dying.

So the programs that look (mtools, debugfs) are bounded in time, in memory and in what they say, and what they
say is taken apart with care. They open the device anew each time, and the kernel forgets what it cached of a
disk when its last user closes it: nothing stale is read.
"""

import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image.ext4 import fields_of
from imagebuilder.image.partitions import FAT_TYPES, LINUX_TYPE, Table
from imagebuilder.model import Partition
from imagebuilder.system.process import ToolError, find, streaming
from imagebuilder.text import printable

FAT_PATIENCE = 10.0  # seconds; a dying card can keep a read waiting for minutes
EXT4_PATIENCE = 60.0  # seconds; one run of debugfs looks at everything

_MEMORY = 1 << 30  # bytes a program may take; e2fsprogs believe what a superblock says of its size
_LIMITS = ["prlimit", f"--as={_MEMORY}", "--core=0"]
_STAT_LIMIT = 4 << 20  # bytes debugfs may say of all paths; about 700 each, and a list of extents
_BATCH = 64 << 20  # bytes of content asked for in one run

_STAT = re.compile(
    rb"Inode: \d+ +Type: (?P<kind>[a-z ]+?) +Mode: +(?P<mode>[0-7]+) .*\n"
    rb"Generation:.*\n"
    rb"User: +(?P<uid>\d+) +Group: +(?P<gid>\d+).* Size: (?P<size>\d+)\n"
)
_FAST_LINK = b'\nFast link dest: "'
_LISTED = re.compile(rb"^/\d+/[0-7]+/\d+/\d+/([^/\n]+)/\d*/$", re.MULTILINE)  # a line of debugfs's "ls -p"

_FLASH = "the card is damaged, or not what it says: flash it again"


class Damaged(PiimgError):
    """The file system ``which`` of ``image`` cannot be read."""

    def __init__(self, image: Path, which: Partition, message: str, hint: str = _FLASH) -> None:
        super().__init__(message, hint)
        self.image = image
        self.which = which


class TooLarge(Damaged):
    """What was asked for is larger than it can be on a card of ours."""


@dataclass(frozen=True)
class Found:
    """One path of an ext4 file system, itself: a link at its end is not followed.

    ``kind`` is debugfs's word: regular, directory, symlink, …; ``size`` in bytes; ``target`` is a link's.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    target: bytes = b""


def boot_start(table: Table) -> int | None:
    """Where the FAT boot partition begins, in bytes; None without one."""
    return next((one.start for one in table.slices if one.type in FAT_TYPES), None)


def root_start(table: Table) -> int | None:
    """Where the Linux root partition begins, in bytes; None without one."""
    return next((one.start for one in table.slices if one.type == LINUX_TYPE), None)


def fat_file(image: Path, offset: int, path: str, limit: int) -> bytes | None:
    """The content of ``path`` in the FAT file system at ``offset``; None when there is none.

    Raises Damaged when it cannot be read, and TooLarge when it has more than ``limit`` bytes.
    """
    try:
        return said_of(["mtype", "-i", f"{{}}@@{offset}", _name(path)], image, limit, FAT_PATIENCE)
    except ToolError as error:
        if b"not found" in error.stderr:
            return None
        raise _unreadable(image, Partition.BOOT, error) from error


def fat_is_folder(image: Path, offset: int, path: str) -> bool:
    """Whether ``path`` is a folder of the FAT file system at ``offset``. Raises Damaged as above."""
    try:
        said = said_of(["mdir", "-b", "-i", f"{{}}@@{offset}", _name(path)], image, _STAT_LIMIT, FAT_PATIENCE)
    except ToolError as error:
        if b"not found" in error.stderr:
            return False
        raise _unreadable(image, Partition.BOOT, error) from error
    return said.strip().lower() != f"::{path}".encode().lower()  # of a file it says the file's own name


def fat_names(image: Path, offset: int) -> list[str]:
    """The names at the top of the FAT file system at ``offset``, hidden ones too. Raises Damaged."""
    try:
        said = said_of(["mdir", "-a", "-b", "-i", f"{{}}@@{offset}", "::"], image, _STAT_LIMIT, FAT_PATIENCE)
    except ToolError as error:
        raise _unreadable(image, Partition.BOOT, error) from error
    lines = said.decode("utf-8", "replace").splitlines()
    return [line.removeprefix("::/").removesuffix("/") for line in lines]


def ext4_summary(image: Path, offset: int) -> Mapping[str, str]:
    """The fields of an ext4 superblock as debugfs(8) names them: "Last mounted on", "Filesystem UUID", …

    Raises Damaged when there is no ext4 file system, or it cannot be read.
    """
    (said,) = _ask(image, offset, ["stats -h"], _STAT_LIMIT)
    return fields_of(said)


def ext4_stat(image: Path, offset: int, paths: Sequence[str]) -> Mapping[str, Found]:
    """What stands at each of ``paths``; one that is not there is not in the answer.

    Raises Damaged when there is no ext4 file system, or it cannot be read.
    """
    answers = _ask(image, offset, [f"stat {_quoted(path)}" for path in paths], _STAT_LIMIT)
    parsed = ((path, parse_stat(said)) for path, said in zip(paths, answers, strict=True))
    return {path: found for path, found in parsed if found is not None}


def ext4_names(image: Path, offset: int, folders: Sequence[str]) -> Mapping[str, list[str]]:
    """The names in each of ``folders``, in no order; none where there is no folder.

    A name that is not UTF-8 is left out. Raises Damaged when there is no ext4 file system, or it cannot be
    read.
    """
    answers = _ask(image, offset, [f"ls -p {_quoted(folder)}" for folder in folders], _STAT_LIMIT)
    return {folder: parse_names(said) for folder, said in zip(folders, answers, strict=True)}


def parse_names(said: bytes) -> list[str]:
    """The names in what debugfs's "ls -p" said of a folder, without those of the folder itself. Pure."""
    names = []
    for raw in _LISTED.findall(said):
        try:
            names.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            continue
    return [name for name in names if name not in (".", "..")]


def parse_stat(said: bytes) -> Found | None:
    """What debugfs's "stat" said of a path; None when there is none. Pure."""
    match = _STAT.match(said)
    if match is None:
        return None
    size, target = int(match["size"]), b""
    start = said.find(_FAST_LINK, match.end() - 1)
    if match["kind"] == b"symlink" and start >= 0:
        target = said[start + len(_FAST_LINK) :][:size]
    mode, uid, gid = int(match["mode"], 8), int(match["uid"]), int(match["gid"])
    return Found(match["kind"].decode(), mode, uid, gid, size, target)


def ext4_read(image: Path, offset: int, sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Each path of ``sizes`` and its content: so many bytes, or fewer when it cannot be read to its end.

    ``sizes`` are those that ``ext4_stat`` told. Raises Damaged when it cannot be read at all.
    """
    for paths in _batches(sizes):
        limit = sum(sizes[path] for path in paths) + _STAT_LIMIT
        answers = _ask(image, offset, [f"cat {_quoted(path)}" for path in paths], limit)
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


def _ask(image: Path, offset: int, commands: Sequence[str], limit: int) -> list[bytes]:
    """What debugfs says to each command, in one run.

    debugfs prints a comment as it stands, so one with random digits tells the answers apart, whatever a file
    holds; and before each answer the command.
    """
    mark = f"#{secrets.token_hex(16)}\n"
    script = "".join(f"{mark}{command}\n" for command in ("stat <2>", *commands)) + mark
    handle = os.memfd_create("debugfs-commands")
    try:
        os.write(handle, script.encode())
        argv = ["debugfs", "-f", f"/dev/fd/{handle}", f"{{}}?offset={offset}"]
        said = said_of(argv, image, limit, EXT4_PATIENCE, (handle,))
    except ToolError as error:
        raise _unreadable(image, Partition.ROOT, error) from error
    finally:
        os.close(handle)
    _, root, *answers = (part.partition(b"\n")[2] for part in said.split(mark.encode())[:-1])
    if not root.startswith(b"Inode: 2 ") or len(answers) != len(commands):
        raise _not_opened(image, offset)
    return answers


def said_of(
    argv: Sequence[str], image: Path, limit: int, patience: float, pass_fds: tuple[int, ...] = ()
) -> bytes:
    """What a program says; ``{}`` at the start of an argument stands for ``image``.

    ``image`` is named by descriptor: "@@" or "?" in its own path would be taken for the offset. Raises
    ToolError, TooLarge beyond ``limit`` bytes, and PiimgError when ``image`` cannot be read.
    """
    find(argv[0])
    try:
        with image.open("rb") as stream:
            opened = f"/dev/fd/{stream.fileno()}"
            words = [opened + word[2:] if word.startswith("{}") else word for word in argv]
            with streaming(
                [*_LIMITS, *words],
                env={"MTOOLSRC": "/dev/null"},
                pass_fds=(stream.fileno(), *pass_fds),
                patience=patience,
            ) as output:
                said = output.read(limit + 1)
                if len(said) > limit:
                    which = Partition.ROOT if argv[0] == "debugfs" else Partition.BOOT
                    raise TooLarge(image, which, f"{image.name} holds more than it should in one place")
                return said
    except OSError as error:
        raise PiimgError(
            f"cannot read {image}: {error.strerror}", "check the path and its permissions"
        ) from error


def _quoted(path: str) -> str:
    """A path for debugfs (ss_parse of e2fsprogs: a quote within quotes is doubled). Raises PiimgError."""
    if not path.isprintable():
        raise PiimgError(f"{path!r} cannot be looked for", "build the node again")
    return '"' + path.replace('"', '""') + '"'


def _name(path: str) -> str:
    # mtools takes [ ] as a pattern, as a shell does; * and ? cannot stand in a FAT name.
    return "::" + re.sub(r"([\[\]])", r"\\\1", path)


def _not_opened(image: Path, offset: int) -> Damaged:
    """The error for a file system that debugfs did not open; it does not fail then, and tune2fs does."""
    try:
        said_of(["tune2fs", "-l", f"{{}}?offset={offset}"], image, _STAT_LIMIT, EXT4_PATIENCE)
    except ToolError as error:
        if b"unsupported feature" in error.stderr:
            said = f"the root partition of {image.name} has ext4 features that e2fsprogs here does not know"
            return Damaged(image, Partition.ROOT, said, "a newer e2fsprogs is needed; see: e2fsck -V")
    return _no_ext4(image)


def _no_ext4(image: Path) -> Damaged:
    return Damaged(image, Partition.ROOT, f"the root partition of {image.name} holds no ext4 file system")


def _unreadable(image: Path, which: Partition, error: ToolError) -> Damaged:
    if b"Bad magic number" in error.stderr:
        return _no_ext4(image)
    said = "it took too long" if error.status == -9 else error.message.removeprefix("prlimit: ")
    return Damaged(image, which, f"cannot read the {which} partition of {image.name}: {printable(said, 120)}")
