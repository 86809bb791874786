"""Who uses a disk: from recorded systems, and from mounts, swap and loop devices made here."""

import uuid
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagebuilder.device import policy
from imagebuilder.device.discovery import Disk, disk_at
from imagebuilder.device.holders import (
    DiskUses,
    Holding,
    MountInfo,
    holdings_of,
    parse_mountinfo,
    parse_swaps,
    read_host,
    unmount,
)
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.system import blockdev, loop
from imagebuilder.system.process import ToolError, run
from tests.integration.card.conftest import MakeCard, MakePart, mounted

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw
28 27 8:2 / /boot rw - ext4 /dev/sda2 rw
29 27 0:40 /@home /home rw - btrfs /dev/sdc1 rw
30 27 8:49 / /media/ann/my\\040card rw master:2 - vfat /dev/sdd1 rw
nonsense
31 27 x:y / /bad rw - ext4 /dev/sdz rw
"""
SWAPS = """\
Filename				Type		Size	Used	Priority
/dev/dm-2                               partition	1000	0	-2
/var/swap\\040file                      file		1000	0	-3
"""
RECORDED = DiskUses(
    mounts=parse_mountinfo(MOUNTINFO),
    swaps=parse_swaps(SWAPS),
    whole={"sda1": "sda", "sda2": "sda", "sda3": "sda", "sdb1": "sdb", "sdc1": "sdc", "sdd1": "sdd"},
    below={"dm-0": ("sda3",), "dm-1": ("dm-0",), "dm-2": ("md0",), "md0": ("sdb1", "sde"), "loop4": ("sdf",)},
    title={"dm-0": "dm-0 (cryptroot)", "dm-1": "dm-1 (vg-root)", "dm-2": "dm-2 (vg-swap)"},
    numbers={"253:1": "dm-1", "8:2": "sda2", "8:49": "sdd1", "8:33": "sdc1"},
    families=(frozenset({"sdc1", "sdg"}),),
)


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        (
            "sda",
            {
                Holding("sda3", "mounted at /", "/", "dm-1 (vg-root)"),
                Holding("sda2", "mounted at /boot", "/boot"),
                Holding("sda3", "held by dm-0 (cryptroot)", "", "dm-0"),
            },
        ),
        (
            "sdb",
            {
                Holding("sdb1", "used as swap", "", "dm-2 (vg-swap)"),
                Holding("sdb1", "held by md0", "", "md0"),
            },
        ),
        ("sdc", {Holding("sdc1", "mounted at /home", "/home")}),
        ("sdd", {Holding("sdd1", "mounted at /media/ann/my card", "/media/ann/my card")}),
        (
            "sde",
            {Holding("sde", "used as swap", "", "dm-2 (vg-swap)"), Holding("sde", "held by md0", "", "md0")},
        ),
        ("sdf", {Holding("sdf", "held by loop4", "", "loop4")}),
        ("sdg", {Holding("sdg", "mounted at /home", "/home")}),
        ("sdh", set()),
    ],
)
def test_every_use_is_walked_down_to_the_disk(disk: str, expected: set[Holding]) -> None:
    assert set(holdings_of(disk, RECORDED)) == expected


def test_only_what_a_desktop_mounted_may_be_unmounted() -> None:
    assert [one.desktop for one in holdings_of("sdd", RECORDED)] == [True]
    assert not any(one.desktop for name in ("sda", "sdb", "sdc") for one in holdings_of(name, RECORDED))
    assert not Holding("sdd1", "mounted at /mediaX", "/mediaX").desktop
    assert not Holding("sdd1", "mounted at /media/a", "/media/a", "dm-3").desktop


def card_with(*holdings: Holding) -> tuple[str, ...]:
    disk = Disk(Path("/dev/sdx"), "8:16", 32 * 10**9, "usb", "usb 1-1", removable=True)
    return tuple(map(str, policy.refusals(disk, holdings)))


def test_reasons_name_the_partition_and_its_user() -> None:
    assert card_with() == ()
    assert card_with(Holding("sdd1", "mounted at /media/a", "/media/a")) == ()
    assert card_with(Holding("sdd1", "mounted at /mnt", "/mnt")) == ("sdd1 is mounted at /mnt",)
    assert card_with(Holding("sdb1", "used as swap", "", "dm-2 (vg-swap)")) == ("sdb1 is used as swap",)
    (system,) = card_with(*holdings_of("sda", RECORDED))
    assert "this system runs from it: it holds /, /boot" in system


MOUNTS = st.builds(
    MountInfo, st.text(max_size=9), st.text(max_size=20), st.just("ext4"), st.text(max_size=20)
)
NAMES = st.sampled_from(["sda", "sda1", "dm-0", "md0", "loop1", "loop11"])


@given(st.text(max_size=400))
def test_any_text_is_parsed(text: str) -> None:
    for mount in parse_mountinfo(f"{MOUNTINFO}{text}"):
        assert mount.number.count(":") == 1
    assert all(swap for swap in parse_swaps(f"{SWAPS}{text}"))


@given(
    st.lists(MOUNTS, max_size=5),
    st.lists(NAMES, max_size=3),
    st.dictionaries(NAMES, NAMES),
    st.dictionaries(NAMES.filter(lambda name: name.startswith("dm")), st.lists(st.just("sda1"))),
)
@example(mounts=[], swaps=["sda1"], whole={"sda1": "dm-0"}, below={"dm-0": ["sda1"]})
def test_holdings_are_always_parts_of_the_disk(
    mounts: list[MountInfo], swaps: list[str], whole: dict[str, str], below: dict[str, list[str]]
) -> None:
    host = DiskUses(mounts=mounts, swaps=swaps, whole=whole, below=below)
    for one in holdings_of("sda", host):
        assert one.device == "sda" or whole.get(one.device) == "sda"


def reasons(disk: Disk) -> tuple[str, ...]:
    return tuple(map(str, policy.refusals(disk, holdings_of(disk.name, read_host()), virtual=True)))


def test_a_mounted_partition_is_refused(card: Disk, make_partitioned: MakePart, tmp_path: Path) -> None:
    part = make_partitioned(card)
    with pytest.raises(UsageError, match="is a partition, not a whole disk") as error:
        disk_at(part)
    assert str(card.node) in error.value.hint
    with mounted(part, tmp_path / "my point"):
        assert reasons(card) == (f"{part.name} is mounted at {tmp_path}/my point",)
        with pytest.raises(UsageError, match="is mounted at") as error:
            policy.check(card, holdings_of(card.name, read_host()), None, virtual=True)
        assert f"sudo umount {tmp_path}/my point" in error.value.hint
        with pytest.raises(PiimgError, match="is in use"), blockdev.opened(card.node, write=True):
            pytest.fail("a mounted card was opened")
    assert reasons(card) == ()


def test_a_file_system_on_the_whole_card_is_refused(card: Disk, tmp_path: Path) -> None:
    run(["mkfs.ext4", "-q", "-E", "nodiscard", card.node, "8m"])
    with mounted(card.node, tmp_path / "point"):
        assert reasons(card) == (f"{card.name} is mounted at {tmp_path}/point",)


def test_a_loop_device_on_the_card_is_refused(card: Disk, tmp_path: Path) -> None:
    run(["mkfs.ext4", "-q", "-E", "nodiscard,offset=4194304", card.node, "8m"])
    with loop.attached(card.node, offset=4 << 20, size=8 << 20) as over:
        with mounted(over, tmp_path / "point"):
            assert set(reasons(card)) == {
                f"{card.name} is held by {over.name}",
                f"{card.name} is mounted at {tmp_path}/point through {over.name}",
            }
        assert reasons(card) == (f"{card.name} is held by {over.name}",)


def test_a_loop_device_over_another_disk_is_refused(card: Disk) -> None:
    with loop.attached(card.node, direct_io=True) as device:
        assert reasons(disk_at(device)) == (f"{device.name} is made of another disk, {card.name}",)


def test_swap_is_refused(card: Disk, make_partitioned: MakePart) -> None:
    part = make_partitioned(card)
    run(["mkswap", part])
    try:
        run(["swapon", part])
    except ToolError as error:
        pytest.skip(f"no swap here: {error.message}")
    try:
        assert reasons(card) == (f"{part.name} is used as swap",)
    finally:
        run(["swapoff", part])


def test_what_a_desktop_mounted_is_unmounted(card: Disk, make_partitioned: MakePart) -> None:
    part = make_partitioned(card)
    Path("/media").mkdir(exist_ok=True)
    with mounted(part, Path("/media") / f"piimg-test-{uuid.uuid4().hex}") as point:
        assert reasons(card) == ()
        unmount(holdings_of(card.name, read_host()))
        assert not point.is_mount()
    assert holdings_of(card.name, read_host()) == []


def test_another_opener_is_named(card: Disk) -> None:
    with (
        blockdev.opened(card.node, write=True),
        pytest.raises(PiimgError, match="is in use"),
        blockdev.opened(card.node, write=True),
    ):
        pytest.fail("a card was opened twice")


def test_a_write_protected_card_is_refused(make_card: MakeCard) -> None:
    assert reasons(make_card(read_only=True)) == ("it is write-protected",)
