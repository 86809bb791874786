"""Which disk a report, an event or a note is about."""

from dataclasses import dataclass

from imagebuilder.device.discovery import Disk


@dataclass(frozen=True)
class DiskRef:
    """A disk as it is named for later, when it may be gone.

    ``device`` is the path of its device file at that time, ``slot`` the physical port; ``model`` and
    ``serial`` are the card's own or, behind USB, the reader's; ``size`` in bytes. What is kept about a disk
    extends this class, so that these stand beside its own fields in JSON.
    """

    device: str
    slot: str
    model: str
    serial: str
    size: int


def reference(disk: Disk) -> DiskRef:
    """The names of ``disk`` as it is now."""
    return DiskRef(str(disk.node), disk.slot, disk.model, disk.serial, disk.size)
