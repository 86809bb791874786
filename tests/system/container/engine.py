"""podman with a place of its own: nothing of the user's images, containers or settings is seen or touched."""

import contextlib
import resource
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

BASE = "localhost/debian"
IMAGE = "piimg"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

# What podman is used as where it takes such words itself is said on its command line, in engine.sh.
_SETTINGS = """
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
events_logger = "none"
lock_type = "file"
"""

# The base image comes from the host, not from a registry, and what the host trusts is trusted inside.
_SCRIPT = """#!/bin/sh
export CONTAINERS_CONF={folder}/containers.conf
word=$1; shift
case $word in
build) set -- --network=host --build-arg BASE={base} {trusted} "$@" ;;
run) case " $* " in *" --network="*) ;; *) set -- --network=host "$@" ;; esac ;;
esac
exec podman --root {folder}/root --runroot {folder}/run --tmpdir {folder}/tmp --cgroup-manager=cgroupfs \\
    --storage-driver={driver} --runtime=runc "$word" "$@"
"""


@dataclass(frozen=True)
class Engine:
    """podman, as ``script``, and where all that it keeps lies."""

    folder: Path

    @property
    def script(self) -> Path:
        return self.folder / "engine.sh"

    def command(self, *words: object) -> list[str]:
        return [str(self.script), *map(str, words)]

    def run(self, *words: object) -> "subprocess.CompletedProcess[str]":
        """Run podman to its end."""
        return subprocess.run(
            self.command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def good(self, *words: object) -> str:
        """The same, and it must succeed; what it printed."""
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def start(self, *words: object) -> "subprocess.Popen[bytes]":
        """Start podman and do not wait for it."""
        return subprocess.Popen(
            self.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )


def storage_driver(folder: Path) -> str:
    """The storage driver of podman for ``folder``: overlay, where the kernel can mount one there.

    It cannot where the folder is on an overlay itself, as in many containers. Then it is vfs, which copies
    the whole image for each step of a build and for each container.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for part in ("lower", "upper", "work", "all"):
            Path(name, part).mkdir()
        options = f"lowerdir={name}/lower,upperdir={name}/upper,workdir={name}/work"
        argv = ["mount", "-t", "overlay", "-o", options, "overlay", f"{name}/all"]
        if subprocess.run(argv, capture_output=True, check=False).returncode:
            return "vfs"
        subprocess.run(["umount", f"{name}/all"], check=True)
    return "overlay"


def make_engine(folder: Path, archive: Path) -> Engine:
    """An engine in ``folder``, whose base image is the root file system in the tar ``archive``."""
    engine = Engine(folder)
    limits = {
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "processes": 4096,  # podman lowers its own by itself, and without CAP_SYS_RESOURCE no more can be had
    }
    (folder / "containers.conf").write_text(_SETTINGS.format(**limits))
    trusted = ""
    if _CERTIFICATES.exists():
        (folder / "pip.conf").write_text("[global]\ncert = /run/host.crt\n")
        trusted = f"--volume={_CERTIFICATES}:/run/host.crt:ro --volume={folder}/pip.conf:/etc/pip.conf:ro"
    engine.script.write_text(
        _SCRIPT.format(folder=folder, base=BASE, trusted=trusted, driver=storage_driver(folder))
    )
    engine.script.chmod(0o755)
    engine.good("import", archive, BASE)
    return engine


def remove(engine: Engine) -> None:
    """End all that runs, and take everything away. Raises when something of it is still mounted."""
    engine.good("rm", "--all", "--force", "--time=0")
    mounts = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed([mount for mount in mounts if mount.startswith(f"{engine.folder}/")]):
        subprocess.run(["umount", point], check=True)
    subprocess.run(["rm", "-rf", "--one-file-system", engine.folder], check=True)
    top = Path("/sys/fs/cgroup")
    for parent in (*top.glob("libpod_parent"), *top.glob("*/libpod_parent")):
        for group in (parent / "conmon", parent):
            with contextlib.suppress(OSError):  # another podman uses it
                group.rmdir()
