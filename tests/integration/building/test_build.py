"""Building node images from specimens, judged by sfdisk, debugfs, mtools, e2fsck, fsck.fat and bmaptool."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.system.process import PACKAGES
from tests.conftest import SPECIMENS
from tests.support import compatibility, judge
from tests.support.cluster import PASSPHRASE, PASSWORD, Place
from tests.support.trees import digest_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root"),
    pytest.mark.usefixtures("nothing_held"),
]


@pytest.mark.parametrize("name", [*SPECIMENS, "trixie-preseed"])
def test_every_entry_is_in_the_image(
    name: str, specimen: Callable[[str], Path], place: Place, tmp_path: Path
) -> None:
    base = specimen(name)
    place.edit(r"^# password = .*", 'password = { secret = "user_password" }')
    place.good("build", "--node", "worker2", "--node", "master", "--base", base)
    for node in ("master", "worker2"):
        image = place.build / f"{node}.img"
        judge.check_file_systems(image, tmp_path)
        entries = place.entries(node, name.partition("-")[0])
        assert judge.check_entries(image, entries) > 30
        check_untouched(base, image)
        check_document(place, node, entries_count=len(entries))


def test_a_board_that_may_not_read_a_card_is_named(specimen: Callable[[str], Path], place: Place) -> None:
    place.edit(r'"pi-4b"', '"cm4"')
    done = place.run("build", "--node", "master", "--base", specimen("trixie"))
    assert done.returncode == 0
    assert "master: Compute Module 4 with eMMC cannot read a card" in done.stderr


def check_untouched(base: Path, image: Path) -> None:
    """What must survive: the disk id, what fstab and cmdline.txt call the root, the first-boot words."""
    assert judge.disk_id(image) == judge.disk_id(base)
    partuuid = f"PARTUUID={judge.disk_id(image)}-02".encode()
    assert partuuid in judge.on_root(image, "/etc/fstab")
    before, after = (judge.on_boot(one, "/cmdline.txt") for one in (base, image))
    assert after.count(b"\n") == 1 and partuuid in after
    kept = [word for word in before.split() if word == b"resize" or word.startswith(b"init=")]
    assert kept and set(before.split()) <= set(after.split())
    assert judge.on_root(image, "/etc/machine-id") == judge.on_root(base, "/etc/machine-id")


def check_document(place: Place, node: str, entries_count: int) -> None:
    """NODE.json is complete and holds no secret, and bmaptool accepts NODE.bmap."""
    text = (place.build / f"{node}.json").read_text()
    document = json.loads(text)
    compatibility.check("node.json", document)
    assert len(document["entries"]) == entries_count
    assert len(document["tree_digest"]) == 64 and len(document["base"]["sha256"]) == 64
    for secret in (PASSPHRASE, PASSWORD, "PRIVATE KEY"):
        assert secret not in text
    for entry in document["entries"]:
        assert {"path", "kind", "mode", "layer", "partition", "uid", "gid", "overrides"} <= entry.keys()
        assert (
            entry["secret"] or entry["kind"] in ("link", "directory", "remove", "netplan") or entry["sha256"]
        )
    copy = place.build / "copy.img"
    judge.said(
        "bmaptool", "-q", "copy", "--bmap", place.build / f"{node}.bmap", place.build / f"{node}.img", copy
    )
    copy.unlink()


def test_the_same_inputs_give_the_same_tree_digest(
    specimen: Callable[[str], Path], place: Place, tmp_path: Path
) -> None:
    base = specimen("bookworm")
    for folder in ("one", "two"):
        place.good("build", "--node", "master", "--base", base, "--output", tmp_path / folder)
    digests = {tree_digest(tmp_path / folder / "master.json") for folder in ("one", "two")}
    assert len(digests) == 1
    place.edit("10.0.0.15", "10.0.0.16")
    place.good("build", "--node", "master", "--base", base, "--output", tmp_path / "three")
    assert tree_digest(tmp_path / "three" / "master.json") not in digests


def test_the_tree_digest_is_that_of_the_finished_image(
    specimen: Callable[[str], Path], place: Place, tmp_path: Path
) -> None:
    """test_digest.py shows that debugfs and mtools give the same digest as the walks used here."""
    place.good("build", "--node", "worker1", "--base", specimen("bookworm"))
    found = digest_of(place.build / "worker1.img", place.entries("worker1", "bookworm"))
    assert found == tree_digest(place.build / "worker1.json")


def test_source_date_epoch_is_the_time_of_what_the_overlay_wrote(
    specimen: Callable[[str], Path], place: Place
) -> None:
    base = specimen("bookworm")
    place.good("build", "--node", "worker1", "--base", base, env={"SOURCE_DATE_EPOCH": "1234567890"})
    image = place.build / "worker1.img"
    stat = judge.debugfs(image, 'stat "/etc/hostname"').decode()
    assert "mtime: 0x499602d2" in stat, stat
    listed = judge.said("mdir", "-i", f"{image}@@{judge.places(image).boot}", "::/piimg.json")
    assert "2009-02-13" in listed, listed


def tree_digest(file: Path) -> str:
    return str(json.loads(file.read_text())["tree_digest"])


def test_the_image_grows_when_the_overlay_needs_room(
    specimen: Callable[[str], Path], place: Place, tmp_path: Path
) -> None:
    base = specimen("bookworm")
    large = place.folder / "overlays" / "node-worker3" / "root" / "opt" / "large"
    large.parent.mkdir(parents=True)
    content = os.urandom(1 << 20) * 240
    large.write_bytes(content)
    place.good("build", "--node", "worker3", "--base", base)
    image = place.build / "worker3.img"
    assert image.stat().st_size > base.stat().st_size
    assert judge.on_root(image, "/opt/large") == content
    judge.check_file_systems(image, tmp_path)
    check_untouched(base, image)
    where = judge.places(image)
    assert where.root + where.root_size <= image.stat().st_size


def test_nodes_are_built_side_by_side(specimen: Callable[[str], Path], place: Place, tmp_path: Path) -> None:
    out = place.good("build", "--all", "--jobs", "3", "--base", specimen("bookworm"))
    assert len(out.splitlines()) == 6
    names = ["master", *(f"worker{number}" for number in range(1, 6))]
    for name in names:
        assert judge.on_root(place.build / f"{name}.img", "/etc/hostname") == f"{name}\n".encode()
        judge.check_file_systems(place.build / f"{name}.img", tmp_path)
    keys = {judge.on_root(place.build / f"{n}.img", "/etc/piimg/ssh/ssh_host_ed25519_key") for n in names}
    assert len(keys) == 6
    modes = {(place.build / f"{name}.img").stat().st_mode & 0o777 for name in names}
    assert modes == {0o600}  # the keys are in there


def test_used_zeros_reach_a_card_full_of_ones(
    specimen: Callable[[str], Path], place: Place, tmp_path: Path
) -> None:
    place.good("build", "--node", "worker1", "--base", specimen("bookworm"))
    image = place.build / "worker1.img"
    card = tmp_path / "card.img"
    with card.open("wb") as stream:
        for _ in range(0, image.stat().st_size, 1 << 20):
            stream.write(b"\xff" * (1 << 20))
    judge.said("bmaptool", "-q", "copy", "--bmap", place.build / "worker1.bmap", image, card)
    card_entries = place.entries("worker1", "bookworm")
    judge.check_file_systems(card, tmp_path)
    judge.check_entries(card, card_entries)
    assert digest_of(image) == digest_of(card)


SHIM = """#!/bin/sh
printf '%s\\n' "${{0##*/}} $*" >>{log}
PATH=${{PATH#{folder}:}}
exec "${{0##*/}}" "$@"
"""


def test_no_secret_stands_in_a_command_line(
    specimen: Callable[[str], Path], place: Place, tmp_path: Path
) -> None:
    """Every program that piimg may run is found by way of one that writes its command line down first."""
    shims, log = tmp_path / "shims", tmp_path / "log"
    shims.mkdir()
    for program in PACKAGES:
        (shims / program).write_text(SHIM.format(log=log, folder=shims))
        (shims / program).chmod(0o755)
    path = f"{shims}:{os.environ['PATH']}"
    done = place.run("build", "--node", "master", "--base", specimen("bookworm"), env={"PATH": path})
    assert done.returncode == 0, done.stderr
    seen = log.read_text()
    for program in ("mount", "mcopy", "e2fsck", "umount"):
        assert f"{program} " in seen, seen
    for where in (seen, done.stdout, done.stderr):
        assert PASSPHRASE not in where and "PRIVATE KEY" not in where
