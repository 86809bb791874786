"""Nodes that do not come up: `piimg boot` says why, with what the console said last."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.base.cache import Cache
from imagebuilder.boot.run import bring_up, guest, node_disk, wait_for_login
from imagebuilder.errors import PiimgError
from imagebuilder.events import Silent
from imagebuilder.image.partitions import boot_and_root, read_table
from imagebuilder.image.tree import BootTree
from imagebuilder.system.files import copy_sparse
from tests.support import judge
from tests.support.cluster import Place
from tests.support.waiting import wait_until
from tests.system.boot.conftest import CACHE, RELEASES
from tests.system.boot.rig import laboratory

pytestmark = pytest.mark.boot

Built = Callable[[str], Place]
SHARED = {"PIIMG_CACHE": str(CACHE.folder)}
EPOCH = 1_700_000_000


@pytest.fixture(scope="module")
def images(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of worker2's node image, to be spoiled."""
    place = built(RELEASES[0])
    folder = tmp_path_factory.mktemp("images")
    copy_sparse(place.build / "worker2.img", folder / "worker2.img")
    for suffix in ("json", "bmap"):
        shutil.copy(place.build / f"worker2.{suffix}", folder)
    return folder


@contextmanager
def cmdline(images: Path, words: str) -> Iterator[None]:
    """The image's cmdline.txt with ``words`` at its end, which count; as it was afterwards."""
    image = images / "worker2.img"
    tree = BootTree(image, boot_and_root(read_table(image))[0].start)
    was = tree.read("/cmdline.txt")
    assert was
    tree.rewrite("/cmdline.txt", was.strip() + b" " + words.encode() + b"\n", EPOCH)
    yield
    tree.rewrite("/cmdline.txt", was, EPOCH)


def trouble(place: Place, images: Path, *words: str) -> tuple[str, str]:
    """What `piimg boot` says of worker2, which does not come up: the error and what it shows below it."""
    done = place.run("boot", "--node", "worker2", "--images", images, "--json", *words, env=SHARED)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (node,) = json.loads(done.stdout)["nodes"]
    assert not node["good"] and not any(one["good"] for one in node["checks"])
    return node["error"], node["hint"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("words", "error", "shown"),
    [
        ("init=/bin/false", "Kernel panic - not syncing: Attempted to kill init!", "resize2fs"),
        ("root=PARTUUID=0badcafe-02", "worker2 is off: it switched itself off", "no root partition"),
    ],
)
def test_a_node_that_dies_is_reported_with_its_last_words(
    built: Built, images: Path, words: str, error: str, shown: str
) -> None:
    with cmdline(images, words):
        said, below = trouble(built(RELEASES[0]), images)
    assert error in said
    assert shown in below and "the last lines of its console" in below


@pytest.mark.timeout(600)
def test_a_board_that_is_killed_is_reported(built: Built) -> None:
    place = built(RELEASES[0])
    with laboratory(place, ["worker2"]) as lab:
        node = lab.cluster.node("worker2")
        with guest(lab, node, node_disk(lab, node, place.build / "worker2.img")) as one:
            one.machine.power_on()
            wait_until(lambda: "Linux version" in one.machine.last_start(), 300)
            (board,) = (
                int(process.name)
                for process in Path("/proc").glob("[0-9]*")
                if b"-name\0worker2\0" in cmdline_of(process) and cwd(process) == lab.folder
            )
            os.kill(board, signal.SIGKILL)
            with pytest.raises(PiimgError, match="worker2 is off: QEMU ended") as raised:
                wait_for_login(one)
            assert "the last lines of its console" in raised.value.hint


def cmdline_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def cwd(process: Path) -> Path | None:
    try:
        return (process / "cwd").readlink()
    except OSError:
        return None


@pytest.mark.timeout(1200)
def test_a_disk_that_fills_up_is_reported(built: Built, tmp_path: Path) -> None:
    """The cache is on a disk with room enough to begin; then the node writes more than that."""
    place = built(RELEASES[0])
    judge.said("mount", "-t", "tmpfs", "-o", "size=320m", "small", tmp_path)
    try:
        (tmp_path / "boot").mkdir()
        for kept in CACHE.boot.iterdir():
            if kept.name.startswith(("packages-", "initramfs-")):
                (tmp_path / "boot" / kept.name).symlink_to(kept)
        with laboratory(place, ["worker2"], cache=Cache(tmp_path)) as lab:
            node = lab.cluster.node("worker2")
            with guest(lab, node, node_disk(lab, node, place.build / "worker2.img")) as one:
                bring_up(one, Silent())
                one.login.run(
                    "nohup dd if=/dev/urandom of=/var/tmp/large bs=1M count=400 </dev/null >/dev/null 2>&1 &"
                )
                with pytest.raises(PiimgError, match="no space left in") as raised:
                    while True:
                        one.machine.check()
                        time.sleep(0.5)
                assert "PIIMG_CACHE" in raised.value.hint
    finally:
        judge.said("umount", tmp_path)
