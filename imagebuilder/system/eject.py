"""Stop one unit of a card reader, so that its medium can be removed.

The request numbers are those of scsi/scsi_ioctl.h and linux/cdrom.h; the kernel's sd driver knows both.
"""

import contextlib
import fcntl

_SCSI_IOCTL_DOORUNLOCK = 0x5381
_CDROMEJECT = 0x5309  # START STOP UNIT with LoEj and without Start, sent to this one unit


def stop_unit(handle: int) -> None:
    """Stop the unit behind the open block device, and eject its medium. Raises OSError.

    Only the medium is ejected. The slot, the other slots and the reader stay usable: after deleting the
    device (device/delete in sysfs) or powering down the USB port, the reader would have to be plugged in
    again.
    """
    # Opening a removable disk locks its door, and a locked unit may refuse to eject.
    with contextlib.suppress(OSError):
        fcntl.ioctl(handle, _SCSI_IOCTL_DOORUNLOCK)
    fcntl.ioctl(handle, _CDROMEJECT)
