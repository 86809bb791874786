"""`piimg cards` and `piimg flash` remember what happened to each card, and never depend on it."""

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.card.source import ImageSource
from imagebuilder.cli.disk_notes import link_notes
from imagebuilder.device.discovery import Disk, disk_from
from imagebuilder.system.process import run
from tests.integration.card.conftest import MIB, ROOT, MakeCard
from tests.integration.card.rig import Rig
from tests.integration.card.running import NODES
from tests.integration.card.test_commands import piimg, slow_flash
from tests.unit.device.test_usb import HUBS

pytestmark = pytest.mark.long

MINUTE = r"\d{4}-\d\d-\d\d \d\d:\d\d"


def remembered(cluster: Path) -> list[dict[str, object]]:
    """The lines of the history, as they stand in the file."""
    (file,) = (cluster / "state").glob("*/cards.jsonl")
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def reported(cluster: Path, disk: Disk) -> dict[str, Any]:
    """What `piimg cards` tells of a card."""
    listed = json.loads(piimg(cluster, "cards", "--virtual", "--json").stdout)["cards"]
    (found,) = [one for one in listed if one["device"] == str(disk.node)]
    assert isinstance(found, dict)
    return found


def flash(cluster: Path, disk: Disk, *more: str) -> tuple[int, str, str]:
    done = piimg(cluster, "flash", disk.node, "-n", "worker1", "--virtual", "-y", *more)
    return done.returncode, done.stdout, done.stderr


def test_a_good_card_has_a_history_and_no_warning(cluster: Path, card: Disk) -> None:
    code, _, said = flash(cluster, card)
    assert code == 0, said
    assert "note:" not in said
    begun, ended = remembered(cluster)
    assert (begun["event"], begun["node"], begun["image"]) == ("begun", "worker1", "0" * 64)
    assert (ended["event"], ended["verdict"], ended["run"]) == ("ended", "good", begun["run"])
    (file,) = (cluster / "state").glob("*/cards.jsonl")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    found = reported(cluster, card)
    assert found["warnings"] == []
    (past,) = found["history"]
    assert (past["verdict"], past["node"], past["image"]) == ("good", "worker1", "0" * 64)
    assert "warning" not in piimg(cluster, "cards", "--virtual").stdout


def test_a_card_that_failed_before_is_warned_of(cluster: Path, make_card: MakeCard, make_faulty: Rig) -> None:
    bad, innocent = make_faulty(fault="lost-write", at=ROOT + 4 * MIB), make_card()
    assert flash(cluster, bad)[0] == 3
    listed = piimg(cluster, "cards", "--virtual").stdout
    warning = rf"this card was bad on {MINUTE} at byte (\d+)"
    found = re.search(rf"^{bad.node}: warning: {warning}$", listed, re.MULTILINE)
    assert found, listed
    assert ROOT + 4 * MIB <= int(found[1]) < ROOT + 5 * MIB
    assert f"{innocent.node}: warning" not in listed
    assert reported(cluster, innocent)["history"] == []
    done = piimg(cluster, "flash", "--all", bad.node, innocent.node, "--virtual")
    assert done.returncode == 2  # nobody to ask
    assert re.search(rf"^piimg: {bad.node}: {warning}: a fake\?$", done.stderr, re.MULTILINE), done.stderr
    assert f"note: {innocent.node}" not in done.stderr


def test_a_run_that_was_killed_is_known_as_interrupted(cluster: Path, make_faulty: Rig) -> None:
    card = make_faulty(delay="0.05")
    with slow_flash(cluster, card) as process:
        (warning,) = reported(cluster, card)["warnings"]
        assert "has been running since" in warning
        process.kill()
        process.wait(30)
    (warning,) = reported(cluster, card)["warnings"]
    assert re.fullmatch(rf"a run on this card was interrupted on {MINUTE}", warning)
    code, _, said = flash(cluster, card)
    assert code == 0, said
    assert re.search(
        rf"^note: {card.node}: a run on this card was interrupted on {MINUTE}: all of its data "
        "is compared or written again$",
        said,
        re.MULTILINE,
    ), said
    assert reported(cluster, card)["warnings"] == []
    assert [one["event"] for one in remembered(cluster)] == ["begun", "begun", "ended"]


def test_without_a_manifest_there_is_no_history(cluster: Path, card: Disk, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    image = cluster / "build" / "worker1.img"
    done = piimg(elsewhere, "flash", card.node, "--image", image, "--virtual", "-y")
    assert done.returncode == 0, done.stderr
    assert "history" not in done.stderr
    assert list(elsewhere.iterdir()) == []
    assert not (cluster / "state").exists()
    listed = piimg(elsewhere, "cards", "--virtual", "--json")
    assert listed.returncode == 0
    assert listed.stderr == ""


def test_an_image_of_ones_own_is_remembered_by_its_name(cluster: Path, card: Disk) -> None:
    done = piimg(cluster, "flash", card.node, "--image", "build/worker1.img", "--virtual", "-y")
    assert done.returncode == 0, done.stderr
    assert [(one["node"], one.get("image")) for one in remembered(cluster)] == [
        ("", "worker1.img"),
        ("", None),
    ]


@pytest.mark.parametrize("state", ["full", "damaged", "not-a-folder", "a-link"])
def test_a_history_that_cannot_be_kept_costs_no_verdict(cluster: Path, card: Disk, state: str) -> None:
    folder = cluster / "state" / "picluster"
    if state == "not-a-folder":
        (cluster / "state").write_text("")
    else:
        folder.mkdir(parents=True)
    if state == "damaged":
        (folder / "cards.jsonl").write_bytes(os.urandom(5000) + b'\n{"event": "begun"')
    if state == "a-link":
        (folder / "cards.jsonl").symlink_to("/dev/full")
    if state == "full":
        run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder])
    try:
        if state == "full":
            fill(folder / "filler")
        code, report, said = flash(cluster, card)
        assert code == 0, said
        assert "good" in report
        assert said.count("cannot save the history of the cards") == (0 if state == "damaged" else 1)
        assert "Traceback" not in said
        assert piimg(cluster, "cards", "--virtual").returncode == 0
        if state == "damaged":
            assert reported(cluster, card)["history"]
    finally:
        if state == "full":
            run(["umount", folder])


def fill(file: Path) -> None:
    """Leave no room on the file system of ``file``."""
    with file.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_with_fewer_at_once_the_report_is_still_in_the_order_of_the_nodes(
    cluster: Path, make_card: MakeCard
) -> None:
    devices = [make_card().node for _ in NODES]
    done = piimg(cluster, "flash", "--all", *devices, "--virtual", "-y", "--json", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert [load["node"] for load in json.loads(done.stdout)["cards"]] == list(NODES)
    assert len(remembered(cluster)) == 2 * len(NODES)


def test_a_virtual_card_is_not_powered_down_and_stays(
    cluster: Path, make_card: MakeCard, make_faulty: Rig
) -> None:
    good, bad = make_card(), make_faulty(fault="lost-write", at=ROOT + 4 * MIB)
    done = piimg(cluster, "flash", "--all", good.node, bad.node, "--virtual", "-y", "--eject")
    assert done.returncode == 3, done.stderr
    assert f"note: {good.node} is not powered down: a loop device has nothing to power down" in done.stderr
    assert f"{bad.node} is not powered down" not in done.stderr  # what is bad stays where it is
    assert reported(cluster, good)["writable"] is True


def test_cards_behind_one_link_are_reported_of_before_the_question(source: ImageSource) -> None:
    record = json.loads((HUBS[0].parent / "two-controllers.json").read_text())
    disks = [disk_from(one["properties"], one["attributes"]) for one in record["disks"]]
    cards = [(disk, source.body) for disk in disks]
    first, second = link_notes(cards, True, None)
    assert first.startswith(
        "/dev/sdb, /dev/sdc, /dev/sdd, /dev/sde share one USB 2 bus (usb1), which carries"
    )
    assert "25 to 40 MB/s in all" in first
    assert second.startswith("/dev/sdf, /dev/sdg share one USB 2 bus (usb3)")
    assert list(link_notes(cards, True, 1)) == []
    assert list(link_notes(cards[-2:], True, None)) == []
    once = next(iter(link_notes(cards, False, None)))
    assert once != first  # without reading back there is half as much to do


def test_a_good_card_passes_the_full_test(cluster: Path, make_card: MakeCard) -> None:
    card = make_card(size=24 * MIB)
    done = piimg(cluster, "cards", "--test", card.node, "--virtual", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    test = json.loads(done.stdout)["test"]
    assert (test["verdict"], test["kept"], test["size"]) == ("good", card.size, card.size)
    assert test["write_rate"] > 0
    assert test["read_rate"] > 0
    (past,) = reported(cluster, card)["history"]
    assert (past["verdict"], past["image"], past["node"]) == ("good", "full test", "")
    shown = piimg(cluster, "cards", "--test", card.node, "--virtual", "--yes").stdout
    assert re.search(rf"{card.node} +25\.2 MB +25\.2 MB .* good$", shown, re.MULTILINE), shown


def test_a_bad_card_does_not_pass_the_full_test(cluster: Path, make_faulty: Rig) -> None:
    bad = make_faulty(fault="lost-write", at=40 * MIB)
    done = piimg(cluster, "cards", "--test", bad.node, "--virtual", "--yes")
    assert done.returncode == 3, done.stderr
    assert re.search(r" bad$", done.stdout, re.MULTILINE), done.stdout
    found = re.search(r"first at byte (\d+)", done.stdout)
    assert found, done.stdout
    assert 40 * MIB <= int(found[1]) < 41 * MIB
    (warning,) = reported(cluster, bad)["warnings"]
    assert re.fullmatch(rf"this card was bad on {MINUTE} at byte {found[1]}", warning)


def test_the_full_test_refuses_and_asks_as_flash_does(cluster: Path, card: Disk) -> None:
    with card.node.open("wb") as stream:
        stream.write(b"precious")
    for arguments, reason in (
        (("--test", card.node), "is a loop device, accepted only with --virtual"),
        (("--test", card.node, "--virtual"), "there is no terminal to ask at"),
        (("--test", cluster / "cluster.toml", "--virtual", "-y"), "is a regular file"),
        (("--test", cluster / "nothing", "--virtual", "-y"), "No such file"),
        (("--yes",), "--yes belongs to --test"),
    ):
        done = piimg(cluster, "cards", *arguments)
        assert done.returncode == 2, done.stderr
        assert reason in done.stderr
    with card.node.open("rb") as stream:
        assert stream.read(8) == b"precious"
    assert not (cluster / "state").exists()
