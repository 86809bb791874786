"""The layer read-only-root: its program as the first process of a system, in namespaces of its own."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from imagebuilder import resources
from imagebuilder.model import Kind, Release
from tests.integration.overlays import machines, rendered

_MISSING = machines.missing()
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=_MISSING)

LAYER = resources.shipped("overlays") / "read-only-root"
PROGRAM = "usr/local/sbin/piimg-read-only-root"
FSTAB = """proc            /proc           proc    defaults          0       0
PARTUUID=1a2b3c4d-01  /boot/firmware  vfat    defaults          0       2
PARTUUID=1a2b3c4d-02  /               ext4    defaults,noatime  0       1
UUID=9a  /srv/data  ext4  noatime,nofail  0  2
"""

SYSTEM = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mkdir -p usr/local/lib/piimg/root-ro usr/local/lib/piimg/root-rw etc/rpi
cp "$2" usr/local/sbin/piimg-read-only-root
cp "$3" etc/fstab
rm -f usr/sbin/init
cp "$4" usr/sbin/init
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs srv # as something that was mounted before
touch run/mark srv/mark
pivot_root . mnt
cd /
umount --lazy /mnt
exec /usr/local/sbin/piimg-read-only-root quiet splash
"""

INIT = """#!/bin/sh
echo "process $$ $*"
echo "root $(findmnt -nro FSTYPE /) $(findmnt -nro OPTIONS /usr/local/lib/piimg/root-ro | cut -d , -f 1)"
echo "moved $(ls /dev/null /proc/self/comm /run/mark /srv/mark | wc -l)"
touch /changed && echo "changes are taken"
touch /usr/local/lib/piimg/root-ro/changed || echo "root is not written to"
readlink /etc/systemd/system/dphys-swapfile.service
cat /etc/rpi/swap.conf.d/99-read-only-root.conf
sed 's/^/fstab /' /etc/fstab
"""


def started(folder: Path, program: str) -> list[str]:
    """What a system says whose first process is ``program``."""
    files = {"program": program, "fstab": FSTAB, "init": INIT}
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "system").mkdir()
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", SYSTEM, "system"]
    places = [folder / name for name in ("system", *files)]
    done = subprocess.run([*argv, *places], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_root_is_below_an_overlay(tmp_path: Path) -> None:
    said = started(tmp_path, (LAYER / "root" / PROGRAM).read_text())
    before = FSTAB.splitlines()
    assert said == [
        "process 1 quiet splash",
        "root overlay ro",
        "moved 4",
        "changes are taken",
        "root is not written to",
        "/dev/null",
        "[Main]",
        "Mechanism=none",
        f"fstab {before[0]}",
        f"fstab {before[1].replace('defaults', 'defaults,ro')}",
        f"fstab #{before[2]}",
        f"fstab {before[3]}",
    ]


def test_without_overlayfs_the_system_starts_all_the_same(tmp_path: Path) -> None:
    text = (LAYER / "root" / PROGRAM).read_text()
    without = text.replace("mount -t overlay", "mount -t no-such-file-system")
    assert without != text
    said = started(tmp_path, without)
    assert said[0] == "process 1 quiet splash"
    assert [line for line in said if line.startswith("fstab ")] == [
        f"fstab {splitline}" for splitline in FSTAB.splitlines()
    ]


@pytest.mark.parametrize("release", Release)
def test_the_layer_has_its_mount_points(release: Release) -> None:
    cluster = dataclasses.replace(rendered.cluster(), layers=("read-only-root",))
    plan = rendered.node_plan("worker1", release, cluster)
    folders = {entry.path: entry.mode for entry in plan.entries if entry.kind is Kind.DIRECTORY}
    for name in ("root-ro", "root-rw"):
        assert folders[f"/usr/local/lib/piimg/{name}"] == 0o755
    scripts = [path for path in rendered.files(plan) if "/firstboot.d/" in path]
    assert max(scripts).endswith("/99-read-only-root")
    assert rendered.files(plan)[f"/{PROGRAM}"].mode == 0o755
