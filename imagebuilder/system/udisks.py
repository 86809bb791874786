"""Disks opened by udisks2, for who may not open them: it asks polkit, and so whoever sits at the desktop.

Its D-Bus interface is org.freedesktop.UDisks2 (udisks reference manual): Manager.ResolveDevice finds a disk
by its path, Block.OpenDevice opens it with flags of open(2) and hands over the descriptor, Block.Rescan has
the kernel read its partition table. So nothing of piimg runs as root.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, DBusErrorResponse, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.wrappers import unwrap_msg

_log = logging.getLogger(__name__)

_NAME = "org.freedesktop.UDisks2"
_MANAGER = DBusAddress("/org/freedesktop/UDisks2/Manager", _NAME, f"{_NAME}.Manager")
_PATIENCE = 10.0  # seconds for an answer that asks nobody
_THINKING = 300.0  # seconds for somebody to find their password


class Refused(OSError):
    """udisks2 was asked, and says no: this user may not, or did not say who they are."""


def is_there() -> bool:
    """Whether there is a udisks2. It is started if it can be."""
    where = DBusAddress(_MANAGER.object_path, _NAME, "org.freedesktop.DBus.Properties")
    try:
        with _connected() as bus:
            _call(bus, where, "Get", "ss", (f"{_NAME}.Manager", "Version"), _PATIENCE)
    except OSError:
        return False
    return True


def knows(device: Path) -> bool:
    """Whether there is a udisks2 that could be asked to open ``device``. Nobody is asked anything."""
    try:
        with _connected() as bus:
            return bool(_found(bus, device))
    except OSError:
        return False


def open_device(device: Path, flags: int) -> int:
    """Have ``device`` opened with these flags of open(2), and give the descriptor.

    Raises Refused when the user may not, and OSError with what open(2) said, or ENOSYS without udisks2.
    """
    mode = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}[flags & os.O_ACCMODE]
    more = flags & ~os.O_ACCMODE
    with _connected() as bus:
        found = _found(bus, device)
        if not found:
            raise OSError(errno.ENOSYS, "udisks2 knows no such disk")
        block = DBusAddress(found[0], _NAME, f"{_NAME}.Block")
        (opened,) = _call(bus, block, "OpenDevice", "sa{sv}", (mode, {"flags": ("i", more)}), _THINKING)
        handle = int(opened.to_raw_fd())
    if more & (os.O_DIRECT | os.O_NONBLOCK) & ~fcntl.fcntl(handle, fcntl.F_GETFL):
        os.close(handle)
        raise OSError(errno.EINVAL, "udisks2 did not open the disk as it was asked to")
    os.set_inheritable(handle, False)
    return handle


def rescan(device: Path) -> None:
    """Have the kernel and udev look at ``device`` anew, its partition table too. Raises OSError."""
    with _connected() as bus:
        for path in _found(bus, device):
            _call(bus, DBusAddress(path, _NAME, f"{_NAME}.Block"), "Rescan", "a{sv}", ({},), _PATIENCE)


def _connected() -> DBusConnection:
    """The system bus. Raises OSError where there is none, as in a container."""
    try:
        return open_dbus_connection("SYSTEM", enable_fds=True)
    except (ValueError, EOFError) as error:  # an address it cannot use, a login that is refused
        raise OSError(errno.ENOSYS, f"no system bus: {error}") from error


def _found(bus: DBusConnection, device: Path) -> Sequence[str]:
    """The objects that ``device`` is; none when udisks2 does not know it, or is not there."""
    body: tuple[dict[str, Any], dict[str, Any]] = ({"path": ("s", str(device))}, {})
    try:
        (found,) = _call(bus, _MANAGER, "ResolveDevice", "a{sv}a{sv}", body, _PATIENCE)
    except OSError:
        return ()
    return list(found)


def _call(
    bus: DBusConnection, where: DBusAddress, method: str, signature: str, body: Any, patience: float
) -> Any:
    """Call a method and give what it returns. Raises OSError."""
    _log.debug("udisks2: %s of %s", method, where.object_path)
    try:
        reply = bus.send_and_get_reply(new_method_call(where, method, signature, body), timeout=patience)
        return unwrap_msg(reply)
    except DBusErrorResponse as error:
        raise _meant(error) from error
    except (TimeoutError, EOFError, ConnectionError) as error:
        raise OSError(errno.ETIMEDOUT, "udisks2 does not answer") from error


_ERRORS = (errno.EBUSY, errno.EROFS, errno.ENOMEDIUM, errno.ENXIO, errno.ENOENT, errno.EINVAL, errno.EIO)


def _meant(error: DBusErrorResponse) -> OSError:
    """What udisks2 means. It tells what open(2) said in words only."""
    said = str(error.data[0]) if error.data else error.name
    if ".NotAuthorized" in error.name:
        return Refused(errno.EACCES, said)
    number = next((one for one in _ERRORS if os.strerror(one) in said), errno.ENOSYS)
    return OSError(number, said)
