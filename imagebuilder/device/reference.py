"""The disk that a report, an event or a note refers to."""

from dataclasses import dataclass

from imagebuilder.device.discovery import Disk


@dataclass(frozen=True)
class DiskRef:
    """The names of a disk, for use after it was removed.

    ``device`` is the path of its device file at that time, ``slot`` the physical port; ``model`` and
    ``serial`` are the card's own or, behind USB, the reader's; ``size`` in bytes. Records about a disk extend
    this class, so that these fields are beside their own fields in JSON.
    """

    device: str
    slot: str
    model: str
    serial: str
    size: int


def reference(disk: Disk) -> DiskRef:
    """The present names of ``disk``."""
    return DiskRef(str(disk.node), disk.slot, disk.model, disk.serial, disk.size)
