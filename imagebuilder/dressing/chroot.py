"""Run programs of an image's own system: with its files and a few devices, and nothing else of the host.

They have no network unless it is asked for, no rights over the host's kernel, a /run and /tmp of their own,
and start no services: invoke-rc.d asks policy-rc.d (Debian Policy 9.3.3), systemctl reads SYSTEMD_OFFLINE.
"""

import contextlib
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image.tree import RootTree
from imagebuilder.image.untrusted import DAMAGED_BASE
from imagebuilder.model import Entry, Kind, Partition
from imagebuilder.system.process import ToolError, run

ARCHIVES = "/run/piimg/archives"
SCRIPTS = "/run/piimg/build.d"
POLICY = "/usr/sbin/policy-rc.d"
_RESOLVER = "/etc/resolv.conf"
_ASIDE = "/etc/.piimg-aside-resolv.conf"  # not the temporary name of RootTree.write_file
_TRACE = "/run/piimg/trace"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
_KEPT = {
    **{"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7},
    **{"setpcap": 8, "linux_immutable": 9, "net_bind_service": 10, "ipc_owner": 15, "sys_chroot": 18},
    **{"mknod": 27, "audit_write": 29, "setfcap": 31},
}
"""What programs may do (capabilities(7), linux/capability.h). Left out: all that reaches the host, such as
sys_admin, net_admin, sys_module, sys_time, sys_boot, and dac_read_search, which opens any file of a file
system by its number (open_by_handle_at(2))."""

_ENTER = Path(__file__).with_name("enter.py")

_PROCESSORS = {"arm64": "cortex-a72"}
"""The processor that QEMU emulates, as that of a Raspberry Pi 4. Debian 13 uses pointer
authentication where the processor has it, which QEMU 7.2 computes in software: perl is 16 times slower."""

_FAILED = "/run/piimg/failed"  # bash writes there which line of a build script failed
_TRAP = f"trap 'echo $LINENO >{_FAILED}' ERR\n"
_ENDING = 10.0  # seconds for programs to end


@dataclass(frozen=True)
class Chroot:
    """The system mounted at ``root``. What programs print is appended to the file ``log``.

    ``epoch`` (seconds since 1970) is the SOURCE_DATE_EPOCH of programs.
    """

    root: Path
    log: Path
    architecture: str
    epoch: int
    release: str

    @contextlib.contextmanager
    def prepared(self, tree: RootTree, archives: Path) -> Iterator[None]:
        """Mount what programs need and keep services from starting while the block runs."""
        for name in ("proc", "dev", "run", "tmp"):
            self._check_folder(name)
        self._mount("proc", "proc", "nosuid,nodev,noexec", "proc")
        for name in ("sys", "sysrq-trigger"):  # kernel settings are the host's
            with contextlib.suppress(ToolError):
                run(["mount", "--bind", self.root / "proc" / name, self.root / "proc" / name])
                run(["mount", "-o", "remount,bind,ro", self.root / "proc" / name])
        self._mount("tmpfs", "tmpfs", "mode=0755,nosuid,nodev", "run")
        self._mount("tmpfs", "tmpfs", "mode=1777,nosuid,nodev", "tmp")
        self._mount("tmpfs", "tmpfs", "mode=0755,nosuid,nodev,noexec", "dev")
        self._make_devices()
        for path in (ARCHIVES, SCRIPTS, "/run/lock"):
            (self.root / path.lstrip("/")).mkdir(parents=True)
        run(["mount", "--bind", archives, self.root / ARCHIVES.lstrip("/")])
        run(["mount", "-o", "remount,bind,ro", self.root / ARCHIVES.lstrip("/")])
        (self.root / _TRACE.lstrip("/")).write_text(_TRAP)
        own = tree.read(POLICY)
        put(tree, POLICY, b"#!/bin/sh\nexit 101\n", self.epoch, 0o755)
        yield  # what is mounted ends with the namespace, and the image is thrown away when the block fails
        if own is None:
            tree.remove(POLICY)
        else:
            put(tree, POLICY, own, self.epoch, 0o755)

    def _check_folder(self, name: str) -> None:
        if not stat.S_ISDIR((self.root / name).lstat().st_mode):
            raise PiimgError(f"/{name} in the image is not a folder", DAMAGED_BASE)

    def _mount(self, kind: str, source: str, options: str, name: str) -> None:
        run(["mount", "-t", kind, "-o", options, source, self.root / name])

    def _make_devices(self) -> None:
        dev = self.root / "dev"
        for name in _DEVICES:  # the host's: a program may make other nodes, but open none of them
            (dev / name).touch()
            run(["mount", "--bind", Path("/dev") / name, dev / name])
        for name in ("pts", "shm"):
            (dev / name).mkdir()
        for name, target in _LINKS.items():
            (dev / name).symlink_to(target)
        with contextlib.suppress(ToolError):  # few programs need a terminal
            run(["mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620", "devpts", dev / "pts"])
        run(["mount", "-t", "tmpfs", "-o", "mode=1777,nosuid,nodev", "tmpfs", dev / "shm"])

    def probe(self) -> None:
        """Raise PiimgError unless this machine can run the image's programs."""
        try:
            self.run(["/bin/true"])
        except ToolError as error:
            raise PiimgError(
                f"this machine cannot run {self.architecture} programs of the base image: {error.message}",
                "sudo apt-get install qemu-user-static binfmt-support",
            ) from error

    def run(self, words: Sequence[str], *, seconds: int = 0, online: bool = False) -> bytes:
        """Run a program of the image for at most ``seconds`` (0: no limit); its output. Raises ToolError."""
        settings = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            "DEBCONF_NONINTERACTIVE_SEEN": "true",
            "SYSTEMD_OFFLINE": "1",
            "SOURCE_DATE_EPOCH": str(self.epoch),
            "RELEASE": self.release,
            "BASH_ENV": _TRACE if seconds else "",
            "QEMU_CPU": _PROCESSORS.get(self.architecture, ""),
        }
        limit = ["timeout", "--kill-after=10", str(seconds)] if seconds else []
        kept = ",".join(map(str, _KEPT.values()))
        argv: list[str | Path] = [
            *["env", "-i", *(f"{name}={value}" for name, value in settings.items() if value)],
            *["unshare", "--mount", "--propagation", "private", *([] if online else ["--net"]), "--"],
            *limit,
            *[sys.executable, "-I", "-S", str(_ENTER), str(self.root), kept, *words],
        ]
        with self.log.open("a+b") as log:
            log.write(f"\n# {' '.join(words)[:2000]}\n".encode())
            log.flush()
            begun, computed = time.monotonic(), _computed()
            status = 0
            try:
                return run(argv, log=log).stdout
            except ToolError as error:
                status = error.status
                raise
            finally:
                took = f"{time.monotonic() - begun:.1f} s, processor time {_computed() - computed:.1f} s"
                log.write(f"\n# exit status {status} after {took}\n".encode())

    @contextlib.contextmanager
    def online(self, tree: RootTree) -> Iterator[None]:
        """Let programs find hosts by name during the block, as the host does."""
        etc = os.open(self.root / "etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            name, aside = Path(_RESOLVER).name, Path(_ASIDE).name
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, aside, src_dir_fd=etc, dst_dir_fd=etc)
            put(tree, _RESOLVER, Path(_RESOLVER).read_bytes(), self.epoch)
            yield
            tree.remove(_RESOLVER)
            with contextlib.suppress(FileNotFoundError):
                os.rename(aside, name, src_dir_fd=etc, dst_dir_fd=etc)
        finally:
            os.close(etc)


def _computed() -> float:
    """The processor time in seconds of all programs that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def failed_line(root: Path, lines: Sequence[str], place: str) -> int:
    """The line of the script ``place`` that failed: by bash's trap or a shell's message; 0 if unknown."""
    pattern = re.compile(rf"{re.escape(place)}: (?:line )?([0-9]{{1,6}})\b")
    found = [match[1] for line in lines if (match := pattern.search(line))]
    with contextlib.suppress(OSError, ValueError):
        return int((root / _FAILED.lstrip("/")).read_text())
    return int(found[-1]) if found else 0


def put(tree: RootTree, path: str, content: bytes, mtime: int, mode: int = 0o644) -> None:
    """Write a file of the image, owned by root."""
    tree.write_file(Entry(Partition.ROOT, path, Kind.FILE, "", mode=mode), content, mtime)


def text(tree: RootTree, path: str) -> str:
    """The text of a file of the image; empty if it does not exist."""
    return (tree.read(path) or b"").decode("utf-8", "replace")


def end_programs(kept: Collection[int]) -> None:
    """Kill all processes of this process namespace, such as servers that a script has started."""
    deadline = time.monotonic() + _ENDING
    while others := [pid for pid in _processes() if pid not in kept]:
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > deadline:
            raise PiimgError(
                "a program that a package or script has started does not end",
                "leave the package out, or let the script end what it starts",
            )
        time.sleep(0.02)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
