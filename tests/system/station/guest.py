"""A guest: a PC in QEMU with Debian's stock kernel, udevd, udisks2 and USB. Cards come and go over QMP.

It is always emulated: KVM is not asked for, because where it is offered inside another virtual machine it may
hang. What QEMU cannot do: links of USB that are as slow as real ones, a reader that lies, a write-protected
card in a slot that was made for others; and, in a reader without UAS, an empty slot but the first, of which
its hw/scsi/scsi-bus.c says that there is no such slot. An empty SD slot is seen by nobody: Linux has no block
device for it.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from imagebuilder.boot.login import Login, known_hosts
from imagebuilder.boot.network import door_to
from imagebuilder.boot.qmp import Control, connect
from imagebuilder.system.process import background
from tests.integration.card.running import by_images
from tests.support.terminal import Window
from tests.support.waiting import wait_until
from tests.system.station.disk import CLUSTER, Disks

GIB = 1 << 30
MULTI = "multi"  # the reader with several slots, and how many
SLOTS = 4
HUB = 1  # the port of the xHCI controller that a hub hangs on; the reader with several slots is on the next
ADDRESS = IPv4Address("10.0.2.15")
PATIENCE = 600.0  # seconds; nothing takes as long unless something hangs
_BOOT = 900.0
# In emulation the instructions that copy byte by byte are the slowest way to copy.
_PROCESSOR = "max,erms=off,fsrm=off,la57=off"


class Monitor(Control):
    """A connection to QEMU that can wait for an event."""

    def until(self, name: str, **data: object) -> dict[str, Any]:
        """Wait for an event that says ``data``, or take one that came before."""
        while True:
            for event in self.events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    self.events.remove(event)
                    return event
            self.events.append(self._next())


@dataclass(frozen=True)
class Card:
    """A card on the table: a file that holds its bytes."""

    file: Path

    def start(self, count: int = 1 << 20) -> bytes:
        """The first bytes."""
        with self.file.open("rb") as stream:
            return stream.read(count)


@dataclass(frozen=True)
class Reader:
    """A reader that is plugged in: ``node`` is its device, ``slot`` what piimg should call it."""

    name: str
    link: str
    node: str
    slot: str


@dataclass
class Guest:
    """A guest that runs."""

    folder: Path
    disks: Disks
    monitor: Monitor
    login: Login
    readers: dict[str, Reader] = field(default_factory=dict)
    media: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def command(self, script: str, *options: str) -> list[str]:
        """The command line that runs a script in the guest, as root, over the connection there is."""
        argv = self.login.command(script)
        return [argv[0], "-o", f"ControlPath={self.folder}/ssh", *options, *argv[1:]]

    def run(self, script: str, patience: float = PATIENCE) -> "subprocess.CompletedProcess[str]":
        """Run a script to its end."""
        return subprocess.run(
            self.command(script), capture_output=True, text=True, check=False, timeout=patience,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def good(self, script: str, patience: float = PATIENCE) -> str:
        """The same, and it must succeed; what it printed."""
        done = self.run(f"set -e; {script}", patience)
        assert done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def piimg(self, *words: str, folder: str = CLUSTER) -> "subprocess.CompletedProcess[str]":
        """Run piimg in a cluster folder, with nobody to ask."""
        done = self.run(f"cd {folder}; {shlex.join(['piimg', *by_images(words)])}")
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def card(self, size: int = GIB) -> Card:
        """A new card, all zeros."""
        self.count += 1
        card = Card(self.folder / f"card{self.count}")
        card.file.touch()
        os.truncate(card.file, size)
        return card

    def plug(
        self, card: Card, port: int | str, *, serial: str = "", rate: int = 0, read_only: bool = False
    ) -> Reader:
        """Plug in a USB reader with a card in it, and wait until udev has done with it.

        ``port`` is that of the controller, or 1.N of the hub; ``rate`` the card's, in bytes a second.
        """
        self.count += 1
        name = f"reader{self.count}"
        node = self._medium(card, rate, read_only)
        named = {"serial": serial} if serial else {}
        bus = {"bus": "xhci.0", "port": str(port)}
        self.monitor.ask(
            "device_add", driver="usb-storage", id=name, drive=node, removable=True, **bus, **named
        )
        self.media[name] = node
        link = f"/dev/disk/by-path/{_by_path(str(port), 0)}"
        self.readers[name] = Reader(name, link, "", "")  # so that it is pulled out whatever comes
        reader = self._seen(name, link)
        self.readers[name] = reader
        return reader

    def pull(self, reader: Reader) -> None:
        """Pull a reader out, with the card in it."""
        del self.readers[reader.name]
        self.monitor.ask("device_del", id=reader.name)
        self.monitor.until("DEVICE_DELETED", device=reader.name)
        self._forget(self.media.pop(reader.name))
        self.good(f"udevadm wait --removed --settle --timeout={PATIENCE:.0f} {reader.link}")

    def insert(self, slot: int, card: Card, rate: int = 0) -> Reader:
        """Put a card into a slot of the reader with several, and wait until the guest has seen it."""
        name, node = f"{MULTI}{slot}", self._medium(card, rate)
        with contextlib.suppress(Exception):
            self.monitor.ask("blockdev-open-tray", id=name, force=True)
        self.monitor.ask("blockdev-insert-medium", **{"id": name, "node-name": node})
        self.monitor.ask("blockdev-close-tray", id=name)
        self.media[name] = node
        reader = self.slot(slot)
        self._wait_for_size(reader, card.file.stat().st_size)
        return reader

    def slot(self, slot: int) -> Reader:
        """A slot of the reader with several, whatever is in it."""
        return self._seen(f"{MULTI}{slot}", f"/dev/disk/by-path/{_by_path(str(HUB + 1), slot)}")

    def take(self, slot: int) -> None:
        """Take the card out of a slot of the reader with several."""
        name = f"{MULTI}{slot}"
        self.monitor.ask("blockdev-open-tray", id=name, force=True)
        self.monitor.ask("blockdev-remove-medium", id=name)
        self._forget(self.media.pop(name))
        self._wait_for_size(self.slot(slot), 0)

    def insert_sd(self, card: Card) -> Reader:
        """Put a card, whose size is a power of two, into the built-in SD slot."""
        node = self._medium(card)
        self.monitor.ask("blockdev-insert-medium", **{"id": "sd", "node-name": node})
        self.media["sd"] = node
        self.good(f"udevadm wait --settle --timeout={PATIENCE:.0f} /dev/mmcblk0")
        return Reader("sd", "/dev/mmcblk0", "/dev/mmcblk0", "mmc0")

    def take_sd(self) -> None:
        """Take the card out of the built-in slot."""
        self.monitor.ask("blockdev-remove-medium", id="sd")
        self._forget(self.media.pop("sd"))
        self.good(f"udevadm wait --removed --settle --timeout={PATIENCE:.0f} /dev/mmcblk0")

    def clear(self) -> None:
        """Pull all readers and take all cards out."""
        for reader in list(self.readers.values()):
            self.pull(reader)
        for name in list(self.media):
            if name == "sd":
                self.take_sd()
            else:
                self.take(int(name.removeprefix(MULTI)))

    def _medium(self, card: Card, rate: int = 0, read_only: bool = False) -> str:
        """Make a card known to QEMU."""
        self.count += 1
        node, group = f"medium{self.count}", f"rate{self.count}"
        limits = {"bps-write": rate} if rate else {}
        self.monitor.ask("object-add", **{"qom-type": "throttle-group", "id": group, "limits": limits})
        file = {"driver": "file", "filename": str(card.file), "cache": {"no-flush": True}}
        options = {"driver": "throttle", "throttle-group": group, "node-name": node, "read-only": read_only}
        self.monitor.ask("blockdev-add", **options, file={**file, "read-only": read_only})
        return node

    def _forget(self, node: str) -> None:
        self.monitor.ask("blockdev-del", **{"node-name": node})
        self.monitor.ask("object-del", id=node.replace("medium", "rate"))

    def _seen(self, name: str, link: str) -> Reader:
        """Wait for a reader's device in the guest."""
        wait = f"udevadm wait --settle --timeout={PATIENCE:.0f} {link}"
        node, system = self.good(
            f"{wait}; node=$(readlink -f {link}); echo $node; readlink -f /sys/class/block/${{node##*/}}"
        ).split()
        found = re.search(r"/(\d+-[\d.]+):1\.0/host\d+/target\S+/\d+:\d+:\d+:(\d+)/block/", system)
        assert found is not None, system
        return Reader(name, link, node, f"usb {found[1]}" + (f" #{found[2]}" if found[2] != "0" else ""))

    def _wait_for_size(self, reader: Reader, size: int) -> None:
        """Wait until the kernel has seen that a card was put in or taken out: it asks every two seconds."""
        file = f"/sys/class/block/{reader.node.rpartition('/')[2]}/size"
        self.good(f"until [ $(cat {file}) = {size // 512} ]; do sleep 0.2; done; udevadm settle")


def _by_path(port: str, unit: int) -> str:
    return f"pci-0000:00:04.0-usb-0:{port}:1.0-scsi-0:0:0:{unit}"


class Seat:
    """Somebody at a terminal in the guest, who runs piimg."""

    def __init__(self, guest: Guest, *words: str, folder: str = CLUSTER) -> None:
        self.window = Window(150, 45)
        script = f"cd {folder} && exec {shlex.join(['piimg', *by_images(words)])}"
        self.process = subprocess.Popen(
            guest.command(script, "-tt"),
            env={**os.environ, "TERM": "xterm"},
            stdin=self.window.side,
            stdout=self.window.side,
            stderr=self.window.side,
            start_new_session=True,
        )

    def see(self, *wanted: str, seconds: float = PATIENCE) -> str:
        """Wait until one line of what is or was on the screen has all of these; give all of it."""

        def there(lines: list[str]) -> bool:
            return any(all(text in line for text in wanted) for line in self.window.everything)

        return "\n".join(self.window.wait_for(there, seconds))

    def see_part(self, node: str, percent: int, task: str = "write") -> None:
        """Wait until a node is ``percent`` through with a task."""
        bar = re.compile(rf"{node}\b.* {task} +(\d+)%")

        def there(lines: list[str]) -> bool:
            return any((found := bar.search(line)) and int(found[1]) >= percent for line in lines)

        self.window.wait_for(there, PATIENCE)

    def type(self, text: str) -> None:
        os.write(self.window.main, text.encode())

    def end(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """Wait for its end: the exit code, and everything that was on the screen."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "\n".join(self.window.everything)
            self.window.read(0.2)
        while self.window.read(0.1):
            pass
        said = "\n".join(self.window.everything)
        assert "Traceback" not in said, said
        return self.process.returncode, said


@contextlib.contextmanager
def seat(guest: Guest, *words: str, folder: str = CLUSTER) -> Iterator[Seat]:
    """Somebody at a terminal; what they run ends with the block."""
    one = Seat(guest, *words, folder=folder)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        os.close(one.window.main)
        os.close(one.window.side)
        guest.run("pkill -KILL -x piimg")


def qemu_command(disks: Disks) -> list[str]:
    """The command line of the guest; run it in the folder of its sockets."""
    own = f"if=none,id=own,file={disks.root},format=raw,snapshot=on,cache=unsafe"
    cluster = f"if=none,id=cluster,file={disks.cluster},format=raw,snapshot=on,cache=unsafe"
    door = f"user,id=door,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-{ADDRESS}:22"
    argv = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", _PROCESSOR]
    argv += ["-smp", "2", "-m", "1536", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-name", "piimg-guest", "-qmp", "unix:guest.qmp,server=on,wait=off", "-serial", "file:console"]
    argv += ["-kernel", str(disks.kernel), "-initrd", str(disks.initramfs), "-append", disks.words]
    argv += ["-drive", own, "-device", "ide-hd,drive=own,bus=ide.0,serial=OWN"]
    argv += ["-drive", cluster, "-device", "virtio-blk-pci,drive=cluster,serial=CLUSTER"]
    argv += ["-device", "virtio-rng-pci", "-netdev", door, "-device", "virtio-net-pci,netdev=door"]
    argv += ["-device", "qemu-xhci,id=xhci,addr=4,p2=15,p3=15", "-device", f"usb-hub,bus=xhci.0,port={HUB}"]
    argv += ["-device", f"usb-uas,id={MULTI},bus=xhci.0,port={HUB + 1}"]
    for slot in range(SLOTS):
        unit = f"scsi-hd,id={MULTI}{slot},bus={MULTI}.0,lun={slot},drive=slot{slot},removable=on"
        argv += ["-drive", f"if=none,id=slot{slot}", "-device", unit]
    argv += [
        "-drive",
        "if=none,id=sdslot",
        "-device",
        "sdhci-pci,id=sdhci",
        "-device",
        "sd-card,id=sd,drive=sdslot",
    ]
    return argv


@contextlib.contextmanager
def booted(disks: Disks) -> Iterator[Guest]:
    """A guest that has booted; what it writes to its own disks is forgotten."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guest-")))
        qemu = stack.enter_context(background(qemu_command(disks), said=folder / "qemu", cwd=folder))

        def check() -> None:
            assert qemu.poll() is None, (folder / "qemu").read_text()

        monitor = stack.enter_context(_monitor(folder / "guest.qmp", check))
        listed = monitor.ask("human-monitor-command", **{"command-line": "info usernet"})
        known_hosts(folder / "known_hosts", {"guest": disks.host_key})
        login = Login("guest", "root", (door_to(listed, ADDRESS, 22),), folder / "known_hosts", (disks.key,))
        login.wait(_BOOT, check)
        guest = Guest(folder, disks, monitor, login)
        # One connection for all: a login takes seconds in emulation.
        master = guest.command("true", "-M", "-N")[:-1]
        stack.enter_context(background(master, said=folder / "ssh.log"))
        wait_until((folder / "ssh").exists, _BOOT, (folder / "ssh.log").read_text)
        guest.run("systemctl is-system-running --wait", patience=_BOOT)
        yield guest


@contextlib.contextmanager
def _monitor(path: Path, check: Any) -> Iterator[Monitor]:
    deadline = time.monotonic() + _BOOT
    while (connection := connect(path)) is None:
        check()
        assert time.monotonic() < deadline, "QEMU does not listen"
        time.sleep(0.1)
    connection.settimeout(PATIENCE)
    with connection, connection.makefile("rwb") as stream:
        assert isinstance(stream, io.BufferedRWPair)
        yield Monitor(stream)
