"""The program that changes an image, in namespaces of its own (namespace.py); process 1 there.

It reads one order (JSON) from standard input, and prints events (JSON, one a line): {"begun": step}, and at
the end {"result": …} or {"error": message, "hint": …}. All that it mounts and starts ends with it.
"""

import base64
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imagebuilder.dressing import accounts, chroot, debian, tidy
from imagebuilder.dressing.apt import STATUS
from imagebuilder.dressing.chroot import Chroot
from imagebuilder.errors import PiimgError
from imagebuilder.image.tree import RootTree, root_tree
from imagebuilder.software import Installed
from imagebuilder.system.mount import is_mounted
from imagebuilder.system.process import ToolError, background, run
from imagebuilder.text import printable

_STATES = "/var/lib/apt/extended_states"
IN_LOG = "the log has all that it printed"
"""A hint; the log's path is put into it."""

_SHOWN = 200  # characters of a program's message
_DOCTOR = "see what is missing with: piimg doctor packages"
_FAULT = "dpkg: error processing "
_PROGRESS = ("Setting up ", "Unpacking ", "Preparing to ", "Selecting ", "(Reading ", "Processing ", "dpkg")
_FUSE_PATIENCE = 600.0  # seconds until fuse2fs has written everything
_POLL = 0.02  # seconds

Order = Mapping[str, Any]


def main() -> None:
    """Carry out the order on standard input; never raises."""
    try:
        order = json.loads(sys.stdin.readline())
        _emit({"result": _dress(order)})
    except PiimgError as error:
        _emit({"error": error.message, "hint": error.hint})
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _emit({"error": f"cannot change the image: {error.strerror}{where}"})


def _emit(event: Mapping[str, object]) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


def _begin(step: str) -> None:
    _emit({"begun": step})


def _dress(order: Order) -> Mapping[str, object]:
    with _mounted(order) as root:
        began = time.time()
        system = Chroot(
            root, Path(order["log"]), order["architecture"], int(order["epoch"]), order["release"]
        )
        socket.sethostname("localhost")
        with root_tree(root, root) as tree, system.prepared(tree, Path(order["archives"])):
            before = tidy.remember(tree)
            system.probe()
            numbers = _install(system, tree, order, before) if order["steps"] else {}
            if order["scripts"]:
                _begin("scripts")
            for script in order["scripts"]:
                _run_script(system, tree, script)
            _begin("tidy")
            _audit(system)
            packages = debian.installed(chroot.text(tree, STATUS))
            shared = tidy.restore(tree, before, int(order["epoch"]))
        chroot.end_programs({os.getpid(), *_SERVERS})
        tidy.settle(root, {}, {}, began, int(order["epoch"]))
        with contextlib.suppress(ToolError):  # a file system on FUSE cannot
            run(["fstrim", root])
    return {
        "packages": [[package.name, package.version, package.architecture] for package in packages],
        "accounts": numbers,
        "shared": shared,
    }


def _install(system: Chroot, tree: RootTree, order: Order, before: tidy.Before) -> Mapping[str, int]:
    """Run dpkg as apt would, then give new accounts their numbers, which are returned by name."""
    steps = order["steps"]
    _begin("install")
    for number, (action, names) in enumerate(steps):
        _dpkg(system, action, names, last=number == len(steps) - 1)
    automatic = [Installed(*one) for one in order["automatic"]]
    states = chroot.text(tree, _STATES)
    chroot.put(tree, _STATES, debian.with_automatic(states, automatic).encode(), int(order["epoch"]))
    changed = accounts.renumbering(before.accounts, tidy.accounts_of(tree))
    if changed.names:
        for path, group in tidy.ACCOUNTS:
            if (content := tree.read(path)) is not None:
                tree.rewrite(path, accounts.with_numbers(content, changed, group=group), int(order["epoch"]))
        tidy.settle(system.root, changed.users, changed.groups, None, int(order["epoch"]))
    return changed.names


def _dpkg(system: Chroot, action: str, names: Sequence[str], last: bool) -> None:
    options = ["dpkg", "--force-confdef", "--force-confold", "--force-unsafe-io"]
    match action:
        case "unpack":
            words = [
                "--no-triggers",
                "--auto-deconfigure",
                "--unpack",
                *(f"{chroot.ARCHIVES}/{n}" for n in names),
            ]
        case "remove":
            words = ["--no-triggers", "--force-depends", "--remove", *names]
        case _:
            words = ["--configure", "--pending"] if last else ["--no-triggers", "--configure", *names]
    try:
        system.run([*options, *words])
        if last and action != "configure":
            system.run([*options, "--configure", "--pending"])
    except ToolError as error:
        raise _package_error(error) from error


def _package_error(error: ToolError) -> PiimgError:
    """The error for dpkg's, which names the package and, a line further, what is wrong with it."""
    lines = error.stdout.decode("utf-8", "replace").splitlines()
    full = any("No space left on device" in line for line in lines)
    found = [at for at, line in enumerate(lines) if _FAULT in line]  # also after what a script prints
    if full:
        return PiimgError("the root partition of the image is full", "install fewer packages, or report this")
    if not found:
        return PiimgError(f"dpkg: {error.message}", IN_LOG)
    words = lines[found[0]].partition(_FAULT)[2].split()
    which = next((word for word in words if word not in ("package", "archive")), "?").rsplit("/", 1)[-1]
    why = " ".join(line.strip() for line in lines[found[0] + 1 : found[0] + 2])
    earlier = next((line.strip() for line in reversed(lines[: found[0]]) if _is_of_a_script(line)), "")
    text = f"{why}; before that: {earlier}" if earlier else why
    return PiimgError(
        f"the package {which} cannot be installed: {printable(text, 2 * _SHOWN)}",
        IN_LOG,
    )


def _is_of_a_script(line: str) -> bool:
    """Whether a line is of a maintainer script, not of dpkg's own progress."""
    return bool(line.strip()) and not line.startswith(_PROGRESS)


def _run_script(system: Chroot, tree: RootTree, script: Mapping[str, Any]) -> None:
    name, source = str(script["name"]), str(script["source"])
    place = f"{chroot.SCRIPTS}/{name}"
    file = system.root / place.lstrip("/")
    file.write_bytes(base64.b64decode(script["content"]))
    file.chmod(0o755)
    limit = int(script["timeout"])
    with system.online(tree) if script["internet"] else contextlib.nullcontext():
        try:
            system.run([place], seconds=limit, online=bool(script["internet"]))
        except ToolError as error:
            raise _script_error(error, system.root, source, place, limit) from error


def _script_error(error: ToolError, root: Path, source: str, place: str, limit: int) -> PiimgError:
    if error.status in (124, 137):
        return PiimgError(
            f"{source} took longer than {limit} seconds",
            'make it quicker, or declare "# timeout: SECONDS" in it',
        )
    lines = error.stdout.decode("utf-8", "replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    line = chroot.failed_line(root, lines, place)
    where = f"{source}:{line}" if line else source
    shown = printable(last.replace(place, Path(source).name), _SHOWN)
    return PiimgError(f"{where}: failed with exit status {error.status}: {shown}", IN_LOG)


def _audit(system: Chroot) -> None:
    """Raise PiimgError if dpkg finds a package that is not completely installed."""
    broken = system.run(["dpkg", "--audit"]).decode("utf-8", "replace").strip()
    if broken:
        lines = [line for line in broken.splitlines() if line.startswith(" ")]
        shown = printable((lines or [broken])[0].strip(), _SHOWN)
        raise PiimgError(
            f"dpkg --audit finds a package that is not installed completely: {shown}",
            "leave the package out, or repair the base image",
        )


_SERVERS: list[int] = []
"""Processes that serve the image's file system and must stay until it is unmounted."""


@contextlib.contextmanager
def _mounted(order: Order) -> Iterator[Path]:
    """Mount the image's root partition; at the end everything is written and unmounted."""
    folder = Path(order["folder"])  # exists; hidden in this namespace only
    _leave(folder)
    run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", folder])
    root = folder / "root"
    root.mkdir()
    if order["device"]:
        options = "nosuid,nodev,noatime,noinit_itable"
        run(["mount", "-t", "ext4", "-o", options, order["device"], root])
        yield root
        _unmount(root)
        return
    # One thread (-s): with several, libfuse can forget to remove a file that was removed while it was open.
    options = f"rw,fakeroot,allow_other,offset={order['offset']}"
    words = ["fuse2fs", "-f", "-s", "-o", options, order["image"], root]
    said = folder / "fuse2fs.log"
    with background(words, said=said) as server:
        _SERVERS.append(server.pid)
        while not is_mounted(root):
            if server.poll() is not None:
                raise PiimgError(f"fuse2fs: {printable(said.read_text()[-_SHOWN:], None)}", _DOCTOR)
            time.sleep(_POLL)
        yield root
        _unmount(root)
        deadline = time.monotonic() + _FUSE_PATIENCE
        while (status := server.poll()) is None:  # it writes the last data after it was unmounted
            if time.monotonic() > deadline:
                raise PiimgError("fuse2fs does not end", "check the free space of this machine's disk")
            time.sleep(_POLL)
    if status != 0:
        raise PiimgError(f"fuse2fs: {printable(said.read_text()[-_SHOWN:], None)}", _DOCTOR)


def _leave(folder: Path) -> None:
    """Give up this namespace's copies of the mounts of other runs of piimg, which could not end theirs."""
    while below := _mounted_at(folder):
        run(["umount", "--lazy", below[-1]])


def _unmount(root: Path) -> None:
    """Unmount all that is mounted at or below ``root``, the latest first."""
    while below := _mounted_at(root):
        run(["umount", below[-1]])


def _mounted_at(folder: Path) -> list[str]:
    """The mount points at or below ``folder`` (proc(5), mountinfo)."""
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point == str(folder) or point.startswith(f"{folder}/")]
