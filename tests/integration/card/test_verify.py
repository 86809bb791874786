"""`piimg verify DEVICE`: never flashed, never booted, or booted since. On real node images."""

import json
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.card.source import open_source
from imagebuilder.system.process import run
from tests.conftest import SPECIMENS
from tests.integration.card import first_boot
from tests.integration.card.conftest import MIB
from tests.integration.card.first_boot import debugfs, put_on_boot
from tests.integration.card.rig import bmaptool_agrees
from tests.integration.card.test_write import flip
from tests.integration.card.verifying import SIZE, Built, as_card, build, copied, reported, verify
from tests.support.judge import on_boot, on_root, places

# --- the three states ---------------------------------------------------------------------------------------


def test_a_card_that_was_flashed_and_never_booted_is_good(worker: Built) -> None:
    code, document = reported(worker, worker.flashed)
    assert (code, document["state"]["state"]) == (0, "flashed and never booted")
    assert (document["state"]["node"], document["cards"][0]["verdict"]) == ("worker1", "good")
    done = verify(worker, worker.flashed)
    assert "worker1, flashed and never booted\n" in done.stdout
    assert done.stdout.rstrip().endswith("good")
    with as_card(worker.flashed) as card:
        assert bmaptool_agrees(open_source(worker.image), card)


@pytest.mark.parametrize(
    "where",
    ["boot code", "disk id", "root partition's size", "cmdline.txt", "superblock", "a file of the root"],
)
def test_a_flipped_byte_is_bad_and_no_sign_of_a_boot(worker: Built, tmp_path: Path, where: str) -> None:
    card = copied(worker.flashed, tmp_path)
    data = worker.image.read_bytes()
    offset = {
        "boot code": 100,
        "disk id": 440,
        "root partition's size": 446 + 16 + 14,
        "cmdline.txt": data.index(on_boot(worker.image, "/cmdline.txt")),
        "superblock": places(worker.image).root + 1024 + 0x88,  # s_last_mounted
        "a file of the root": data.index(on_root(worker.image, "/usr/local/sbin/piimg-firstboot")[:512]),
    }[where]
    with as_card(card) as disk:
        flip(disk, offset)
        assert not bmaptool_agrees(open_source(worker.image), disk)
    code, document = reported(worker, card)
    assert (code, document["state"]["state"]) == (3, "flashed and never booted")
    assert (document["cards"][0]["verdict"], document["cards"][0]["offset"]) == ("bad", offset)


def test_an_empty_card_was_never_flashed(worker: Built, tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.touch()
    os.truncate(card, SIZE)
    code, document = reported(worker, card)
    assert (code, document["state"]["state"], document["cards"]) == (3, "never flashed", [])
    assert "has no partition table" in document["state"]["evidence"][0]
    run(["sfdisk", "--quiet", card], data=b"label: dos\nstart=8192,size=65536,type=c\n")
    run(["mkfs.vfat", "-F", "16", "--offset", "8192", card, "32768"])
    code, document = reported(worker, card)
    assert (code, document["state"]["state"]) == (3, "never flashed")
    assert "which node it carries" in document["state"]["evidence"][0]
    code, document = reported(
        worker, card, "--node", "worker1"
    )  # reported which it should hold: compared as well
    assert (code, document["cards"][0]["verdict"]) == (3, "bad")
    assert document["state"]["state"] == "never flashed"


def test_a_card_of_another_cluster_was_never_flashed_by_this_one(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.booted, tmp_path)
    put_on_boot(card, "/piimg.json", json.dumps({"node": "worker1", "cluster": "another"}).encode())
    done = verify(worker, card)
    assert done.returncode == 3
    assert "never flashed\n  it carries worker1 of another, not one of mycluster" in done.stdout
    put_on_boot(card, "/piimg.json", json.dumps({"node": "worker4", "cluster": "mycluster"}).encode())
    done = verify(worker, card)
    assert (done.returncode, done.stdout) == (2, "")
    assert "worker4 of mycluster, which is not built" in done.stderr
    assert verify(worker, card, "--node", "worker1").returncode == 3
    done = verify(worker, card, "--images", tmp_path)
    assert done.returncode == 2
    assert f"no node is built in {tmp_path}" in done.stderr


def test_a_card_flashed_from_another_build_is_bad_and_says_why(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.flashed, tmp_path)
    identity = json.loads(on_boot(card, "/piimg.json")) | {"manifest": "f" * 64}
    put_on_boot(card, "/piimg.json", json.dumps(identity).encode())
    done = verify(worker, card)
    assert done.returncode == 3
    assert "worker1, flashed and never booted\n" in done.stdout
    assert "note: it was flashed from another manifest" in done.stdout


@pytest.mark.parametrize("release", SPECIMENS)
def test_a_first_boot_is_seen_and_is_no_drift(
    release: str, worker: Built, specimen: Callable[[str], Path], tmp_path: Path
) -> None:
    made = worker if release == "trixie-2026-10" else build(tmp_path, specimen(release), account="pi")
    code, document = reported(made, made.booted)
    state = document["state"]
    assert (code, state["state"], state["drift"], document["cards"]) == (0, "booted since", [], [])
    assert state["notes"] == []
    for sign in (
        "first-boot results, 2 boots, all done",
        "disk id is 1a2b3c4d",
        "grown to the end",
        "last mounted as /",
    ):
        assert any(sign in one for one in state["evidence"]), sign
    consumed = "resize" if release.startswith("trixie") else "init=/usr/lib/raspberrypi-sys-mods/firstboot"
    assert any("cmdline.txt no longer has the words" in one and consumed in one for one in state["evidence"])
    settled = {one["path"] for one in state["expected_changes"]}
    assert {"/ssh", "/userconf.txt", "/var/lib/systemd/rfkill/platform-3f300000.mmcnr:wlan"} <= settled
    assert ("/home/pi/.ssh/authorized_keys" in settled) == (made is worker)
    entries = json.loads((made.place.build / "worker1.json").read_text())["entries"]
    assert state["compared"] >= len(entries) - 3
    done = verify(made, made.booted)
    assert "worker1, booted since\n" in done.stdout
    assert f"no drift: {state['compared']} entries" in done.stdout


def test_a_booted_card_with_nothing_to_compare_is_reported_as_such(worker: Built, tmp_path: Path) -> None:
    for suffix in (".img", ".bmap"):
        (tmp_path / f"worker1{suffix}").symlink_to(worker.image.with_suffix(suffix))
    record = json.loads(worker.image.with_suffix(".json").read_text())
    (tmp_path / "worker1.json").write_text(json.dumps(record | {"entries": []}))
    done = verify(worker, worker.booted, "--images", tmp_path)
    assert done.returncode == 0
    assert "nothing was compared: the record of the node image has no entries" in done.stdout


SIGNS: dict[str, tuple[Callable[[Path], None], str]] = {
    "results": (first_boot.leave_results, "first-boot results"),
    "disk id": (lambda card: first_boot.draw_disk_id(card, "7213e26a"), "disk id"),
    "grown": (first_boot.grow_root, "grown to the end"),
    "mounted": (first_boot.last_mounted_as_root, "last mounted as /"),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_alone_is_evidence(worker: Built, tmp_path: Path, sign: str) -> None:
    card = copied(worker.flashed, tmp_path)
    leave, words = SIGNS[sign]
    leave(card)
    code, document = reported(worker, card)
    assert (code, document["state"]["state"], document["state"]["drift"]) == (0, "booted since", [])
    assert words in document["state"]["evidence"][0]


# --- a card may come from anywhere --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(16))
def test_a_damaged_card_is_judged_in_bounds(worker: Built, tmp_path: Path, seed: int) -> None:
    """Random bytes over what describes its file systems: whatever is said of it, it is said in time."""
    card, chance = copied(worker.booted, tmp_path), random.Random(seed)
    where = places(card)
    begin, length = chance.choice(
        [
            (where.boot, 4096),
            (where.boot + 4096, MIB),
            (where.root + 1024, 1024),
            (where.root + 4096, 8 * MIB),
        ]
    )
    with card.open("r+b") as stream:
        for _ in range(chance.choice([1, 20, 2000])):
            stream.seek(begin + chance.randrange(length))
            stream.write(chance.randbytes(chance.choice([1, 4, 64])))
    began = time.monotonic()
    done = verify(worker, card)
    assert done.returncode in (0, 1, 2, 3)
    assert done.returncode in (0, 3) or "piimg: " in done.stderr
    assert time.monotonic() - began < 90


def test_a_booted_card_that_cannot_be_read_is_not_good(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.booted, tmp_path)
    with card.open("r+b") as stream:
        stream.seek(places(card).root)
        stream.write(bytes(8192))
    code, document = reported(worker, card)
    assert (code, document["state"]["state"]) == (3, "booted since")
    (one,) = document["state"]["drift"]
    assert (one["partition"], one["path"], one["what"]) == ("root", "/", "unreadable")
    assert re.search(r"nothing could be compared: loop\d+: its root partition", verify(worker, card).stdout)


def test_what_a_card_says_is_made_fit_for_a_terminal(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.booted, tmp_path)
    debugfs(card, "rm /etc/localtime", f"symlink /etc/localtime /\x1b[2J\x07{'x' * 200}")
    done = verify(worker, card)
    assert done.returncode == 3
    assert "/?[2J?xxx" in done.stdout and "xxx…" in done.stdout
    assert done.stdout.replace("\n", "").isprintable()


def test_a_file_too_large_to_be_ours_is_not_read_to_its_end(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.booted, tmp_path)
    put_on_boot(card, "/piimg-firstboot.json", b"[" * (2 * MIB))
    put_on_boot(card, "/ssh", bytes(70 * MIB))
    code, document = reported(worker, card)
    assert (code, document["state"]["state"]) == (3, "booted since")
    assert not any("results" in one for one in document["state"]["evidence"])
    assert [(one["path"], one["found"]) for one in document["state"]["drift"]] == [("/ssh", "far too large")]
