"""The kernel's forwarding of IPv6, with the values to restore when the gateway closes.

Unlike with IPv4, the kernel forwards nothing while net.ipv6.conf.all.forwarding is 0 (ip6_forward), and a
write to it sets every interface. An interface that forwards ignores router advertisements unless its
accept_ra is 2 (Documentation/networking/ip-sysctl.rst): without it the uplink would lose its way out.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

FOLDER = Path("/proc/sys/net/ipv6/conf")


class Forwarding6:
    """The forwarding of IPv6 while the gateway is open; nothing is changed where it was on before."""

    def __init__(self, uplink: str) -> None:
        self._uplink = uplink
        self._advertisements = ""  # the uplink's accept_ra before the change
        self._changed = False

    def saved(self) -> str:
        """The saved values, as a text for ``load``."""
        return f"on {self._advertisements}".strip() if self._changed else ""

    def load(self, saved: str) -> None:
        """Restore what an earlier process saved."""
        state, _, advertisements = saved.partition(" ")
        self._changed = state == "on"
        self._advertisements = advertisements if advertisements in ("0", "1") else ""

    def set(self) -> None:
        """Switch forwarding on. It may be called repeatedly."""
        accepts = _read(self._uplink, "accept_ra")
        if _read("all", "forwarding") == "0":
            self._changed = True
            if accepts == "1":
                self._advertisements = "1"
                _write(self._uplink, "accept_ra", "2")
            _write("all", "forwarding", "1")

    def restore(self) -> None:
        """Switch forwarding off, if ``set`` switched it on."""
        if not self._changed:
            return
        _write("all", "forwarding", "0")
        if self._advertisements and _read(self._uplink, "accept_ra") == "2":
            _write(self._uplink, "accept_ra", self._advertisements)
        self._changed, self._advertisements = False, ""


def _read(name: str, key: str) -> str:
    try:
        return (FOLDER / name / key).read_text().strip()
    except OSError:
        return ""


def _write(name: str, key: str, value: str) -> None:
    with contextlib.suppress(OSError):  # the interface has gone
        (FOLDER / name / key).write_text(value)
