"""Find the disks of this machine and their slots. Only this module and monitor.py use pyudev.

The properties that udev adds (ID_…) may be missing, for example in a container without a udev daemon; then
the kernel's attributes in sysfs are used. The kernel's attributes are documented in
Documentation/ABI/stable/sysfs-block and Documentation/driver-api/mmc/mmc-dev-attrs.rst, those of udev in
systemd's rules.d (60-persistent-storage.rules).
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.text import printable

if TYPE_CHECKING:
    import pyudev  # only Linux has udev: it is loaded when disks are looked for

Driver = Literal["usb", "mmc", "ata", "nvme", "virtio", "loop", "virtual", "other"]

SECTOR = 512  # bytes; the unit of sizes in sysfs, whatever the sector size of the disk
ATTRIBUTES = (
    "size",
    "removable",
    "ro",
    "diskseq",
    "device/type",
    "device/name",
    "device/serial",
    "device/model",
    "device/vendor",
    "loop/backing_file",
    "loop/dio",
)
"""The sysfs attributes that ``disk_from`` reads."""

_LIST_CARDS = "list the cards with: piimg cards"
_DRIVERS: tuple[tuple[str, Driver], ...] = (
    ("/virtual/block/loop", "loop"),
    ("/virtual/", "virtual"),
    ("/mmc_host/", "mmc"),
    ("/usb", "usb"),
    ("/nvme", "nvme"),
    ("/ata", "ata"),
    ("/virtio", "virtio"),
)


@dataclass(frozen=True)
class UsbDevice:
    """One USB device in the path of a disk, by the kernel's name (``usb1``, ``1-1``, ``1-1.4``).

    ``speed`` is the speed of its link towards the machine, in Mbit/s: 480 for USB 2, 0 when unknown.
    """

    name: str
    speed: int = 0


@dataclass(frozen=True)
class Disk:
    """One whole disk in its present state: a card, an empty slot, or a disk that is not a card.

    ``node`` is its device file, ``number`` MAJOR:MINOR, ``size`` in bytes (0: no medium), ``slot`` its
    physical port, ``serial`` the card's own or, with USB, the reader's. ``diskseq`` changes with every change
    of the medium (None before Linux 5.15). ``sd`` is True for an SD card in a built-in slot. ``backing`` is
    the file of a loop device, and ``direct`` is False when the host caches that file. ``hops`` are the USB
    devices in its path: the root hub first, the reader last; empty without USB. ``allowed`` is set for a
    fixed disk that the user accepted as a card by its serial.
    """

    node: Path
    number: str
    size: int
    driver: Driver
    slot: str
    removable: bool = False
    read_only: bool = False
    sd: bool = False
    model: str = ""
    serial: str = ""
    diskseq: int | None = None
    backing: str = ""
    direct: bool = True
    path: str = field(default="", repr=False)  # udev's ID_PATH
    hops: tuple[UsbDevice, ...] = field(default=(), repr=False)
    allowed: bool = False

    @property
    def name(self) -> str:
        """The kernel's name: ``sdb``, ``mmcblk0``."""
        return self.node.name

    @property
    def has_medium(self) -> bool:
        """Whether the slot contains a medium."""
        return self.size > 0

    @property
    def identity(self) -> tuple[object, ...]:
        """What must not change between the question and the write."""
        return (self.number, self.size, self.model, self.serial, self.slot, self.diskseq, self.backing)


def disk_from(properties: Mapping[str, str], attributes: Mapping[str, str]) -> Disk:
    """The disk described by the udev properties and sysfs attributes (``ATTRIBUTES``) of a block device.

    ``attributes`` may also contain the speeds of the USB devices above it, as ``1-1.4/speed``.
    Pure. Raises KeyError or ValueError when a value that the kernel always gives (DEVNAME, DEVPATH, MAJOR,
    MINOR, size) is missing.
    """
    devpath = properties["DEVPATH"]
    driver: Driver = next((name for sign, name in _DRIVERS if sign in devpath), "other")
    return Disk(
        node=Path(properties["DEVNAME"]),
        number=f"{int(properties['MAJOR'])}:{int(properties['MINOR'])}",
        size=int(attributes["size"]) * SECTOR,
        driver=driver,
        slot=_slot(driver, devpath, properties),
        removable=attributes.get("removable", "") == "1",
        read_only=attributes.get("ro", "") == "1",
        sd=driver == "mmc" and attributes.get("device/type", "").startswith("SD"),
        model=_model(properties, attributes),
        serial=_text(
            properties.get("ID_SERIAL_SHORT")
            or attributes.get("device/serial")
            or properties.get("ID_SERIAL", "")
        ),
        diskseq=_number(properties.get("DISKSEQ") or attributes.get("diskseq", "")),
        # The kernel marks the path of a deleted file (d_path); the card is still the same.
        backing=attributes.get("loop/backing_file", "").removesuffix(" (deleted)"),
        direct=driver != "loop" or attributes.get("loop/dio", "") == "1",
        path=_text(properties.get("ID_PATH", "")),
        hops=tuple(
            UsbDevice(name, _speed(attributes.get(f"{name}/speed", ""))) for name in _usb_devices(devpath)
        ),
    )


def _usb_devices(devpath: str) -> list[str]:
    """The names of the USB devices in a sysfs path, the root hub first."""
    bus = re.search(r"/usb\d+/.*", devpath)
    return re.findall(r"/(usb\d+|\d+-\d+(?:\.\d+)*)(?=/)", bus[0]) if bus else []


def _speed(text: str) -> int:
    """Mbit/s from the ``speed`` of a USB device in sysfs: "1.5", "12", "480", "5000"."""
    return int(float(text)) if re.fullmatch(r"[0-9]{1,6}(\.[0-9])?", text) else 0


def _slot(driver: Driver, devpath: str, properties: Mapping[str, str]) -> str:
    """The physical port. It does not change with the medium and, for USB, not when the machine restarts."""
    if driver == "usb":
        ports = re.findall(r"/(\d+-\d+(?:\.\d+)*)(?=[/:])", devpath)
        unit = re.search(r"/\d+:\d+:\d+:(\d+)/", devpath)
        if ports:
            return f"usb {ports[-1]}" + (f" #{unit[1]}" if unit and unit[1] != "0" else "")
    if driver == "mmc" and (host := re.search(r"/mmc_host/(mmc\d+)/", devpath)):
        return host[1]
    if driver in ("loop", "virtual"):
        return devpath.rsplit("/", 1)[-1]
    return _text(properties.get("ID_PATH", "")) or devpath.rsplit("/", 1)[-1]


def _model(properties: Mapping[str, str], attributes: Mapping[str, str]) -> str:
    vendor = _text(properties.get("ID_VENDOR") or attributes.get("device/vendor", ""))
    model = _text(
        properties.get("ID_MODEL")
        or properties.get("ID_NAME")
        or attributes.get("device/model")
        or attributes.get("device/name", "")
    )
    known = vendor and not vendor.startswith("0x") and not model.startswith(vendor)
    return f"{vendor} {model}".strip() if known else model


def _text(value: str) -> str:
    """A text from a device, made printable: it is as untrusted as any other input."""
    return " ".join(printable(value.replace("_", " "), None, instead=" ").split())[:64]


def _number(value: str) -> int | None:
    return int(value) if re.fullmatch(r"[0-9]{1,20}", value) else None


def find_disks(virtual: bool = False) -> list[Disk]:
    """All disks, including empty slots, in the order of their slots.

    Loop devices attached to a file are included only when ``virtual``. Other disks that exist only in memory
    or on top of others (device mapper, md, zram) and optical drives are not included.
    """
    devices = _udev().list_devices(subsystem="block", DEVTYPE="disk")
    disks = [disk for device in devices if (disk := _described(device)) is not None]
    kinds = ("virtual",) if virtual else ("virtual", "loop")
    present = (disk for disk in disks if disk.driver not in kinds)
    return sorted((disk for disk in present if disk.driver != "loop" or disk.has_medium), key=slot_order)


def _udev() -> "pyudev.Context":
    try:
        import pyudev

        return pyudev.Context()
    except ImportError as error:
        raise PiimgError(f"cannot list the disks: {error}", "sudo apt-get install libudev1") from error


def slot_order(disk: Disk) -> tuple[object, ...]:
    """A sort key that orders disks naturally by slot: usb 1-2 before usb 1-10."""
    return natural_order(f"{disk.slot}\0{disk.name}")


def natural_order(name: str) -> tuple[object, ...]:
    """A sort key that orders names of slots and disks naturally: numbers by their value."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def _described(device: "pyudev.Device") -> Disk | None:
    if "ID_CDROM" in device.properties or re.match(r"(sr|fd)\d", device.sys_name):
        return None
    attributes = {}
    system = Path(device.sys_path)
    for name in ATTRIBUTES:
        with contextlib.suppress(OSError):
            attributes[name] = (system / name).read_text("utf-8", "replace").strip()
    for above in system.parents:
        if above.name in _usb_devices(f"{device.sys_path}/"):
            with contextlib.suppress(OSError):
                attributes[f"{above.name}/speed"] = (above / "speed").read_text("ascii", "replace").strip()
    with contextlib.suppress(KeyError, ValueError, OSError, UnicodeDecodeError):
        return disk_from({str(k): str(v) for k, v in device.properties.items()}, attributes)
    return None  # it was removed meanwhile


def disk_at(path: Path) -> Disk:
    """The whole disk that ``path`` names: a device file, or any link to one (``/dev/disk/by-id/…``).

    Raises UsageError for anything else; for a partition its hint names the whole disk.
    """
    try:
        node = path.resolve(strict=True)
        info = node.stat()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise UsageError(f"{path}: {reason}", _LIST_CARDS) from None
    if not stat.S_ISBLK(info.st_mode):
        kind = next((word for test, word in _KINDS if test(info.st_mode)), "not a block device")
        raise UsageError(f"{path} is {kind}, not a card", _LIST_CARDS)
    return _disk_numbered(path, info.st_rdev)


_KINDS = (
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a character device"),
)


def _disk_numbered(path: Path, rdev: int) -> Disk:
    system = Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")
    if (system / "partition").exists():
        whole = system.resolve().parent.name
        raise UsageError(
            f"{path} is a partition, not a whole disk", f"the whole disk is /dev/{whole.replace('!', '/')}"
        )
    context = _udev()
    import pyudev

    try:
        device = pyudev.Devices.from_device_number(context, "block", rdev)
    except pyudev.DeviceNotFoundError:
        raise UsageError(f"{path} is a device file without a disk", _LIST_CARDS) from None
    disk = _described(device)
    if disk is None:
        raise UsageError(f"{path} is not a disk for a node image", _LIST_CARDS)
    return disk


def changed(before: Disk) -> Iterator[str]:
    """How the disk that now has the number of ``before`` differs from it; nothing when it is the same."""
    major, minor = before.number.split(":")
    try:
        now = _disk_numbered(before.node, os.makedev(int(major), int(minor)))
    except UsageError:
        yield "it was removed"
        return
    words = ("number", "size", "model", "serial", "slot", "medium", "backing file")
    for word, old, new in zip(words, before.identity, now.identity, strict=True):
        if old != new:
            yield f"{word} was {old}, is {new}"
