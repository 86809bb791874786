"""The guest's own disks are refused by whatever name they are called."""

import shlex

import pytest

from tests.system.station.guest import Guest

pytestmark = [pytest.mark.timeout(1800, func_only=True), pytest.mark.station]  # the guest takes its own time

OWN = "/dev/disk/by-id/ata-QEMU_HARDDISK_OWN"
RUNS = "this system runs from it: it holds /"
PART = "is a partition, not a whole disk"


def refusals(guest: Guest, names: list[str]) -> dict[str, str]:
    """What piimg says to each name; it must have been refused as wrong usage."""
    script = 'rm -f /tmp/said.*; at=0; for name in "$@"; do at=$((at + 1)); '
    script += (
        'piimg flash "$name" --node worker1 --yes >/tmp/said.$at 2>&1; echo "exit $?" >>/tmp/said.$at; done'
    )
    guest.good(f"cd /srv/piimg; set +e; set -- {shlex.join(names)}; {script}")
    said = {name: guest.good(f"cat /tmp/said.{at}") for at, name in enumerate(names, 1)}
    for name, text in said.items():
        assert text.endswith("exit 2\n") and "Traceback" not in text, (name, text)
    return said


@pytest.mark.station_short
def test_the_disk_it_runs_from(guest: Guest) -> None:
    """By the kernel's name, udev's links, a relative path, a link of one's own, a node of one's own."""
    guest.good(
        "ln -sfn /dev/sda /root/card; ln -sfn card /root/link; rm -f /root/node; mknod /root/node b 8 0"
    )
    uuid = guest.good("findmnt -no UUID /").strip()
    whole = [
        "/dev/sda",
        OWN,
        "../../dev/sda",
        "/dev/block/8:0",
        "/root/link",
        "/root/node",
        "/proc/self/root/dev/sda",
    ]
    parts = ["/dev/sda1", f"{OWN}-part1", f"/dev/disk/by-uuid/{uuid}", "/dev/sda2"]
    start = guest.good("head -c 1M /dev/sda | sha256sum")
    said = refusals(guest, [*whole, *parts])
    for name in whole:
        assert "is not written to: it is not removable (ata disk); " + RUNS in said[name], said[name]
    for name in parts:
        assert f"{name} {PART}" in said[name] and "the whole disk is /dev/sda" in said[name], said[name]
    assert guest.good("head -c 1M /dev/sda | sha256sum") == start


@pytest.mark.station_short
def test_a_stick_that_it_keeps_things_on(guest: Guest) -> None:
    """It is removable, and so only what it is used for speaks against it: a mapping, a mount, swap."""
    stick = guest.plug(guest.card(), 4, serial="KEPT")
    guest.good(
        f"printf 'start=1MiB,size=64MiB\\nsize=64MiB\\nsize=64MiB\\n' | sfdisk -q {stick.node}\n"
        f"udevadm settle\n"
        f"echo 0 100000 linear {stick.node}1 0 | dmsetup create keep; udevadm settle\n"
        f"mkfs.ext4 -q /dev/mapper/keep; mkdir -p /mnt/keep; mount /dev/mapper/keep /mnt/keep\n"
        f"mkswap -q {stick.node}2; swapon {stick.node}2"
    )
    name = stick.node.rpartition("/")[2]
    try:
        link = "/dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_KEPT-0:0"
        mapper = guest.good("readlink -f /dev/mapper/keep").strip()
        said = refusals(guest, [stick.node, link, stick.link, f"{link}-part2", "/dev/mapper/keep", mapper])
        for one in (stick.node, link, stick.link):
            assert f"{name}1 is mounted at /mnt/keep through {mapper[5:]} (keep)" in said[one], said[one]
            assert f"{name}2 is used as swap" in said[one], said[one]
        assert PART in said[f"{link}-part2"]
        for one in ("/dev/mapper/keep", mapper):
            assert "it is a virtual device of this system, not a card" in said[one], said[one]
        # Each use alone is enough.
        guest.good(f"swapoff {stick.node}2; umount /mnt/keep")
        assert f"{name}1 is held by {mapper[5:]} (keep)" in refusals(guest, [stick.node])[stick.node]
        guest.good(
            f"dmsetup remove keep; mkdir -p /mnt/own; mkfs.vfat {stick.node}3; mount {stick.node}3 /mnt/own"
        )
        last = refusals(guest, [stick.node])[stick.node]
        assert f"{name}3 is mounted at /mnt/own" in last and "sudo umount /mnt/own" in last
    finally:
        guest.run(f"swapoff {stick.node}2; umount /mnt/keep /mnt/own; dmsetup remove keep")
