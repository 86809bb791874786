"""Stopping one unit of a reader, so that the medium in it can be taken out.

The request numbers are those of scsi/scsi_ioctl.h and linux/cdrom.h; the kernel's sd driver knows both.
"""

import contextlib
import fcntl

_SCSI_IOCTL_DOORUNLOCK = 0x5381
_CDROMEJECT = 0x5309  # START STOP UNIT with LoEj and without Start, sent to this one unit


def stop_unit(handle: int) -> None:
    """Tell the unit behind the open block device to stop and let its medium go. Raises OSError.

    This is for the medium. Its slot, the other slots of the reader and the reader itself stay: taking the
    device away (device/delete in sysfs) or powering the USB port down would need the reader plugged in anew.
    """
    # Opening a removable disk locks its door, and a locked unit may refuse to let go.
    with contextlib.suppress(OSError):
        fcntl.ioctl(handle, _SCSI_IOCTL_DOORUNLOCK)
    fcntl.ioctl(handle, _CDROMEJECT)
