"""`piimg build` as an ordinary user: by fuse2fs and mtools, with the same result as with root."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import NEWEST
from tests.support import judge
from tests.support.cluster import Place, command, make_place
from tests.support.machine import AS_USER, ID, Machine

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="root makes the machine, and the results to compare with"),
    pytest.mark.usefixtures("nothing_held"),
]


def as_user(
    desktop: Machine, place: Place, *words: object, **more: str
) -> "subprocess.CompletedProcess[str]":
    """piimg, run by the ordinary user in the cluster folder."""
    return subprocess.run(
        desktop.entered([sys.executable, "-c", AS_USER, *words], place.folder),
        env={**place.env, "HOME_OF_USER": str(place.folder.parent), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize("name", NEWEST)
def test_the_tree_is_the_same(
    name: str, specimen: Callable[[str], Path], home: Path, desktop: Machine, tmp_path: Path
) -> None:
    """Files, modes, owners, attributes, times; also of a root partition that had to grow."""
    place = make_place(home, home / "cache")
    base = home / "base.img"
    judge.said("cp", "--sparse=always", specimen(name), base)
    large = place.folder / "overlays" / "worker" / "root" / "opt" / "large"
    large.parent.mkdir(parents=True)
    large.write_bytes(os.urandom(1 << 20) * 240)
    nodes = ["--node", "master", "--node", "worker2"]
    place.good("build", *nodes, "--base", base)
    by_root = digests(place.build)
    judge.said("rm", "-r", place.build, place.cache)
    judge.said("chown", "-R", f"{ID}:{ID}", home)
    done = as_user(desktop, place, "build", *nodes, "--base", base)
    assert done.returncode == 0, done.stderr
    assert digests(place.build) == by_root and len(set(by_root)) == 2
    for node in ("master", "worker2"):
        image = place.build / f"{node}.img"
        assert (image.stat().st_uid, image.stat().st_mode & 0o777) == (ID, 0o600)
        judge.check_file_systems(image, tmp_path)
        judge.check_entries(image, place.entries(node, name.partition("-")[0]))
    assert {file.stat().st_uid for file in home.rglob("*")} == {ID}
    assert desktop.run("grep", "-c", "/mnt-", "/proc/mounts").stdout == "0\n"


NEEDLESS = "sudo is not needed"


def test_it_says_when_root_is_needed_for_nothing(
    specimen: Callable[[str], Path], home: Path, desktop: Machine
) -> None:
    """Once, and only where the user who called sudo could do the same."""
    place, base = make_place(home, home / "cache"), specimen("bookworm")
    judge.said("chown", "-R", f"{ID}:{ID}", home)
    words = command("build", "--node", "worker1", "--base", base)

    def said(**env: str) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            desktop.entered(words, place.folder),
            env={**place.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert said(SUDO_UID=str(ID)).count(NEEDLESS) == 1
    assert {file.stat().st_uid for file in place.folder.rglob("*")} == {ID}
    assert NEEDLESS not in said()  # root's own login, or a container
    assert NEEDLESS not in said(SUDO_UID="0")
    assert NEEDLESS not in said(SUDO_UID=str(ID + 1))  # the folder is not theirs
    desktop.good("chmod", "660", "/dev/fuse")
    assert NEEDLESS not in said(SUDO_UID=str(ID))


def digests(folder: Path) -> list[str]:
    files = sorted(folder.glob("*.json"))
    return [json.loads(file.read_text())["tree_digest"] for file in files]
