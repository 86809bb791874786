"""Settings of this machine that a new cluster may share: time zone, locale, keyboard, Wi-Fi, network.

Each function returns a value that a manifest accepts, or an empty string when the machine does not have one.
Files are read below ``root``, which tests replace.
"""

import contextlib
import os
import re
import shlex
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.manifest.regions import COUNTRIES
from imagebuilder.manifest.values import checked
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.system.process import locate, run

_ROOT = Path("/")
NETWORKS = ("10.0.0.0/24", "10.77.0.0/24", "172.29.77.0/24", "192.168.177.0/24")
"""Networks for the LAN of a cluster; the first that this machine does not use itself is the default."""


def timezone(root: Path = _ROOT) -> str:
    """The time zone, from /etc/localtime (localtime(5)), else from Debian's /etc/timezone."""
    linked = ""
    with contextlib.suppress(OSError):
        linked = os.readlink(root / "etc/localtime").rpartition("zoneinfo/")[2]  # noqa: PTH115 - may be broken
    return _valid("timezone", linked) or _valid("timezone", _text(root / "etc/timezone").strip())


def locale(env: Mapping[str, str], root: Path = _ROOT) -> str:
    """The locale of the user, else of the machine (locale.conf(5)); the character set as glibc spells it."""
    for text in (
        env.get("LC_ALL"),
        env.get("LANG"),
        *_settings(root, "LANG", "locale.conf", "default/locale"),
    ):
        name, _, rest = (text or "").partition(".")
        charset, at, modifier = rest.partition("@")
        if charset.replace("-", "").lower() == "utf8":
            charset = "UTF-8"
        found = _valid("locale", f"{name}.{charset}{at}{modifier}") if charset else ""
        if found and name != "C":
            return found
    return ""


def keyboard(root: Path = _ROOT) -> str:
    """The keyboard layout, with its variant: keyboard(5)."""
    layout = next(iter(_settings(root, "XKBLAYOUT", "default/keyboard")), "").partition(",")[0]
    variant = next(iter(_settings(root, "XKBVARIANT", "default/keyboard")), "").partition(",")[0]
    return _valid("keyboard", f"{layout}({variant})" if variant else layout)


def wifi() -> str:
    """The name of the Wi-Fi that this machine is in, by NetworkManager or by wireless-tools."""
    fields = _output(
        *("nmcli", "--wait", "3", "--terse", "--fields", "ACTIVE,SSID"),
        *("device", "wifi", "list", "--rescan", "no"),
    )
    active = [line.partition(":")[2] for line in fields.splitlines() if line.startswith("yes:")]
    names = [re.sub(r"\\(.)", r"\1", name) for name in active] or _output("iwgetid", "--raw").splitlines()
    return next((name for name in names if _valid("ssid", name)), "")


def country(zone: str, language: str, root: Path = _ROOT) -> str:
    """The country of the kernel's wireless rules, else of the time zone (zone.tab), else of the locale."""
    found = re.search(r"^country ([A-Z]{2}):", _output("iw", "reg", "get"), re.MULTILINE)
    if found and found[1] in COUNTRIES:
        return found[1]
    for row in _text(root / "usr/share/zoneinfo/zone.tab").splitlines():
        columns = row.split("\t")
        if len(columns) > 2 and columns[2] == zone and columns[0] in COUNTRIES:
            return columns[0]
    spoken = language.partition(".")[0].partition("_")[2]
    return spoken if spoken in COUNTRIES else ""


def network(root: Path = _ROOT) -> str:
    """The first of ``NETWORKS`` that no route of this machine leads to.

    /proc/net/route has addresses in hexadecimal, in the byte order of the machine.
    """
    used = []
    for row in _text(root / "proc/net/route").splitlines()[1:]:
        columns = row.split()
        with contextlib.suppress(ValueError, IndexError):
            address, mask = (int.from_bytes(bytes.fromhex(columns[at])[::-1]) for at in (1, 7))
            if mask:  # not the default route
                used.append(IPv4Network((address, mask.bit_count()), strict=False))
    free = (name for name in NETWORKS if not any(IPv4Network(name).overlaps(one) for one in used))
    return next(free, NETWORKS[0])


def _settings(root: Path, name: str, *files: str) -> list[str]:
    """The values of ``name`` in files of /etc that are in shell syntax."""
    found = []
    for file in files:
        for row in _text(root / "etc" / file).splitlines():
            key, equals, value = row.strip().partition("=")
            if key == name and equals:
                with contextlib.suppress(ValueError):
                    found.append("".join(shlex.split(value)[:1]))
    return found


def _text(file: Path) -> str:
    try:
        return read_regular(file, SMALL).decode("utf-8", "replace")
    except OSError:
        return ""


def _output(program: str, *words: str) -> str:
    """What a program prints; empty when it is not installed, or fails."""
    if locate(program) is None:
        return ""
    try:
        return run([program, *words]).stdout.decode("utf-8", "replace")
    except PiimgError:
        return ""


def _valid(kind: str, text: str) -> str:
    """``text``, if a manifest accepts it; else an empty string."""
    try:
        return checked(kind, text) if text else ""
    except ValueError:
        return ""
