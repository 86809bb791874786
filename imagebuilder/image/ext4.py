"""Reader of ext4 file systems that are not trusted, without mounting them.

It runs the programs of e2fsprogs, each bounded in bytes, memory and seconds (``untrusted``). It needs no loop
device, and no root for an image file.
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
"""For a run of debugfs, which may read thousands of files; a failing card can delay a read."""

CHECK_SECONDS = 900.0
"""For a run of e2fsck, or of debugfs, that reads all metadata."""

_LISTING = 4 << 20  # bytes debugfs may print of all paths; about 700 each, and a list of extents
_BLOCK_LISTS = 64 << 20  # bytes debugfs may print of block numbers: 25 GB in files
_BATCH = 64 << 20  # bytes of content read in one run
_LINKS = 8  # symbolic links followed at most
_LONGEST_LINK = 4096  # bytes (PATH_MAX)

_STAT = re.compile(
    rb"Inode: \d+ +Type: (?P<kind>[A-Za-z ]+?) +Mode: +(?P<mode>[0-7]+) .*\n"
    rb"Generation:.*\n"
    rb"User: +(?P<uid>-?\d+) +Group: +(?P<gid>-?\d+).* Size: (?P<size>\d+)\n"
)
_GROUP = re.compile(
    rb"block bitmap at (\d+), inode bitmap at (\d+), inode table at (\d+)\n"
    rb" +(\d+) free blocks?, [^\n]*\n(?: +\[([^\]\n]*)\]\n)?"
)  # a group in debugfs's "stats": do_show_super_stats of debugfs.c
_FAST_LINK = b'\nFast link dest: "'
_LISTED = re.compile(rb"^/\d+/[0-7]+/\d+/\d+/([^/\n]+)/\d*/$", re.MULTILINE)  # a line of debugfs's "ls -p"


@dataclass(frozen=True)
class FileStatus:
    """The status of a path of an ext4 file system; a link at its end is not followed.

    ``kind`` is debugfs's word: regular, directory, symlink, …; ``size`` is in bytes; ``target`` is the target
    of a link, or empty if it is too long to be stored in the inode.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    target: bytes = b""


def read_file(image: Path, offset: int, path: str, limit: int) -> bytes | None:
    """The content of the file ``path`` of the ext4 file system at ``offset`` bytes of ``image``.

    Symbolic links are followed within the file system. None if the file does not exist. Raises TooLarge when
    it has more than ``limit`` bytes, and Damaged when it cannot be read.
    """
    for _ in range(_LINKS):
        status = stat(image, offset, [path]).get(path)
        if status is None or status.kind not in ("regular", "symlink"):
            return None
        if status.size > (limit if status.kind == "regular" else _LONGEST_LINK):
            raise TooLarge(image, Partition.ROOT)
        if status.kind == "regular":
            return _content(image, offset, path, status.size)
        target = (status.target or _content(image, offset, path, status.size)).decode("utf-8", "replace")
        if not target.isprintable():
            return None  # debugfs cannot quote it
        path = target if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"
    return None


def _content(image: Path, offset: int, path: str, size: int) -> bytes:
    ((_, content),) = read(image, offset, {path: size})
    return content


def stat(image: Path, offset: int, paths: Sequence[str]) -> Mapping[str, FileStatus]:
    """The status of each of ``paths``; missing paths are omitted.

    Raises Damaged when there is no ext4 file system, or it cannot be read.
    """
    answers = debugfs(image, offset, [f"stat {_quoted(path)}" for path in paths])
    parsed = ((path, parse_stat(answer)) for path, answer in zip(paths, answers, strict=True))
    return {path: status for path, status in parsed if status is not None}


def names(image: Path, offset: int, folders: Sequence[str]) -> Mapping[str, list[str]]:
    """The names in each of ``folders``, unordered; empty if there is no such folder.

    Names that are not UTF-8 are omitted. Raises Damaged when there is no ext4 file system, or it cannot be
    read.
    """
    answers = debugfs(image, offset, [f"ls -p {_quoted(folder)}" for folder in folders])
    return {folder: parse_names(answer) for folder, answer in zip(folders, answers, strict=True)}


def parse_names(output: bytes) -> list[str]:
    """The names in the output of debugfs's "ls -p" for a folder, without "." and "..". No I/O."""
    names = []
    for raw in _LISTED.findall(output):
        try:
            names.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            continue
    return [name for name in names if name not in (".", "..")]


def parse_stat(output: bytes) -> FileStatus | None:
    """The status in the output of debugfs's "stat" for a path; None if it does not exist. No I/O."""
    match = _STAT.match(output)
    if match is None:
        return None
    size, target = int(match["size"]), b""
    start = output.find(_FAST_LINK, match.end() - 1)
    if match["kind"] == b"symlink" and start >= 0:
        target = output[start + len(_FAST_LINK) :][:size]
    # debugfs prints an id above 2^31 as a negative number.
    mode, uid, gid = int(match["mode"], 8), *(int(match[name]) & 0xFFFFFFFF for name in ("uid", "gid"))
    return FileStatus(match["kind"].decode(), mode, uid, gid, size, target)


def read(image: Path, offset: int, sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Each path of ``sizes`` and its content, which is shorter if it cannot be read to its end.

    ``sizes`` are those of ``stat``, in bytes. Raises Damaged when nothing can be read.
    """
    for paths in _batches(sizes):
        limit = sum(sizes[path] for path in paths) + _LISTING
        answers = debugfs(image, offset, [f"cat {_quoted(path)}" for path in paths], limit)
        yield from zip(paths, answers, strict=True)


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    for path, size in sizes.items():
        if batch and sum(sizes[earlier] for earlier in batch) + size > _BATCH:
            yield batch
            batch = []
        batch.append(path)
    if batch:
        yield batch


@dataclass(frozen=True)
class BlockGroup:
    """A block group: the blocks where its bitmaps and its inode table begin, and how many blocks are free.

    ``has_bitmap`` is False while the block bitmap was never written (BLOCK_UNINIT of linux/ext4.h): of the
    group only metadata is in use.
    """

    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free: int
    has_bitmap: bool


def block_groups(image: Path, offset: int) -> list[BlockGroup]:
    """All block groups, in order. debugfs reads all bitmaps first, and checks their checksums.

    Raises Damaged when there is no ext4 file system, or a bitmap cannot be read or has a wrong checksum.
    """
    (said,) = debugfs(image, offset, ["stats"], _BLOCK_LISTS, CHECK_SECONDS)
    groups = []
    for *numbers, flags in _GROUP.findall(said):
        bitmap, inodes, table, free = map(int, numbers)
        groups.append(BlockGroup(bitmap, inodes, table, free, b"Block not init" not in flags))
    return groups


def metadata_of(groups: Sequence[BlockGroup], table: int) -> list[tuple[int, int]]:
    """The bitmaps and inode tables of ``groups``, as (first block, one after the last), unordered.

    ``table`` is the number of blocks of an inode table.
    """
    bitmaps = [(at, at + 1) for group in groups for at in (group.block_bitmap, group.inode_bitmap)]
    return bitmaps + [(group.inode_table, group.inode_table + table) for group in groups]


def fixed_metadata(image: Path, offset: int) -> list[tuple[int, int]]:
    """The bitmaps and inode tables of all groups, as ``metadata_of`` gives them.

    Raises Damaged when there is no ext4 file system, or it cannot be read.
    """
    fields = superblock(image, offset)
    try:
        table = int(fields["Inode blocks per group"])
    except (KeyError, ValueError) as error:
        raise Damaged(image, Partition.ROOT, "its root partition has no complete superblock") from error
    return metadata_of(block_groups(image, offset), table)


def blocks(image: Path, offset: int, inodes: Sequence[int]) -> list[int]:
    """The numbers of all blocks of the files ``inodes``, unordered, also of their extent trees.

    Raises Damaged when there is no ext4 file system, or it cannot be read.
    """
    answers = debugfs(image, offset, [f"blocks <{inode}>" for inode in inodes], _BLOCK_LISTS)
    return [int(number) for answer in answers for number in answer.split()]


def debugfs(
    image: Path, offset: int, commands: Sequence[str], limit: int = _LISTING, seconds: float = SECONDS
) -> list[bytes]:
    """The output of debugfs(8) for each of ``commands``, all in one run.

    debugfs echoes comments and commands. A comment with random digits separates the answers, whatever a file
    contains. Raises TooLarge, and Damaged.
    """
    mark = f"#{secrets.token_hex(16)}\n"
    script = "".join(f"{mark}{command}\n" for command in ("stat <2>", *commands)) + mark
    handle = os.memfd_create("debugfs-commands")
    try:
        os.write(handle, script.encode())
        argv = ["debugfs", "-f", f"/dev/fd/{handle}", f"{{}}?offset={offset}"]
        output = tool_output(argv, image, limit, seconds, pass_fds=(handle,))
    except OutputTooLarge as error:
        raise TooLarge(image, Partition.ROOT) from error
    except ToolError as error:
        raise _damaged(image, error) from error
    finally:
        os.close(handle)
    _, root, *answers = (part.partition(b"\n")[2] for part in output.split(mark.encode())[:-1])
    if not root.startswith(b"Inode: 2 ") or len(answers) != len(commands):
        superblock(
            image, offset
        )  # debugfs does not fail on a damaged superblock; tune2fs does, with a reason
        raise _no_ext4(image)
    return answers


def superblock(image: Path, offset: int) -> dict[str, str]:
    """The fields of an ext4 superblock by tune2fs(8)'s names: "Free blocks", "Block size", …

    Raises Damaged when there is none, or it has features that this e2fsprogs does not know.
    tune2fs is used because dumpe2fs of e2fsprogs 1.47.2 (Debian 13) reads an offset as the name of a tag.
    """
    try:
        output = tool_output(["tune2fs", "-l", f"{{}}?offset={offset}"], image, _LISTING, SECONDS)
    except OutputTooLarge as error:
        raise TooLarge(image, Partition.ROOT) from error
    except ToolError as error:
        raise _damaged(image, error) from error
    lines = (line.split(":", 1) for line in output.decode("utf-8", "replace").splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in lines}


def check(image: Path, offset: int, *, fix: bool = False) -> bytes:
    """The output of e2fsck(8), which checks the whole file system; ``fix`` corrects safe problems.

    Raises ToolError when it is damaged, and OutputTooLarge.
    """
    ok: Collection[int] = (0, 1) if fix else (0,)  # 1: errors were corrected
    argv = ["e2fsck", "-f", "-p" if fix else "-n", f"{{}}?offset={offset}"]
    return tool_output(argv, image, _LISTING, CHECK_SECONDS, ok=ok, write=fix)


def _quoted(path: str) -> str:
    """A path for debugfs (ss_parse of e2fsprogs: a quote within quotes is doubled). Raises PiimgError."""
    if not path.isprintable():
        raise PiimgError(f"{path!r} cannot be looked up", "build the node again")
    return '"' + path.replace('"', '""') + '"'


def _damaged(image: Path, error: ToolError) -> Damaged:
    if b"Bad magic number" in error.stderr:
        return _no_ext4(image)
    if b"unsupported feature" in error.stderr:
        problem = "its root partition has ext4 features that this e2fsprogs does not know"
        return Damaged(image, Partition.ROOT, problem, "install a newer e2fsprogs; see: e2fsck -V")
    return unreadable(image, Partition.ROOT, error)


def _no_ext4(image: Path) -> Damaged:
    return Damaged(image, Partition.ROOT, "its root partition has no ext4 file system")
