"""A bare Debian system, entered by chroot in namespaces of its own; what is done there stays."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER = "alice"

# Everything is mounted in a namespace that ends with the program, and with it all mounts.
ENTER = """
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
if [ "$KERNEL" = yes ]; then
    mount -t proc proc "$PLACE/root/proc"
    mount -t sysfs sysfs "$PLACE/root/sys"
fi
[ "$DEVICES" != host ] || mount --rbind /dev "$PLACE/root/dev"
mount -t tmpfs -o size=$ROOM tmpfs "$PLACE/root/home"
install -d -o 1000 -g 1000 "$PLACE/root/home/alice"
install -d "$PLACE/root/home/root"
exec env -i PATH="$PATH" HOME="/home/$NAME" LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \\
    chroot "$PLACE/root" "$@"
"""


@dataclass(frozen=True)
class Bare:
    """``lower`` are the folders it begins as, the uppermost first; ``place`` keeps what is changed."""

    lower: tuple[Path, ...]
    place: Path

    def run(
        self,
        script: str,
        *,
        user: str = "root",
        devices: str = "host",
        kernel: bool = True,
        room: str = "20g",
        drop: tuple[str, ...] = (),
    ) -> "subprocess.CompletedProcess[str]":
        """Run a shell script as ``user`` in the user's home, which is empty and has ``room``.

        ``devices``: those of the host, or the system's "own", which are next to none. Without ``kernel``
        /proc and /sys are empty. ``drop`` is a program before the shell that takes rights away.
        """
        for name in ("upper", "work", "root"):
            (self.place / name).mkdir(parents=True, exist_ok=True)
        settings = {
            "LOWER": ":".join(map(str, self.lower)),
            "PLACE": str(self.place),
            "DEVICES": devices,
            "KERNEL": "yes" if kernel else "no",
            "ROOM": room,
            "NAME": user,
            "PATH": PATH,
        }
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "--"]
        become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        words = [*own, "sh", "-ec", ENTER, "sh", *drop, *become, "sh", "-c", f"cd; {script}"]
        return subprocess.run(
            words, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def good(self, script: str, **how: Any) -> str:
        """What a script printed; a test fails when the script does."""
        done = self.run(f"set -e; {script}", **how)
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def doctor(self, words: str = "", before: str = "", **how: Any) -> dict[str, dict[str, str]]:
        """For each use that is not ready: what is missing, and what fixes it."""
        done = self.run(f"{before}\nexec piimg doctor --json {words}", **how)
        assert done.stdout, done.stderr
        document = json.loads(done.stdout)
        assert done.returncode == (0 if document["ready"] else 1)
        assert document["uses"]
        return {
            one["use"]: {lack["what"]: lack["fix"] for lack in one["missing"]}
            for one in document["uses"]
            if not one["ready"]
        }

    def fix(self, lacks: dict[str, dict[str, str]], **how: Any) -> None:
        """Run the commands that the doctor named, each once."""
        for command in dict.fromkeys(fix for use in lacks.values() for fix in use.values()):
            self.good(command, **how)
