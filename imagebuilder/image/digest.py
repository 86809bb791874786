"""The tree digest: a sha256 over the file trees of a node image's two partitions, whatever their blocks.

Two builds of the same inputs give the same tree digest, though not the same bytes. It is the sha256 of one
record for each path, in order of partition name and then path, both compared as bytes. A field is a
netstring: its length in decimal, ``:``, its bytes, ``,``. A record is a netstring around these fields:

1. the partition: ``boot`` or ``root``;
2. the path from the partition's root, in the file system's own bytes: ``/`` itself, ``/etc/hostname``;
3. the kind: ``f`` file, ``d`` directory, ``l`` symbolic link, ``c`` or ``b`` character or block device,
   ``p`` named pipe, ``s`` socket;
4. the permission bits with setuid, setgid and sticky, in octal without leading zeros;
5. the owner and 6. the group, in decimal;
7. a file's content as its sha256 in lower-case hex; a link's target; a device's ``major:minor`` in decimal;
   empty for other kinds;
8. the modification time in whole seconds since 1970, only for what the overlay wrote; else empty;
9. each extended attribute, in order of name: a field with its full name (``security.capability``) and one
   with its value.

All paths are included, also ``lost+found``. A hard link is a file like any other. Sizes of directories,
inode numbers, link counts, holes and the times of the base image's own files are not part of it. On the
boot partition, FAT, names are the long ones in UTF-8, mode, owner and group are 0, there are no attributes,
and times are as stored, read as UTC and in steps of two seconds.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image import fat
from imagebuilder.image.untrusted import DAMAGED_BASE
from imagebuilder.model import Partition

_COPY_SECONDS = 600.0  # for copying out all files of a boot partition

_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}


@dataclass(frozen=True)
class TreeEntry:
    """A path of a partition. ``data`` and ``mtime`` are fields 7 and 8 of its record (None: empty)."""

    partition: Partition
    path: bytes
    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    data: bytes = b""
    mtime: int | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


Records = Mapping[tuple[str, bytes], bytes]
"""The record of each path, by the name of its partition and the path."""


def digest(records: Records) -> str:
    """The tree digest of ``records``, given in any order: 64 hex digits."""
    return hashlib.sha256(b"".join(map(records.__getitem__, sorted(records)))).hexdigest()


def records_of(entries: Iterable[TreeEntry]) -> dict[tuple[str, bytes], bytes]:
    """The record of each of ``entries``."""
    return {(entry.partition.value, entry.path): record(entry) for entry in entries}


def record(entry: TreeEntry) -> bytes:
    """The record of a path."""
    fields = [
        entry.partition.value.encode(),
        entry.path,
        entry.kind.encode(),
        b"%o" % entry.mode,
        b"%d" % entry.uid,
        b"%d" % entry.gid,
        entry.data,
        b"" if entry.mtime is None else b"%d" % entry.mtime,
    ]
    for name, value in sorted(entry.xattrs):
        fields += name, value
    return netstring(b"".join(map(netstring, fields)))


def netstring(field: bytes) -> bytes:
    """``field`` as a netstring (cr.yp.to/proto/netstrings.txt)."""
    return b"%d:%b," % (len(field), field)


def netstrings(data: bytes) -> Iterator[bytes]:
    """The fields of ``data``, which are netstrings. Raises ValueError when they are not."""
    position = 0
    while position < len(data):
        colon = data.index(b":", position)
        end = colon + 1 + int(data[position:colon])
        if data[end : end + 1] != b",":
            raise ValueError("no netstring")
        yield data[colon + 1 : end]
        position = end + 1


def walk_root(root: Path, written: Container[bytes] = ()) -> Iterator[TreeEntry]:
    """Every path of the root partition mounted at ``root``; links are not followed.

    ``written`` are the paths that the overlay wrote, as bytes from the partition's root. Raises PiimgError
    when a path cannot be read.
    """
    for path, host, status in walk(root):
        yield _root_entry(path, host, status, written)


def root_entries(root: Path, paths: Iterable[bytes], written: Container[bytes]) -> Iterator[TreeEntry]:
    """Those of ``paths``, real paths from the partition's root, that exist in the partition at ``root``."""
    top = os.fsencode(root.absolute())
    for path in paths:
        host = top + (b"" if path == b"/" else path)
        try:
            status = os.lstat(host)
        except (FileNotFoundError, NotADirectoryError):
            continue
        yield _root_entry(path, host, status, written)


def _root_entry(path: bytes, host: bytes, status: os.stat_result, written: Container[bytes]) -> TreeEntry:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    return TreeEntry(
        Partition.ROOT,
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        _data(host, kind, status),
        _mtime(path, status, written),
        _xattrs(host),
    )


def walk_boot(image: Path, offset: int, folder: Path, written: Container[bytes] = ()) -> Iterator[TreeEntry]:
    """Every path of the FAT boot partition at ``offset`` bytes of an image.

    mtools copies the files out into the empty ``folder``. ``written`` as for ``walk_root``. Raises PiimgError
    when the file system cannot be read.
    """
    _copy_out(image, offset, folder)
    for path, host, status in walk(folder):
        yield _boot_entry(path, host, status, written)


def boot_entries(image: Path, offset: int, folder: Path, paths: Iterable[str]) -> Iterator[TreeEntry]:
    """The files ``paths``, which the overlay wrote, of the FAT boot partition at ``offset`` of an image.

    mtools copies each out into ``folder``. Raises PiimgError when one cannot be read.
    """
    for number, path in enumerate(paths):
        file = folder / str(number)
        argv: list[str | Path] = ["mcopy", "-n", "-m", "-i", fat.place(offset), fat.pattern(path), file]
        fat.mtools(argv, image, seconds=_COPY_SECONDS, largest=image.stat().st_size)
        name = path.encode()
        yield _boot_entry(name, os.fsencode(file), file.lstat(), (name,))


def _boot_entry(path: bytes, host: bytes, status: os.stat_result, written: Container[bytes]) -> TreeEntry:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    return TreeEntry(
        Partition.BOOT, path, kind, data=_data(host, kind, status), mtime=_mtime(path, status, written)
    )


def _copy_out(image: Path, offset: int, folder: Path) -> None:
    if fat.total_size(image, offset) > image.stat().st_size:  # files may share clusters, or claim any size
        raise PiimgError("the files of the boot partition are larger than the image", DAMAGED_BASE)
    argv: list[str | Path] = ["mcopy", "-s", "-n", "-m", "-i", fat.place(offset), "::", folder]
    fat.mtools(argv, image, seconds=_COPY_SECONDS, largest=image.stat().st_size)


def walk(top: Path) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """``top`` and each path below it: the path in the record, the path on this host, and its lstat.

    Paths are bytes, not Path, because an image has 100 000 of them. Raises PiimgError if one is unreadable.
    """
    host = os.fsencode(top.absolute())
    prefix = len(host)
    waiting = [host]
    try:
        yield b"/", host, top.lstat()
        while waiting:
            host = waiting.pop()
            with os.scandir(host) as scan:
                for entry in scan:
                    host = entry.path
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(host)
                    yield host[prefix:], host, status
    except OSError as error:
        raise _unreadable(host, error) from error


def of_file(host: bytes) -> str:
    """The sha256 of a file's content, in hex. Raises PiimgError when it cannot be read."""
    try:
        with open(host, "rb") as stream:  # noqa: PTH123 - a name in bytes
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(host, error) from error


def _data(host: bytes, kind: str, status: os.stat_result) -> bytes:
    if kind in "cb":
        return b"%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
    if kind == "l":
        try:
            return os.readlink(host)  # noqa: PTH115 - a Path would tidy up the target
        except OSError as error:
            raise _unreadable(host, error) from error
    return of_file(host).encode() if kind == "f" else b""


def _mtime(path: bytes, status: os.stat_result, written: Container[bytes]) -> int | None:
    return status.st_mtime_ns // 1_000_000_000 if path in written else None


def _xattrs(host: bytes) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = os.listxattr(host, follow_symlinks=False)
        return tuple((os.fsencode(name), os.getxattr(host, name, follow_symlinks=False)) for name in names)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise _unreadable(host, error) from error


def _unreadable(host: bytes, error: OSError) -> PiimgError:
    name = host.decode("utf-8", "backslashreplace")
    return PiimgError(
        f"cannot read {name} of the image: {error.strerror}", "check the base image with e2fsck -fn"
    )
