"""`piimg backup`: real virtual cards, judged by zstd, sha256sum, bmaptool, e2fsck, fsck.fat and cmp."""

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagebuilder.base import unpack as unpacking
from imagebuilder.card.backup import Backup, BackupFiles, back_up
from imagebuilder.card.verification import disk_to_back_up
from imagebuilder.cli import image_file
from imagebuilder.cli.progress.choice import renderer
from imagebuilder.cli.session import Session
from imagebuilder.device.discovery import Disk
from imagebuilder.errors import Interrupted, PiimgError, UsageError
from imagebuilder.events import Event, Finished, Message, Reporter, Silent
from imagebuilder.image import bmap
from imagebuilder.image.allocation import used_ranges
from imagebuilder.system.process import run
from tests.integration.card.conftest import CARD_SIZE, MIB, ROOT, ROOT_SIZE, MakeCard, MakePart, mounted
from tests.integration.card.faults import When
from tests.integration.card.rig import Rig, below
from tests.integration.card.running import command, environment
from tests.integration.card.test_commands import Ended, piimg
from tests.support.judge import check_file_systems, said
from tests.support.waiting import wait_until

IMAGE_SIZE = ROOT + ROOT_SIZE
NAME = "worker1.img.zst"


def copy_to(image: Path, medium: Path) -> None:
    """Write an image to the start of a card's file."""
    run(["dd", f"if={image}", f"of={medium}", "bs=1M", "conv=notrunc,sparse", "status=none"])


@pytest.fixture
def used_card(make_card: MakeCard, images: Path, tmp_path: Path) -> Disk:
    """A card of 32 GB that was flashed with worker1, and has deleted files in its free blocks."""
    image = tmp_path / "worker1.img"
    shutil.copy(images / "worker1.img", image)
    (tmp_path / "deleted").write_bytes(b"deleted!" * (MIB // 4))
    for line in (f"write {tmp_path / 'deleted'} deleted", "rm deleted"):
        run(["debugfs", "-w", "-R", line, f"{image}?offset={ROOT}"])
    assert image.read_bytes().count(b"deleted!") > MIB // 8
    disk = make_card()
    copy_to(image, Path(disk.backing))
    return disk


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """The folder for backups."""
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def backed_up(disk: Disk, shelf: Path, *options: object) -> Ended:
    return piimg(shelf, "backup", disk.node, NAME, *options)


def unpacked(packed: Path) -> Path:
    """The image in a backup, by zstd itself."""
    image = packed.with_name("unpacked.img")
    run(["zstd", "-dqf", "--sparse", packed, "-o", image])
    return image


def in_process(
    disk: Disk, shelf: Path, reporter: Reporter | None = None, stop: threading.Event | None = None
) -> Backup:
    target = BackupFiles(shelf / NAME)
    return back_up(disk, target, reporter or Silent(), stop or threading.Event())


def written_to(disk: Disk) -> str:
    """Sectors that were ever written to the device (Documentation/admin-guide/iostats.rst, field 7)."""
    return Path(f"/sys/block/{disk.name}/stat").read_text().split()[6]


class Heard:
    """A reporter that keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def emit(self, event: Event) -> None:
        self.messages += [event] if isinstance(event, Message) else []


@dataclass
class Ending(When):
    """The same, and ``ended`` has whether each task went well."""

    ended: list[bool] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        super().emit(event)
        self.ended += [event.ok] if isinstance(event, Finished) else []


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


def test_a_write_to_the_card_meanwhile_makes_it_no_backup(used_card: Disk, shelf: Path) -> None:
    def write() -> None:
        with used_card.node.open("r+b", buffering=0) as stream:
            os.pwrite(stream.fileno(), bytes(512), ROOT + 5 * MIB)

    def write_as_another_program() -> None:
        run(["sh", "-c", f"exec 3>>{used_card.node}"])

    for act in (write, write_as_another_program):
        when = Ending("backup", 0.3, act, str(used_card.node))
        with pytest.raises(PiimgError, match="was opened for writing by"):
            in_process(used_card, shelf, when)
        assert when.done and not list(shelf.iterdir())
        assert when.ended == [False], "it is not reported as done first"


def test_a_stop_leaves_nothing_and_keeps_an_older_backup(used_card: Disk, shelf: Path) -> None:
    stop = threading.Event()
    (shelf / NAME).write_text("older")
    (shelf / f"{NAME}.json").write_text("older")
    when = When("backup", 0.3, stop.set, str(used_card.node))
    with pytest.raises(Interrupted, match="no backup was made"):
        in_process(used_card, shelf, when, stop)
    assert sorted(path.name for path in shelf.iterdir()) == [NAME, f"{NAME}.json"]
    assert (shelf / NAME).read_text() == (shelf / f"{NAME}.json").read_text() == "older"


@pytest.fixture
def slow(make_faulty: Rig, images: Path) -> Callable[..., Disk]:
    """``slow(fault=…)`` is a card of 64 MiB with worker1 and a fault of reading."""

    def made(**faults: str | int) -> Disk:
        disk = make_faulty(**faults)
        copy_to(images / "worker1.img", below(disk))
        with below(disk).open("r+b") as stream:  # dd left out the zeros
            for start, end in used_ranges(images / "worker1.img"):
                with (images / "worker1.img").open("rb") as image:
                    os.pwrite(stream.fileno(), os.pread(image.fileno(), end - start, start), start)
        return disk

    return made


@contextmanager
def running(disk: Disk, shelf: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """piimg that backs up a slow card, at work."""
    process = subprocess.Popen(
        command("--progress", "json", "backup", disk.node, NAME),
        cwd=shelf,
        env=environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert any(b'"advanced"' in line for line in process.stderr)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(slow: Callable[..., Disk], shelf: Path, number: signal.Signals) -> None:
    disk = slow(fault="stall-on-read", stall="0.2", after=4 * MIB)
    with running(disk, shelf) as process:
        process.send_signal(number)
        assert process.stderr is not None
        text = process.stderr.read().decode()
        assert process.wait(20) == 130, text
    assert "no backup was made" in text and "Traceback" not in text
    assert not list(shelf.iterdir())


def test_ctrl_c_twice_ends_at_once_and_leaves_nothing(slow: Callable[..., Disk], shelf: Path) -> None:
    disk = slow(fault="stall-on-read", stall="1000", after=9 * MIB)
    with running(disk, shelf) as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert any(b"repeat to stop at once" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert any(b"piimg: stopped at once" in line for line in process.stderr)
        wait_until(lambda: not list(shelf.iterdir()))
        below(disk).with_name("switch").unlink()  # the kernel keeps a process that waits for it
        assert process.wait(20) == 130


def test_cleanup_removes_what_a_kill_left(slow: Callable[..., Disk], shelf: Path) -> None:
    disk = slow(fault="stall-on-read", stall="0.2", after=4 * MIB)
    with running(disk, shelf) as process:
        process.kill()
        process.wait()
    (left,) = shelf.iterdir()
    assert left.name.endswith(".partial") and left.stat().st_mode & 0o777 == 0o600
    assert piimg(shelf, "cleanup").returncode == 0
    assert not list(shelf.iterdir())


def noise(images: Path) -> int:
    """A byte inside the file /noise of the root partition."""
    content = (images / "worker1-files" / "noise").read_bytes()
    return (images / "worker1.img").read_bytes().index(content[MIB : MIB + 512], ROOT) + 7


def test_a_card_that_cannot_be_read_gives_no_backup(
    slow: Callable[..., Disk], images: Path, shelf: Path
) -> None:
    at = noise(images)
    disk = slow(fault="read-error", at=at)
    done = backed_up(disk, shelf)
    assert done.returncode == 1
    place = f"byte {at // 4096 * 4096} (partition 2, /noise) cannot be read: Input/output error"
    assert place in done.stderr and f"sudo ddrescue {disk.node} FILE.img" in done.stderr
    assert not list(shelf.iterdir())


def test_a_read_that_succeeds_when_repeated_is_noted(
    slow: Callable[..., Disk], images: Path, shelf: Path
) -> None:
    heard = Heard()
    disk = slow(fault="read-error", at=noise(images), times=2)
    done = in_process(disk, shelf, heard)
    assert done.retries > 0
    assert any("reads had to be repeated" in message.text for message in heard.messages)
    image = unpacked(shelf / NAME)
    said("bmaptool", "copy", "--bmap", f"{shelf / NAME}.bmap", image, "/dev/null")
    said("cmp", "--bytes", str(ROOT), image, images / "worker1.img")
    check_file_systems(image, shelf)


def test_a_full_disk(used_card: Disk, shelf: Path) -> None:
    run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", shelf])
    try:
        done = backed_up(used_card, shelf)
        assert done.returncode == 1, done.stderr
        assert f"are free in {shelf}" in done.stderr or "are free in ." in done.stderr
        assert "no room on the disk of" in done.stderr
        assert not list(shelf.iterdir())
    finally:
        run(["umount", shelf])


def test_without_room_for_the_last_of_its_files_the_older_backup_stays(used_card: Disk, shelf: Path) -> None:
    """A file system with inodes for the older backup and one file more: the image itself fits."""
    run(["mount", "-t", "tmpfs", "-o", "nr_inodes=6", "tmpfs", shelf])
    try:
        assert backed_up(used_card, shelf).returncode == 0
        older = {path.name: path.read_bytes() for path in shelf.iterdir()}
        assert len(older) == 4
        done = backed_up(used_card, shelf, "--force")
        assert done.returncode == 1 and "no room on the disk of" in done.stderr
        assert {path.name: path.read_bytes() for path in shelf.iterdir()} == older
    finally:
        run(["umount", shelf])


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
