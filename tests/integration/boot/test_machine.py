"""Boards and the switch without a guest: command lines, the console's text, faults. QEMU itself is real."""

import dataclasses
import json
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from imagebuilder import manifest
from imagebuilder.boot import firmware
from imagebuilder.boot import machine as boards
from imagebuilder.boot.firmware import Firmware
from imagebuilder.boot.kernel import Kernel
from imagebuilder.boot.machine import BoardDisk, Hardware, Machine, machine, plain
from imagebuilder.boot.network import (
    INTERNET,
    Port,
    Service,
    doors,
    internet,
    switch_command,
    switched,
    uplink,
)
from imagebuilder.errors import PiimgError
from imagebuilder.image.partitions import Slice
from imagebuilder.model import Cluster
from imagebuilder.resources import shipped
from imagebuilder.system.process import run
from tests.support import networks
from tests.support.waiting import wait_until

BOOT = Slice(1, 8 << 20, 512 << 20, 0x0C)
PORT = Port("dgram,id=lan,local.type=fd", "b8:27:eb:00:00:02", "eth0")


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return manifest.load(shipped("manifests") / "picluster.toml")


def option(argv: list[str], name: str) -> list[str]:
    """All values of an option."""
    return [argv[at + 1] for at, word in enumerate(argv) if word == name]


def test_virt_starts_the_companion_kernel_with_the_ports_named() -> None:
    kernel = Kernel("6.1", Path("/cache/vmlinuz"), Path("/cache/initramfs"))
    disk = BoardDisk(Path("/run/a,b.qcow2"), "qcow2", BOOT)
    ports = [PORT, Port("user,id=uplink", "b8:27:eb:00:01:00", "wlan0")]
    argv = boards.virt("worker2", Hardware(memory=384), disk, ports, kernel, "root=PARTUUID=1-02")
    assert option(argv, "-append") == [
        "root=PARTUUID=1-02 piimg.port=b8:27:eb:00:00:02=eth0 piimg.port=b8:27:eb:00:01:00=wlan0"
    ]
    assert option(argv, "-kernel") + option(argv, "-initrd") == ["/cache/vmlinuz", "/cache/initramfs"]
    assert option(argv, "-m") == ["384"]
    assert option(argv, "-netdev") == ["dgram,id=net0,local.type=fd", "user,id=net1"]
    assert option(argv, "-drive") == ["if=none,id=card,format=qcow2,file=/run/a,,b.qcow2,cache=unsafe"]
    assert "-no-reboot" in argv


def test_raspi3b_starts_what_the_boot_partition_has() -> None:
    files = Firmware(Path("k"), Path("i"), Path("d"), "quiet console=ttyAMA0,115200")
    disk = BoardDisk(Path("/dev/loop9"), "raw", BOOT)
    argv = boards.raspi3b("worker2", Hardware("raspi3b"), disk, [PORT], files)
    assert [*option(argv, "-kernel"), *option(argv, "-initrd"), *option(argv, "-dtb")] == ["k", "i", "d"]
    assert option(argv, "-append") == ["quiet console=ttyAMA0,115200 systemd.watchdog_device=/dev/none"]
    assert option(argv, "-drive") == ["if=sd,format=raw,file=/dev/loop9,cache=writeback"]
    assert option(argv, "-device") == ["usb-net,netdev=net0,mac=b8:27:eb:00:00:02"]


def test_the_switch_lets_nothing_out(cluster: Cluster) -> None:
    argv = switch_command(cluster, cluster.nodes, [])
    (door,) = (value for value in option(argv, "-netdev") if value.startswith("user,"))
    assert "restrict=on" in door and "ipv6=off" in door and "guestfwd" not in door
    assert "host=10.0.0.254" in door  # no node's
    assert door.count("hostfwd=tcp:127.0.0.1:0-10.0.0.") == len(cluster.nodes) + 1  # and to who strays


def test_somebody_is_at_the_gateways_address_when_it_is_not_booted(cluster: Cluster) -> None:
    argv = switch_command(cluster, [cluster.node("worker2")], [])
    assert any("guestfwd=tcp:10.0.0.1:22-cmd:" in value for value in option(argv, "-netdev"))


def test_each_door_leads_to_the_port_of_the_nodes_sshd(cluster: Cluster) -> None:
    nodes = tuple(dataclasses.replace(n, ssh_port=2200 + at) for at, n in enumerate(cluster.nodes))
    other = dataclasses.replace(cluster, nodes=nodes)
    argv = switch_command(other, nodes[2:4], [])
    (door,) = (value for value in option(argv, "-netdev") if value.startswith("user,"))
    for end in ("10.0.0.12:2202", "10.0.0.13:2203", "10.0.0.252:2202", "10.0.0.252:2203"):
        assert f"hostfwd=tcp:127.0.0.1:0-{end}" in door
    assert "guestfwd=tcp:10.0.0.1:2200-cmd:" in door
    listed = "  TCP[HOST_FORWARD]  12       127.0.0.1 40001       10.0.0.12  2202     0     0\n"
    assert doors(listed, nodes[2:3]) == {"worker2": 40001}


def test_the_uplink_leads_to_one_host_only(cluster: Cluster) -> None:
    gateway = cluster.gateway
    assert gateway is not None
    port = uplink(gateway, [Service(8080, "serve a,b")])
    assert port.name == "wlan0" and "restrict=on" in port.netdev
    assert f"guestfwd=tcp:{INTERNET}:8080-cmd:serve a,,b" in port.netdev
    assert f"guestfwd=tcp:{INTERNET}:80-cmd:" in port.netdev and port.netdev.count("guestfwd") == 2
    assert uplink(gateway, [Service(80, "x")]).netdev.count("guestfwd") == 1


def test_a_static_uplink_has_its_network_and_its_router() -> None:
    gateway = networks.cluster(networks.STATIC_UPLINK).gateway
    assert gateway is not None
    port = uplink(gateway)
    assert port.name == "eth1" and "restrict=on" in port.netdev
    assert "net=192.168.1.0/24,host=192.168.1.1,dns=192.168.1.254," in port.netdev
    assert f"guestfwd=tcp:{internet(gateway)}:80-cmd:" in port.netdev
    assert str(internet(gateway)) == "192.168.1.253"
    small = dataclasses.replace(gateway, address=IPv4Interface("192.168.1.50/30"))
    with pytest.raises(PiimgError, match="does not have 2 free addresses"):
        uplink(small)


def test_without_a_gateway_the_router_is_at_its_address() -> None:
    at_home = networks.cluster(networks.AT_HOME)
    argv = switch_command(at_home, at_home.nodes, [])
    (door,) = (value for value in option(argv, "-netdev") if value.startswith("user,"))
    assert "net=192.168.1.0/24,host=192.168.1.1," in door and "guestfwd" not in door


def test_nodes_by_dhcp_have_doors_to_the_addresses_that_are_given_out(tmp_path: Path) -> None:
    by_dhcp = networks.cluster(networks.BY_DHCP)
    argv = switch_command(by_dhcp, by_dhcp.nodes, [])
    (door,) = (value for value in option(argv, "-netdev") if value.startswith("user,"))
    assert "dhcpstart=192.168.1.251," in door
    assert "-192.168.1.251:22" in door and "-192.168.1.252:22" in door and "192.168.1.253:22" not in door
    full = dataclasses.replace(by_dhcp, dns=(IPv4Address("192.168.1.251"),))
    argv = switch_command(full, full.nodes, [])
    assert "dhcpstart=192.168.1.249," in str(argv)
    with switched(tmp_path, by_dhcp, by_dhcp.nodes) as switch:
        assert set(switch.doors) == {"master", "worker1", "worker4", "worker5"}
        assert len(set(switch.lent[22])) == 2


def test_a_missing_door_is_reported(cluster: Cluster) -> None:
    with pytest.raises(PiimgError, match=r"forwards no port to 10\.0\.0\.12"):
        doors(
            "  TCP[HOST_FORWARD]  12       127.0.0.1 40001       10.0.0.11    22     0     0\n",
            cluster.nodes[:3][1:],
        )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"[\x1b[0;32m  OK  \x1b[0m] Started\r\n", "[  OK  ] Started\n"),
        (b"\x1b]0;title\x07ok\x1b[2J\x1b[1;1Hx", "okx"),
        (b"\xff\x00\xc2\x9b1m", "\ufffd  1m"),
        (b"cut off\x1b", "cut off "),
    ],
)
def test_the_consoles_text_commands_no_terminal(said: bytes, shown: str) -> None:
    assert plain(said) == shown


def test_the_switch_runs_and_opens_a_door_for_each_node(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)  # longer than the name of a socket may be
    folder.mkdir()
    with switched(folder, cluster, cluster.nodes) as switch:
        assert set(switch.doors) == {node.name for node in cluster.nodes}
        assert len(set(switch.doors.values())) == len(cluster.nodes)
        listening = Path("/proc/net/tcp").read_text()
        assert all(f"0100007F:{port:04X}" in listening for port in switch.doors.values())
    assert not any(
        f"0100007F:{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()
        for port in switch.doors.values()
    )


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Machine]:
    """A board whose kernel is a file of zeros: QEMU runs, and its console stays silent."""
    (tmp_path / "nothing").write_bytes(bytes(1 << 16))
    run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "card.qcow2", "1G"])
    kernel = Kernel("0", tmp_path / "nothing", tmp_path / "nothing")
    disk = BoardDisk(tmp_path / "card.qcow2", "qcow2", BOOT)

    def command() -> list[str]:
        return boards.virt("worker2", Hardware(memory=128), disk, [], kernel, "")

    made = Machine("worker2", tmp_path, command)
    yield made
    made.power_cut()


def alive(folder: Path) -> list[int]:
    """The processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if process.readlink() == folder and process.parent.name != str(os.getpid()):
                found.append(int(process.parent.name))
        except OSError:
            continue
    return found


def test_a_power_cut_ends_qemu(board: Machine) -> None:
    board.power_on()
    wait_until(lambda: alive(board.folder))
    board.check()
    board.power_cut()
    assert not alive(board.folder) and not board.is_on
    with pytest.raises(PiimgError, match="worker2 is off"):
        board.check()
    board.power_on()
    wait_until(lambda: alive(board.folder))
    assert board.starts == 2


def test_a_silent_kernel_is_reported(board: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "_SILENCE", 1.0)

    def checked() -> bool:
        board.check()
        return False

    board.power_on()
    wait_until(lambda: alive(board.folder))
    with pytest.raises(PiimgError, match="the kernel printed nothing") as raised:
        wait_until(checked)
    assert "kernel for this machine" in raised.value.hint


def test_a_panic_is_reported_with_the_consoles_last_lines(board: Machine) -> None:
    board.power_on()
    wait_until(board.console.exists)
    with board.console.open("ab") as console:
        console.write(
            b"[ 1.0] VFS: Cannot open\r\n[ 1.1] \x1b[31mKernel panic - not syncing: VFS: no root\r\n"
        )
    with pytest.raises(PiimgError, match="Kernel panic - not syncing: VFS: no root") as raised:
        board.check()
    assert "[ 1.0] VFS: Cannot open" in raised.value.hint and "\x1b" not in raised.value.hint


def test_an_emergency_is_reported_with_what_failed(board: Machine) -> None:
    board.power_on()
    wait_until(board.console.exists)
    with board.console.open("ab") as console:
        console.write(
            b"\x1b[K[\x1b[0;1;31m TIME \x1b[0m] Timed out waiting for device /dev/nothing.\r\n"
            b"[\x1b[0;32m  OK  \x1b[0m] Reached target getty.target.\r\n"
            b"You are in emergency mode. After logging in, type ...\r\n"
        )
    with pytest.raises(PiimgError, match="worker2 is in emergency mode") as raised:
        board.check()
    assert "Timed out waiting for device" in raised.value.hint and "getty" not in raised.value.hint


def test_qemus_own_words_are_reported_when_it_ends(board: Machine) -> None:
    (board.folder / "card.qcow2").unlink()
    board.power_on()
    wait_until(lambda: not board.is_on)
    with pytest.raises(PiimgError, match=r"QEMU ended: .*card\.qcow2"):
        board.check()


def test_a_killed_qemu_is_reported(board: Machine) -> None:
    board.power_on()
    wait_until(lambda: alive(board.folder))
    for process in alive(board.folder):
        os.kill(process, 9)
    wait_until(lambda: not board.is_on)
    with pytest.raises(PiimgError, match="worker2 is off: QEMU ended"):
        board.check()


def test_what_keeps_a_board_from_starting_is_reported(tmp_path: Path) -> None:
    run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "card.qcow2", "1G"])
    disk = BoardDisk(tmp_path / "card.qcow2", "qcow2", BOOT)
    with machine("worker2", tmp_path, Hardware("raspi3b"), None, disk, []) as board:
        board.power_on()
        wait_until(lambda: not board.is_on)
        with pytest.raises(PiimgError):  # no FAT there
            board.check()


def test_a_missing_program_is_reported_with_its_package(
    board: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("imagebuilder.system.process._SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "setpriv").symlink_to("/usr/bin/setpriv")
    board.power_on()
    wait_until(lambda: not board.is_on)
    with pytest.raises(PiimgError, match="qemu-system-aarch64 is not installed") as raised:
        board.check()
    assert raised.value.hint == "sudo apt-get install qemu-system-arm"


def test_an_overlay_never_changes_its_image_and_holds_it(tmp_path: Path, specimen: "object") -> None:
    assert callable(specimen)
    image = specimen("bookworm")
    before = image.stat()
    disk = boards.overlay(image, tmp_path / "a,b.qcow2", 1 << 30)
    info = json.loads(run(["qemu-img", "info", "--output=json", disk.file]).stdout)
    assert info["virtual-size"] == 1 << 30 and info["full-backing-filename"].endswith(str(image))
    tree = boards.boot_partition(disk, tmp_path / "boot")
    words = firmware.command_line(tree).split()
    assert words[-len(firmware.WORDS) :] == list(firmware.WORDS) and any(
        word.startswith("root=PARTUUID=") for word in words
    )
    assert firmware.NO_MEMORY_GROUPS in words
    tree.rewrite("/cmdline.txt", b"root=x cgroup_enable=memory", 1_700_000_000)
    assert firmware.command_line(tree).split() == ["root=x", "cgroup_enable=memory", *firmware.WORDS]
    after = image.stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    assert boards.overlay(image, tmp_path / "larger.qcow2", 1 << 29).file.exists()
