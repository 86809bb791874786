"""What is put back or removed when packages are installed, so that nodes share no secret and no log.

Also the owners and times of the files, so that the same request gives the same tree.
"""

import contextlib
import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.dressing import chroot
from imagebuilder.image.tree import RootTree

ACCOUNTS = (("/etc/passwd", False), ("/etc/group", True), ("/etc/passwd-", False), ("/etc/group-", True))
"""The files with numbers of accounts; True for those of groups (passwd(5), group(5))."""

_SECRETS = (
    *("/etc/ssh/ssh_host_*", "/etc/munge/munge.key", "/var/lib/dbus/machine-id", "/etc/bind/rndc.key"),
    *("/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret"),
)
"""Patterns of files that each machine has for itself: those that the base image does not have are removed."""

_KEPT = ("/etc/machine-id",)
"""Files that get the content of the base image again."""

_LOGS = (
    *("/var/log/dpkg.log", "/var/log/alternatives.log", "/var/log/apt/history.log", "/var/log/apt/term.log"),
    *("/var/log/fontconfig.log", "/var/log/apt/eipp.log.xz"),
)
"""Logs of the installation: cut to what they were in the base image."""

_LEFTOVERS = (
    *("/var/cache/ldconfig/aux-cache", "/var/cache/apt/pkgcache.bin", "/var/cache/apt/srcpkgcache.bin"),
    *("/var/cache/apt/archives/*.deb", "/var/lib/apt/lists/*_*", "/etc/*.dpkg-dist", "/etc/*/*.dpkg-dist"),
    *("/etc/*.ucf-dist", "/etc/*/*.ucf-dist"),
)
"""Patterns of files that are removed, unless the base image has them."""

_PRIVATE_FOLDERS = ("/etc/ssl/private", "/etc/exim4", "/etc/postfix", "/etc/mosquitto", "/etc/wireguard")
_CAPABILITY = "security.capability"
_HIDDEN = re.compile(r"\.fuse_hidden[0-9a-f]{16,}")  # lib/fuse.c of libfuse 3, hidden_name


@dataclass(frozen=True)
class Before:
    """What the base image has: files by pattern, contents, sizes of logs, and passwd and group."""

    names: frozenset[str]
    contents: Mapping[str, bytes]
    logs: Mapping[str, bytes]
    accounts: tuple[bytes, bytes]


def remember(tree: RootTree) -> Before:
    """What must be as it is after packages are installed."""
    contents = {path: raw for path in _KEPT if (raw := tree.read(path)) is not None}
    logs = {path: raw for path in _LOGS if (raw := tree.read(path)) is not None}
    patterns = (*_SECRETS, *_LEFTOVERS, *(f"{folder}/*" for folder in _PRIVATE_FOLDERS))
    return Before(frozenset(_matching(tree, patterns)), contents, logs, accounts_of(tree))


def accounts_of(tree: RootTree) -> tuple[bytes, bytes]:
    """The contents of passwd and group."""
    return tree.read("/etc/passwd") or b"", tree.read("/etc/group") or b""


def restore(tree: RootTree, before: Before, mtime: int) -> list[str]:
    """Remove secrets, logs and caches that were made. Returns the private files that all nodes will share."""
    for path in _matching(tree, (*_SECRETS, *_LEFTOVERS)):
        if path not in before.names:
            tree.remove(path)
    for path in _KEPT:
        if tree.read(path) != before.contents.get(path):
            if path in before.contents:
                chroot.put(tree, path, before.contents[path], mtime, 0o444)
            else:
                tree.remove(path)
    for path in _LOGS:
        if path in before.logs:
            if tree.read(path) not in (None, before.logs[path]):
                tree.rewrite(path, before.logs[path], mtime)
        else:
            tree.remove(path)
    private = _matching(tree, (f"{folder}/*" for folder in _PRIVATE_FOLDERS))
    return [path for path in private if path not in before.names and _is_key(tree, path)]


def _is_key(tree: RootTree, path: str) -> bool:
    with contextlib.suppress(Exception):
        return b"PRIVATE KEY-----" in (tree.read(path) or b"")
    return False


def _matching(tree: RootTree, patterns: Iterable[str]) -> list[str]:
    """The paths that match one of ``patterns``, whose folders may have one ``*`` of a whole name."""
    found = []
    for pattern in patterns:
        folder, _, name = pattern.rpartition("/")
        folders = [folder]
        if folder.endswith("/*"):
            above = folder.removesuffix("/*")
            folders = [f"{above}/{inner}" for inner in tree.names(above)]
        for one in folders:
            found += [f"{one}/{other}" for other in tree.names(one) if fnmatch.fnmatchcase(other, name)]
    return found


def settle(
    root: Path, users: Mapping[int, int], groups: Mapping[int, int], since: float | None, mtime: int
) -> None:
    """Give files new owners, by their old ones, and those changed after ``since`` the time ``mtime``.

    Modes and capabilities stay: the kernel removes them when the owner changes (chown(2)). With ``since`` no
    program of the image runs any more, and files that FUSE kept for one that had them open are removed.
    """
    device = root.stat().st_dev
    for _, folders, names, folder in os.fwalk(root, follow_symlinks=False):
        inner = {name: os.stat(name, dir_fd=folder, follow_symlinks=False) for name in folders}
        # A folder gets its turn when it is entered. What is mounted here is not of the image.
        folders[:] = [
            name for name, info in inner.items() if info.st_dev == device and stat.S_ISDIR(info.st_mode)
        ]
        links = [name for name, info in inner.items() if stat.S_ISLNK(info.st_mode)]
        for name in (*names, *links, "."):
            if since is not None and _HIDDEN.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):  # FUSE may do it at last
                    os.unlink(name, dir_fd=folder)
                continue
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            uid, gid = users.get(info.st_uid, info.st_uid), groups.get(info.st_gid, info.st_gid)
            if (uid, gid) != (info.st_uid, info.st_gid):
                _give(folder, name, info, uid, gid)
            if since is not None and info.st_mtime >= since:
                os.utime(name, (mtime, mtime), dir_fd=folder, follow_symlinks=False)


def _give(folder: int, name: str, info: os.stat_result, uid: int, gid: int) -> None:
    path = f"/proc/self/fd/{folder}/{name}"
    capability = None
    if stat.S_ISREG(info.st_mode):
        with contextlib.suppress(OSError):
            capability = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
    os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=folder)
    if capability is not None:
        os.setxattr(path, _CAPABILITY, capability, follow_symlinks=False)
