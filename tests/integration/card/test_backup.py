"""`piimg backup`: real virtual cards, judged by zstd, sha256sum, bmaptool, e2fsck, fsck.fat and cmp."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from imagebuilder.base import unpack as unpacking
from imagebuilder.card.verification import disk_to_back_up
from imagebuilder.cli import image_file
from imagebuilder.cli.progress.choice import renderer
from imagebuilder.cli.session import Session
from imagebuilder.device.discovery import Disk
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image import bmap
from imagebuilder.image.allocation import used_ranges
from imagebuilder.system import loop
from imagebuilder.system.process import run
from tests.integration.card.backing_up import NAME, backed_up, in_process, unpacked
from tests.integration.card.conftest import CARD_SIZE, MIB, ROOT, ROOT_SIZE, MakeCard, MakePart, mounted
from tests.integration.card.faults import When
from tests.integration.card.running import command, environment
from tests.integration.card.test_commands import Ended, piimg
from tests.support.judge import check_file_systems, said

IMAGE_SIZE = ROOT + ROOT_SIZE


def written_to(disk: Disk) -> str:
    """Sectors that were ever written to the device (Documentation/admin-guide/iostats.rst, field 7)."""
    return Path(f"/sys/block/{disk.name}/stat").read_text().split()[6]


# --- what is in it ------------------------------------------------------------------------------------------


def test_a_backup_has_what_is_in_use_and_nothing_else(used_card: Disk, shelf: Path) -> None:
    before = Path(used_card.backing).stat()
    written = written_to(used_card)
    done = backed_up(used_card, shelf, "--json")
    assert done.returncode == 0, done.stderr
    assert written_to(used_card) == written
    assert Path(used_card.backing).stat().st_mtime_ns == before.st_mtime_ns

    packed = shelf / NAME
    assert sorted(path.name for path in shelf.iterdir()) == [
        NAME, f"{NAME}.bmap", f"{NAME}.json", f"{NAME}.sha256",
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in shelf.iterdir()} == {0o600}
    said("zstd", "-tq", packed)
    said("sh", "-c", f"cd {shelf} && sha256sum --check --strict {NAME}.sha256")

    image, used = unpacked(packed), []
    assert image.stat().st_size == IMAGE_SIZE
    with Path(used_card.backing).open("rb") as card, image.open("rb") as ours:
        at = 0
        for start, end in [*used_ranges(image), (IMAGE_SIZE, IMAGE_SIZE)]:
            assert not os.pread(ours.fileno(), start - at, at).strip(b"\0")
            assert os.pread(ours.fileno(), end - start, start) == os.pread(card.fileno(), end - start, start)
            used.append((start, end))
            at = end
    assert b"deleted!" * 8 not in image.read_bytes()
    check_file_systems(image, shelf)
    block_map = bmap.read(shelf / f"{NAME}.bmap")
    covered = {byte for part in block_map for byte in range(part.start, part.end, 4096)}
    assert covered == {byte for start, end in used for byte in range(start, end, 4096)}
    said("bmaptool", "copy", "--bmap", f"{packed}.bmap", image, "/dev/null")

    document = json.loads(done.stdout)
    assert document == json.loads((shelf / f"{NAME}.json").read_text())
    assert (document["node"], document["cluster"]) == ("worker1", "picluster")
    assert document["card"]["size"] == CARD_SIZE
    assert document["image"] == {
        "file": NAME,
        "size": IMAGE_SIZE,
        "used": block_map.used,
        "packed": packed.stat().st_size,
        "sha256": said("sha256sum", packed).split()[0],
    }
    assert [part["whole"] for part in document["partitions"]] == [None, None]


def test_back_to_a_card_in_two_commands(
    used_card: Disk, make_card: MakeCard, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIIMG_CACHE", str(shelf / "cache"))
    assert backed_up(used_card, shelf).returncode == 0
    card = make_card()
    done = piimg(shelf, "flash", card.node, "--image", NAME, "--virtual", "-y", "--json")
    assert done.returncode == 0, done.stderr
    used = bmap.read(shelf / f"{NAME}.bmap").used
    (report,) = json.loads(done.stdout)["cards"]
    assert (report["verdict"], report["written"] + report["skipped"]) == ("good", used)
    (kept,) = (shelf / "cache" / "bases").glob("*.img")
    assert kept.stat().st_mode & 0o777 == 0o400  # it has the node's keys
    said("bmaptool", "copy", "--bmap", f"{shelf / NAME}.bmap", card.node, "/dev/null")
    medium = shelf / "medium"
    run(["dd", f"if={card.backing}", f"of={medium}", "bs=1M", f"count={IMAGE_SIZE // MIB}", "conv=sparse"])
    check_file_systems(medium, shelf)
    assert piimg(shelf, "verify", card.node, "--image", NAME).returncode == 0
    small = make_card(size=IMAGE_SIZE - MIB)
    done = piimg(shelf, "flash", small.node, "--image", NAME, "--virtual", "-y")
    assert done.returncode == 2 and "it is too small" in done.stderr


def test_bmaptool_writes_a_backup_by_the_map_that_it_finds(
    used_card: Disk, make_card: MakeCard, shelf: Path
) -> None:
    assert backed_up(used_card, shelf).returncode == 0
    card = make_card()
    said("bmaptool", "copy", shelf / NAME, card.node)
    said("bmaptool", "copy", "--bmap", f"{shelf / NAME}.bmap", card.node, "/dev/null")


def test_a_card_that_was_not_shut_down_is_taken_as_a_whole(used_card: Disk, shelf: Path) -> None:
    run(["debugfs", "-w", "-R", "feature needs_recovery", f"{used_card.backing}?offset={ROOT}"])
    done = backed_up(used_card, shelf)
    assert done.returncode == 0, done.stderr
    assert "all 29.4 MB of partition 2 are taken: not cleanly unmounted" in done.stderr
    length = ["--bytes", str(ROOT_SIZE), "--ignore-initial", str(ROOT)]
    said("cmp", *length, unpacked(shelf / NAME), used_card.backing)
    assert json.loads((shelf / f"{NAME}.json").read_text())["partitions"][1]["whole"]


def test_a_card_without_a_table_is_taken_as_a_whole(make_card: MakeCard, shelf: Path) -> None:
    disk = make_card(size=64 * MIB)
    Path(disk.backing).write_bytes(os.urandom(64 * MIB))
    done = backed_up(disk, shelf)
    assert done.returncode == 0, done.stderr
    assert "all 67.1 MB of it are taken" in done.stderr
    said("cmp", unpacked(shelf / NAME), disk.backing)


def test_an_image_larger_than_any_base_is_unpacked_as_its_map_allows(
    used_card: Disk, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backed_up(used_card, shelf).returncode == 0
    monkeypatch.setenv("PIIMG_CACHE", str(shelf / "cache"))
    for module in (unpacking, image_file):
        monkeypatch.setattr(module, "LARGEST", 16 * MIB)
    with renderer("plain") as shown:
        session = Session(shown)
        with image_file.opened_image(session, shelf / NAME) as source:
            assert source.size == IMAGE_SIZE
        run(["rm", "-r", shelf / "cache", f"{shelf / NAME}.bmap"])
        with (
            pytest.raises(PiimgError, match="unpacks to more than"),
            image_file.opened_image(session, shelf / NAME),
        ):
            pass


# --- what is refused ----------------------------------------------------------------------------------------


def test_what_is_refused_before_anything_is_read(used_card: Disk, shelf: Path, make_card: MakeCard) -> None:
    other = shelf / "other.img"
    other.touch()
    for device, name, text in (
        (used_card.node, "worker1.img", "the name of a backup ends in .img.zst"),
        (used_card.node, "-", "the name of a backup ends in .img.zst"),
        (used_card.node, "gone/worker1.img.zst", "there is no folder gone"),
        (other, NAME, "is a regular file, not a card"),
        (shelf / "none", NAME, "No such file"),
    ):
        done = piimg(shelf, "backup", device, name)
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr
    device = shelf / "disk.img.zst"
    device.symlink_to(make_card().node)
    done = piimg(shelf, "backup", used_card.node, device.name, "--force")
    assert done.returncode == 2 and "it is a block device" in done.stderr
    assert sorted(path.name for path in shelf.iterdir()) == ["disk.img.zst", "other.img"]


@pytest.mark.parametrize("suffix", ["", ".bmap", ".sha256", ".json"])
def test_nothing_is_replaced_without_force(used_card: Disk, shelf: Path, suffix: str) -> None:
    file = shelf / f"{NAME}{suffix}"
    file.write_text("mine")
    done = backed_up(used_card, shelf)
    assert done.returncode == 2 and f"{file.name} exists" in done.stderr and "--force" in done.stderr
    assert file.read_text() == "mine" and list(shelf.iterdir()) == [file]
    assert backed_up(used_card, shelf, "--force").returncode == 0
    said("zstd", "-tq", shelf / NAME)
    assert len(list(shelf.iterdir())) == 4


def test_a_mounted_card_is_refused(
    card: Disk, make_partitioned: MakePart, shelf: Path, tmp_path: Path
) -> None:
    part = make_partitioned(card)
    with mounted(part, tmp_path / "point") as point:
        for folder in (shelf, point):
            done = piimg(folder, "backup", card.node, NAME)
            assert done.returncode == 2 and "is mounted and may change while it is read" in done.stderr
            assert f"sudo umount {point}" in done.stderr
    assert not list(shelf.iterdir())


def test_a_card_that_is_open_for_writing_is_refused(used_card: Disk, shelf: Path) -> None:
    with used_card.node.open("ab", buffering=0) as stream:
        holding = subprocess.Popen(["sleep", "100"], stdout=stream)
    try:
        done = backed_up(used_card, shelf)
    finally:
        holding.kill()
        holding.wait()
    assert done.returncode == 2 and "open for writing by sleep" in done.stderr
    assert not list(shelf.iterdir())


def test_a_card_whose_writing_was_interrupted_is_refused(card: Disk, shelf: Path) -> None:
    with Path(card.backing).open("r+b") as stream:
        stream.write(b"piimg is writing worker1 of picluster here\n")
    done = backed_up(card, shelf)
    assert done.returncode == 1 and "the writing of worker1 of picluster to it was interrupted" in done.stderr


def test_a_partition_behind_the_end_of_the_card(used_card: Disk, make_card: MakeCard, shelf: Path) -> None:
    small = make_card(size=IMAGE_SIZE - MIB)
    run(["dd", f"if={used_card.backing}", f"of={small.backing}", "bs=1M", "count=40", "conv=notrunc"])
    done = backed_up(small, shelf)
    assert done.returncode == 1 and f"a partition ends {MIB} bytes behind its end" in done.stderr
    assert not list(shelf.iterdir())


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_under_sudo_the_user_owns_the_files(
    used_card: Disk, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1235")
    for options in ((), ("--force",)):
        assert backed_up(used_card, shelf, *options).returncode == 0
        assert [(path.stat().st_uid, path.stat().st_gid) for path in shelf.iterdir()] == [(1234, 1235)] * 4


def test_the_card_is_not_to_be_mounted_meanwhile(used_card: Disk, shelf: Path) -> None:
    """It is opened exclusively: the kernel refuses a mount."""
    tried: list[int] = []

    def mount() -> None:
        done = subprocess.run(["mount", used_card.node, shelf], capture_output=True, check=False)
        tried.append(done.returncode)
        assert b"busy" in done.stderr or b"already mounted" in done.stderr

    in_process(used_card, shelf, When("backup", 0.3, mount, str(used_card.node)))
    assert tried == [32]


def test_another_backup_of_the_card_at_the_same_time(used_card: Disk, shelf: Path) -> None:
    ended: list[Ended] = []

    def second() -> None:
        words = command("backup", used_card.node, "second.img.zst")
        done = subprocess.run(
            words, cwd=shelf, env=environment(), capture_output=True, text=True, check=False
        )
        ended.append(Ended(done.returncode, done.stdout, done.stderr))

    in_process(used_card, shelf, When("backup", 0.3, second, str(used_card.node)))
    assert ended[0].returncode == 1 and "is in use" in ended[0].stderr
    said("zstd", "-tq", shelf / NAME)


def test_the_disk_of_this_system_is_no_card() -> None:
    root = run(["findmnt", "-no", "SOURCE", "/"]).stdout.decode().strip()
    if not root.startswith("/dev/"):
        pytest.skip("the root file system is not on a disk")
    with pytest.raises(UsageError, match=r"is no card|is a partition"):
        disk_to_back_up(Path(root))


def test_a_card_that_the_host_caches_is_not_read(make_card: MakeCard, shelf: Path) -> None:
    disk = make_card(size=64 * MIB)
    with loop.attached(Path(disk.backing), read_only=True) as cached:
        done = piimg(shelf, "backup", cached, NAME)
    assert done.returncode == 2
    assert f"{cached} cannot be read: its file is cached by the host" in done.stderr
    assert "losetup --direct-io=on" in done.stderr and "written" not in done.stderr
    assert list(shelf.iterdir()) == []
