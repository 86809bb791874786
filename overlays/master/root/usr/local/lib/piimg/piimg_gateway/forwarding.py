"""The kernel's forwarding settings per interface, with the values to restore when the gateway closes.

Only the settings of the LAN and the uplink interface are changed, never ip_forward: Docker sets ip_forward
and adds its own firewall rules when it finds 0, but not when it finds 1. A write to ip_forward by another
program sets every interface.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

FOLDER = Path("/proc/sys/net/ipv4/conf")
_ALL = "all"


class Forwarding:
    """The forwarding of two interfaces while the gateway is open."""

    def __init__(self, interfaces: tuple[str, str]) -> None:
        self._interfaces = interfaces
        self._all = ""
        self._without: dict[str, tuple[int, str]] = {}  # interface: its index, its original value

    def saved(self) -> str:
        """The saved values, as a text for ``load``."""
        words = [f"{name}:{index}:{value}" for name, (index, value) in self._without.items()]
        return " ".join([self._all, *words]) if words else ""

    def load(self, saved: str) -> None:
        """Restore the values that an earlier process saved. Invalid words are ignored."""
        everything, *words = saved.split() or [""]
        for word in words:
            name, _, rest = word.rpartition(":")
            name, _, index = name.rpartition(":")
            if name in self._interfaces and index.isdigit() and rest in ("0", "1"):
                self._without[name] = int(index), rest
                self._all = everything

    def set(self) -> None:
        """Switch forwarding on. Call it repeatedly, so that it notices values written by other programs."""
        everything = _read(_ALL)
        rewritten = self._all not in ("", everything)
        self._all = everything
        for name in self._interfaces:
            value, index = _read(name), _index(name)
            if not value:
                self._without.pop(name, None)  # the interface is gone
                continue
            known = self._without.get(name)
            if known is None or known[0] != index:
                self._without[name] = index, value
            elif rewritten:
                self._without[name] = index, everything
            elif value != "1":
                self._without[name] = index, value
            if value != "1":
                _write(name, "1")

    def restore(self) -> None:
        """Set the values that the interfaces would have without the gateway."""
        if not self._without:
            return
        self.set()  # notice the last changes by other programs
        for name, (index, value) in self._without.items():
            if index == _index(name) and _read(name) not in ("", value):
                _write(name, value)
        self._without.clear()
        self._all = ""


def _read(name: str) -> str:
    try:
        return (FOLDER / name / "forwarding").read_text().strip()
    except OSError:
        return ""


def _write(name: str, value: str) -> None:
    with contextlib.suppress(OSError):  # the interface has gone
        (FOLDER / name / "forwarding").write_text(value)


def _index(name: str) -> int:
    try:
        return int(Path("/sys/class/net", os.fspath(name), "ifindex").read_text())
    except (OSError, ValueError):
        return 0
