"""One emulated board: QEMU, its console, its card, its power switch.

At each start it does the work of a Raspberry Pi's firmware: it reads cmdline.txt (and for the 3 B+ kernel,
initramfs and device tree) from the card's boot partition. Because a first boot rewrites cmdline.txt, QEMU
ends at each reset of the guest, and is started again with the new contents of the boot partition.
"""

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imagebuilder.boot.firmware import Firmware, command_line, firmware_files
from imagebuilder.boot.kernel import Kernel
from imagebuilder.boot.network import QEMU, Port
from imagebuilder.boot.qmp import connect, control
from imagebuilder.errors import NodeError
from imagebuilder.image.partitions import Slice, boot_and_root, read_table
from imagebuilder.image.tree import BootTree
from imagebuilder.system.process import background, run
from imagebuilder.text import printable

Kind = Literal["virt", "raspi3b"]
_TAIL = 12  # lines of the console that an error shows
_CODES = 128  # MiB of cache for translated code; with half of it QEMU flushes the cache 22 times per boot
_ANSWER = 120.0  # seconds until QEMU listens
_ENDING = 10.0  # seconds until QEMU must have ended
_SILENCE = 120.0  # seconds without output from the kernel
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()][A-Z0-9]|.)")
_HALTED = b"Reboot failed -- System halted"  # the module that resets the board is not loaded
_LINE = 200  # bytes at the end of the console that are searched
_NO_WATCHDOG = "systemd.watchdog_device=/dev/none"
"""For ``raspi3b``: QEMU resets the board at once when its watchdog is started (bcm2835_powermgt.c)."""

_PANIC = "Kernel panic - not syncing"
_EMERGENCY = "You are in emergency mode"  # printed by sulogin in systemd's emergency.service
_FAILED = re.compile(r"\[(FAILED|DEPEND| TIME )\]")  # systemd's marks of a failed start


@dataclass(frozen=True)
class Hardware:
    """The hardware of the emulated boards: ``memory`` in MiB; ``card`` is the card size in bytes (2**n).

    ``processors`` is for ``virt``; a board of the kind ``raspi3b`` has four.
    """

    kind: Kind = "virt"
    memory: int = 512
    processors: int = 2
    card: int = 8 << 30


@dataclass(frozen=True)
class BoardDisk:
    """The card of a board: a QCOW2 overlay over a node image, or a device that the board writes to."""

    file: Path
    format: Literal["qcow2", "raw"]
    boot: Slice


def overlay(image: Path, file: Path, size: int) -> BoardDisk:
    """A card of ``size`` bytes with the contents of the node image; changes are stored in ``file``.

    The size is doubled until the image fits.
    """
    table = read_table(image)
    while size < table.size:
        size *= 2
    backing = os.fspath(image.resolve())
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", f"file:{backing}", "-F", "raw", file, str(size)])
    return BoardDisk(file, "qcow2", boot_and_root(table)[0])


def card(device: Path) -> BoardDisk:
    """The card in ``device``, or an image file: what the board writes stays on it."""
    return BoardDisk(device, "raw", boot_and_root(read_table(device), with_data=True)[0])


class Machine:
    """A board, at first with its power off. Create it with ``machine``, so that it never outlives its block.

    ``console`` is the file with all output of its serial console; ``starts`` counts its starts, by power-on
    and by reset. QEMU inherits the descriptors ``cables``.
    """

    def __init__(
        self, name: str, folder: Path, command: Callable[[], list[str]], cables: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.folder = folder
        self.console = folder / f"{name}.console"
        self.starts = 0
        self._command = command
        self._cables = cables
        self._log = folder / f"{name}.qemu"
        self._cut = threading.Event()
        self._thread: threading.Thread | None = None
        self._events: list[dict[str, Any]] = []
        self._pid = 0
        self._started = 0.0  # time.monotonic()
        self._start_offset = 0  # bytes; where in the console the last start began
        self._failure: BaseException | None = None

    @property
    def is_on(self) -> bool:
        """Whether the board has power."""
        return self._thread is not None and self._thread.is_alive()

    def power_on(self) -> None:
        """Switch the board on, without waiting for QEMU to start."""
        assert not self.is_on
        self._cut.clear()
        self._failure = None
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"board-{self.name}")
        self._thread.start()

    def power_cut(self) -> None:
        """Cut the power at once: data that the node has not yet written to its card is lost."""
        self._cut.set()
        if self._thread is not None:
            self._thread.join()

    def wait_off(self, patience: float) -> None:
        """Wait until the node has switched itself off. Raises PiimgError after ``patience`` seconds."""
        assert self._thread is not None
        self._thread.join(patience)
        if self.is_on:
            raise self._trouble(f"{self.name} is still on after {patience:.0f} seconds")

    def check(self) -> None:
        """Raises PiimgError, with the console's last lines, when the node cannot come up any more."""
        if self._failure is not None:
            raise self._failure
        if any(event.get("data", {}).get("nospace") for event in self._events):
            raise NodeError(
                f"no space left in {self.folder}: {self.name} was stopped",
                "free some space, or set PIIMG_CACHE to a folder on a larger disk",
            )
        output = self.last_start()
        if _PANIC in output:
            before, panic, after = output.partition(_PANIC)
            reason = after.partition("\n")[0]  # the lines after it are registers
            raise self._trouble(f"{self.name}: {panic}{reason}", f"{before}{panic}{reason}")
        if _EMERGENCY in output:
            failed = "\n".join(line for line in output.splitlines() if _FAILED.search(line))
            raise self._trouble(f"{self.name} is in emergency mode: its boot has stopped", failed or output)
        if not self.is_on:
            raise self._trouble(f"{self.name} is off: {self._ending()}")
        if not output and time.monotonic() - self._started > _SILENCE:
            raise NodeError(
                f"{self.name}: the kernel printed nothing on the console for {_SILENCE:.0f} seconds",
                "its boot partition may have no kernel for this machine: use --machine virt",
            )

    def serial(self) -> socket.socket | None:
        """A connection to the serial console, one at a time; None while the board is not running."""
        return connect(self.folder / f"{self.name}.tty") if self.is_on else None

    def last_start(self) -> str:
        """The console's output since the last start, as plain text."""
        return plain(self._bytes()[self._start_offset :])

    def tail(self) -> list[str]:
        """The console's last lines."""
        return _last_lines(self.last_start())

    def resident(self) -> int:
        """The host memory that the board uses now, in bytes."""
        try:
            pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _bytes(self) -> bytes:
        return self.console.read_bytes() if self.console.exists() else b""

    def _trouble(self, message: str, output: str | None = None) -> NodeError:
        lines = _last_lines(self.last_start() if output is None else output)
        shown = "\n".join(f"  {line}" for line in lines)
        return NodeError(
            message, f"the last lines of its console:\n{shown}" if shown else "its console is empty"
        )

    def _ending(self) -> str:
        if any(event["event"] == "SHUTDOWN" and event["data"].get("guest") for event in self._events):
            return "it switched itself off"
        output = self._log.read_text("utf-8", "replace").strip() if self._log.exists() else ""
        return f"QEMU ended: {output.splitlines()[-1] if output else 'without a message'}"

    def _run(self) -> None:
        """Start QEMU, also after each reset by the guest, until the power is cut or the node is off."""
        try:
            while not self._cut.is_set():
                if not self._run_qemu(self._command()):
                    return
        except Exception as error:  # raised by check(), in the thread that waits for the node
            self._failure = error

    def _run_qemu(self, argv: list[str]) -> bool:
        """Run QEMU until it ends; whether it ended by a reset."""
        halted = False
        self.starts += 1
        self._start_offset = len(self._bytes())
        events: list[dict[str, Any]] = []
        self._events = events
        with background(argv, said=self._log, cwd=self.folder, keep=self._cables) as qemu:
            self._pid = qemu.pid
            self._started = time.monotonic()
            watcher = threading.Thread(target=self._watch, args=(events, lambda: qemu.poll() is None))
            watcher.start()
            while watcher.is_alive() and not self._cut.wait(0.1):
                if halted := _HALTED in self._bytes()[self._start_offset :][-_LINE:]:
                    break
            if watcher.is_alive():
                qemu.terminate()  # writes the node's data to the card's file
            watcher.join(_ENDING)
            qemu.kill()
            watcher.join()
        endings = [event["data"].get("reason") for event in events if event["event"] == "SHUTDOWN"]
        return halted or "guest-reset" in endings

    def _watch(self, events: list[dict[str, Any]], alive: Callable[[], bool]) -> None:
        """Collect QEMU's events in ``events`` until it ends."""
        try:
            with control(self.folder / f"{self.name}.qmp", alive, _ANSWER) as qemu:
                qemu.events = events
                qemu.wait()
        except EOFError:
            pass
        except Exception as error:
            self._failure = error


@contextlib.contextmanager
def machine(
    name: str, folder: Path, hardware: Hardware, kernel: Kernel | None, disk: BoardDisk, ports: list[Port]
) -> Iterator[Machine]:
    """A board called ``name``, switched off; its power is cut at the end. ``folder`` is private to the run.

    ``kernel`` is the companion kernel for "virt"; other boards boot the kernel of their boot partition.
    """

    def command() -> list[str]:
        tree = boot_partition(disk, folder / f"{name}.boot")
        if hardware.kind == "raspi3b":
            return raspi3b(name, hardware, disk, ports, firmware_files(tree, folder / name))
        assert kernel is not None
        return virt(name, hardware, disk, ports, kernel, command_line(tree))

    board = Machine(name, folder, command, [port.cable for port in ports if port.cable is not None])
    try:
        yield board
    finally:
        board.power_cut()


def boot_partition(disk: BoardDisk, copy: Path) -> BootTree:
    """The current boot partition of ``disk``, for mtools; that of a QCOW2 file is copied to ``copy``."""
    if disk.format == "raw":
        return BootTree(disk.file, disk.boot.start)
    source = f"driver=raw,offset={disk.boot.start},size={disk.boot.size},file.driver=qcow2,"
    source += f"file.file.driver=file,file.file.filename={_quoted(disk.file)}"
    run(["qemu-img", "convert", "--image-opts", source, "-O", "raw", copy])
    return BootTree(copy, 0)


def virt(
    name: str, hardware: Hardware, disk: BoardDisk, ports: list[Port], kernel: Kernel, words: str
) -> list[str]:
    """The command line for QEMU's generic board with virtio devices."""
    named = " ".join(f"piimg.port={port.mac}={port.name}" for port in ports)
    argv = [QEMU, "-M", f"virt{',gic-version=host' if can_kvm() else ''}", *_processor()]
    argv += ["-smp", str(hardware.processors), "-m", str(hardware.memory), *_common(name)]
    argv += ["-kernel", str(kernel.image), "-initrd", str(kernel.initramfs), "-append", f"{words} {named}"]
    argv += ["-drive", f"if=none,id=card,{_drive(disk)}", "-device", "virtio-blk-device,drive=card"]
    argv += ["-device", "virtio-rng-device"]
    for number, port in enumerate(ports):
        argv += ["-netdev", _with_id(port.netdev, f"net{number}")]
        argv += ["-device", f"virtio-net-device,netdev=net{number},mac={port.mac}"]
    return argv


def raspi3b(name: str, hardware: Hardware, disk: BoardDisk, ports: list[Port], files: Firmware) -> list[str]:
    """The command line for QEMU's Raspberry Pi 3 B; with the device tree of a 3 B+ it is one."""
    argv = [QEMU, "-M", "raspi3b", "-accel", _emulation(), *_common(name)]
    argv += ["-kernel", str(files.kernel), "-dtb", str(files.device_tree)]
    argv += ["-append", f"{files.words} {_NO_WATCHDOG}"]
    argv += ["-initrd", str(files.initramfs)] if files.initramfs else []
    argv += ["-drive", f"if=sd,{_drive(disk)}"]
    for number, port in enumerate(ports):
        argv += ["-netdev", _with_id(port.netdev, f"net{number}")]
        argv += ["-device", f"usb-net,netdev=net{number},mac={port.mac}"]
    return argv


def can_kvm() -> bool:
    """Whether the host can run a node with KVM."""
    return os.uname().machine == "aarch64" and os.access("/dev/kvm", os.R_OK | os.W_OK)


def _processor() -> list[str]:
    if can_kvm():
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", _emulation(), "-cpu", "cortex-a72"]


def _emulation() -> str:
    return f"tcg,thread=multi,tb-size={_CODES}"


def _common(name: str) -> list[str]:
    console = f"socket,id=console,path={name}.tty,server=on,wait=off,logfile={name}.console,logappend=on"
    return [
        *("-name", name, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-qmp", f"unix:{name}.qmp,server=on,wait=off"),
        *("-chardev", console, "-serial", "chardev:console"),
    ]


def _drive(disk: BoardDisk) -> str:
    # The host's page cache outlives the board: a flush by the node need not reach the host's disk.
    cache = "unsafe" if disk.format == "qcow2" else "writeback"
    return f"format={disk.format},file={_quoted(disk.file)},cache={cache}"


def _quoted(path: Path) -> str:
    """A path in an option of QEMU, where a comma ends the value."""
    return str(path).replace(",", ",,")


def _with_id(netdev: str, name: str) -> str:
    return re.sub(r"\bid=[^,]*", f"id={name}", netdev, count=1)


def plain(output: bytes) -> str:
    """A console's output as text, without escape sequences and control characters."""
    text = _ESCAPES.sub("", output.decode("utf-8", "replace")).replace("\r", "")
    return printable(text, None, keep="\n", instead=" ")


def _last_lines(output: str) -> list[str]:
    """The last lines that are not empty."""
    return [line for line in output.splitlines() if line.strip()][-_TAIL:]
