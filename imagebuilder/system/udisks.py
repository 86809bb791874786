"""Open disks with udisks2, for users who may not open them: udisks2 has polkit ask the user for permission.

Its D-Bus interface is org.freedesktop.UDisks2 (udisks reference manual): Manager.ResolveDevice finds a disk
by its path, Block.OpenDevice opens it with flags of open(2) and returns the descriptor, Block.Rescan makes
the kernel read its partition table. So piimg need not run as root.
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
_PATIENCE = 10.0  # seconds for an answer without a question to the user
_THINKING = 300.0  # seconds for the user to enter a password


class Refused(OSError):
    """udisks2 refused: this user may not open the disk, or did not authenticate."""


def is_there() -> bool:
    """Whether udisks2 is available. It is started if possible."""
    where = DBusAddress(_MANAGER.object_path, _NAME, "org.freedesktop.DBus.Properties")
    try:
        with _connected() as bus:
            _call(bus, where, "Get", "ss", (f"{_NAME}.Manager", "Version"), _PATIENCE)
    except OSError:
        return False
    return True


def knows(device: Path) -> bool:
    """Whether udisks2 knows ``device``. The user is not asked."""
    try:
        with _connected() as bus:
            return bool(_objects(bus, device))
    except OSError:
        return False


def open_device(device: Path, flags: int) -> int:
    """Open ``device`` with these flags of open(2); return the descriptor.

    Raises Refused when the user may not, and OSError with the error of open(2), or ENOSYS without udisks2.
    """
    mode = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}[flags & os.O_ACCMODE]
    more = flags & ~os.O_ACCMODE
    with _connected() as bus:
        objects = _objects(bus, device)
        if not objects:
            raise OSError(errno.ENOSYS, "udisks2 does not know the disk")
        block = DBusAddress(objects[0], _NAME, f"{_NAME}.Block")
        (opened,) = _call(bus, block, "OpenDevice", "sa{sv}", (mode, {"flags": ("i", more)}), _THINKING)
        handle = int(opened.to_raw_fd())
    if more & (os.O_DIRECT | os.O_NONBLOCK) & ~fcntl.fcntl(handle, fcntl.F_GETFL):
        os.close(handle)
        raise OSError(errno.EINVAL, "udisks2 did not open the disk with the requested flags")
    os.set_inheritable(handle, False)
    return handle


def rescan(device: Path) -> None:
    """Make the kernel and udev read ``device`` again, with its partition table. Raises OSError."""
    with _connected() as bus:
        for path in _objects(bus, device):
            _call(bus, DBusAddress(path, _NAME, f"{_NAME}.Block"), "Rescan", "a{sv}", ({},), _PATIENCE)


def _connected() -> DBusConnection:
    """The system bus. Raises OSError where there is none, as in a container."""
    try:
        return open_dbus_connection("SYSTEM", enable_fds=True)
    except (ValueError, EOFError) as error:  # an address it cannot use, a login that is refused
        raise OSError(errno.ENOSYS, f"no system bus: {error}") from error


def _objects(bus: DBusConnection, device: Path) -> Sequence[str]:
    """The D-Bus objects of ``device``; none when udisks2 does not know it, or does not run."""
    body: tuple[dict[str, Any], dict[str, Any]] = ({"path": ("s", str(device))}, {})
    try:
        (objects,) = _call(bus, _MANAGER, "ResolveDevice", "a{sv}a{sv}", body, _PATIENCE)
    except OSError:
        return ()
    return list(objects)


def _call(
    bus: DBusConnection, where: DBusAddress, method: str, signature: str, body: Any, patience: float
) -> Any:
    """Call a method and return its result. Raises OSError."""
    _log.debug("udisks2: %s of %s", method, where.object_path)
    try:
        reply = bus.send_and_get_reply(new_method_call(where, method, signature, body), timeout=patience)
        return unwrap_msg(reply)
    except DBusErrorResponse as error:
        raise _as_os_error(error) from error
    except (TimeoutError, EOFError, ConnectionError) as error:
        raise OSError(errno.ETIMEDOUT, "udisks2 does not answer") from error


_ERRORS = (errno.EBUSY, errno.EROFS, errno.ENOMEDIUM, errno.ENXIO, errno.ENOENT, errno.EINVAL, errno.EIO)


def _as_os_error(error: DBusErrorResponse) -> OSError:
    """The error of udisks2 as OSError. It reports the error of open(2) only as text."""
    message = str(error.data[0]) if error.data else error.name
    if ".NotAuthorized" in error.name:
        return Refused(errno.EACCES, message)
    number = next((number for number in _ERRORS if os.strerror(number) in message), errno.ENOSYS)
    return OSError(number, message)
