"""Small machines for the tests: namespaces of their own for network, mounts, processes and the host name.

A machine sees the host's files through overlays, so it can be given users, keys and settings, and run the
host's nft, sshd and sudo, without any of it reaching the host. Or it is a Debian system of its own, with
what is installed there. Its first process ends with it, and takes every other process, mount and network
interface along.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagebuilder.model import NodePlan
from tests.integration.overlays import rendered

_UNSHARE = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
_WRITABLE = ("/etc", "/usr/local", "/var", "/home", "/root")

_HOSTS = """
set -e
mount -t tmpfs tmpfs "$1"
for folder in {folders}; do
    mkdir -p "$1$folder.upper" "$1$folder.work"
    mount -t overlay overlay -o "lowerdir=$folder,upperdir=$1$folder.upper,workdir=$1$folder.work" "$folder"
done
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
""".format(folders=" ".join(_WRITABLE))

_OWN = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$3,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p var/lib/docker run/old
mount -t tmpfs tmpfs var/lib/docker  # overlays do not lie on overlays
pivot_root . run/old
cd /
umount --lazy run/old
rmdir run/old
"""

_RUN = """
mkdir -p /run/sshd /run/lock
hostname "$2"
ip link set lo up
echo ready
mkfifo /run/forever
while :; do read -r _ <>/run/forever; done  # bash, so that orphans are reaped
"""


def missing() -> str:
    """What this host lacks to run machines, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    probe = subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False)
    if probe.returncode:
        return f"needs namespaces: {probe.stderr.decode().strip()}"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "needs overlayfs"
    return ""


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


class Machine:
    """A running machine. ``pid`` is its first process, as the host counts."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in this machine."""
        return ["nsenter", f"--target={self.pid}", "--all", "--", *command]

    def run(
        self, *command: str, data: bytes = b"", ok: Sequence[int] | None = (0,), timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; ``ok`` are the exit statuses expected (None: any)."""
        done = subprocess.run(
            self.inside(command), input=data, capture_output=True, check=False, timeout=timeout
        )
        text = subprocess.CompletedProcess(
            command,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        assert ok is None or done.returncode in ok, (command, text.returncode, text.stdout, text.stderr)
        return text

    def shell(self, script: str, ok: Sequence[int] | None = (0,)) -> str:
        """Run a shell script and return what it printed."""
        return self.run("bash", "-c", script, ok=ok).stdout

    @contextlib.contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command in the background, with pipes; killed at the end if it still runs."""
        process = subprocess.Popen(
            self.inside(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            # nsenter waits for the process it started in the machine, and does not pass a signal on
            for child in _children(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def pids(self, name: str) -> list[int]:
        """The processes called ``name`` in this machine, as it counts."""
        return [int(line) for line in self.run("ps", "-C", name, "-o", "pid=", ok=None).stdout.split()]

    def kill(self, name: str) -> None:
        """SIGKILL every process called ``name`` in this machine; there must be one."""
        found = self.pids(name)
        assert found, f"{self.name} runs no {name}"
        self.run("kill", "-KILL", *map(str, found), ok=(0, 1))  # one may have ended meanwhile

    def install(self, planned: NodePlan) -> None:
        """Give the machine the files of a node's plan, with their modes and owners."""
        self.run("tar", "-xf", "-", "-C", "/", "--no-overwrite-dir", data=rendered.tar(planned))


@contextlib.contextmanager
def machine(name: str, folder: Path, system: Path | None = None) -> Iterator[Machine]:
    """A machine; ``folder`` is an empty folder of the test's own, ``system`` an unpacked Debian to run."""
    start = (_HOSTS if system is None else _OWN) + _RUN
    process = subprocess.Popen(
        [*_UNSHARE, "bash", "-c", start, "machine", str(folder), name, str(system or "/")],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", f"the machine {name} did not start"
        yield Machine(name, _children(process.pid)[0])
    finally:
        process.kill()
        process.wait()


def cable(one: Machine, port: str, other: Machine, other_port: str) -> None:
    """Join two machines by a cable from ``port`` to ``other_port``."""
    # from the host's side: a machine does not see the other's processes
    into_one = ["nsenter", f"--target={one.pid}", "--net"]
    ends = ["name", port, "type", "veth", "peer", "name", other_port, "netns", f"/proc/{other.pid}/ns/net"]
    subprocess.run([*into_one, "ip", "link", "add", *ends], check=True)
    one.run("ip", "link", "set", port, "up")
    other.run("ip", "link", "set", other_port, "up")
