"""Facts about this machine for a bug report: versions of piimg, its libraries and tools, and the host."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping

from imagebuilder import __version__
from imagebuilder.errors import PiimgError
from imagebuilder.system.process import PACKAGES, run

LIBRARIES = (
    *("click", "cryptography", "Jinja2", "jeepney", "libpass", "passlib", "pydantic"),
    *("pyparted", "pyudev", "PyYAML", "requests", "tqdm"),
)
"""The libraries of piimg, by their names on PyPI. libpass replaces passlib: only one of them is installed."""

_NATIVE = ("libparted2", "libudev1", "udev", "udisks2")
_QUERY = "dpkg-query"


def versions() -> dict[str, object]:
    """The versions of piimg, Python, libraries, and Debian packages of tools; None if not installed."""
    return {
        "piimg": __version__,
        "python": platform.python_version(),
        "libraries": {name: _library(name) for name in LIBRARIES},
        "tools": _packages(),
    }


def _library(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Mapping[str, object]:
    """The installed version of each Debian package that piimg uses, by name."""
    names = sorted({*PACKAGES.values(), *_NATIVE})
    form = "${Package}\\t${db:Status-Status}\\t${Version}\\n"
    try:
        result = run([_QUERY, "--show", f"--showformat={form}", *names], ok=(0, 1))  # 1: unknown package
    except PiimgError as error:  # another distribution
        return {"error": error.message}
    rows = [line.split("\t") for line in result.stdout.decode("utf-8", "replace").splitlines()]
    installed = {row[0]: row[2] for row in rows if len(row) == 3 and row[1] == "installed"}
    return {name: installed.get(name) for name in names}


def host() -> dict[str, object]:
    """Name, kernel and size of this machine; ``memory`` is in bytes."""
    uname = os.uname()
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        distribution = ""
    return {
        "name": uname.nodename,
        "kernel": f"{uname.sysname} {uname.release} {uname.version}",
        "machine": uname.machine,
        "distribution": distribution,
        "processors": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
