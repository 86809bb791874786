"""Settings of this machine: what is found in its files, and that nothing wrong in them is taken."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.cli import host_defaults as host
from imagebuilder.manifest.values import checked

ROUTES = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n"


def put(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_time_zone_is_that_of_localtime_else_of_debian(tmp_path: Path) -> None:
    assert host.timezone(tmp_path) == ""
    put(tmp_path, "etc/timezone", "Europe/Paris\n")
    assert host.timezone(tmp_path) == "Europe/Paris"
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/America/New_York")
    assert host.timezone(tmp_path) == "America/New_York"
    (tmp_path / "etc/localtime").unlink()
    (tmp_path / "etc/localtime").symlink_to("../usr/share/zoneinfo/No/Where")
    assert host.timezone(tmp_path) == "Europe/Paris"


@pytest.mark.parametrize(
    ("env", "file", "found"),
    [
        ({"LANG": "de_DE.utf8"}, "", "de_DE.UTF-8"),
        ({"LC_ALL": "fr_FR.UTF-8", "LANG": "de_DE.UTF-8"}, "", "fr_FR.UTF-8"),
        ({"LANG": "de_DE.ISO-8859-15@euro"}, "", "de_DE.ISO-8859-15@euro"),
        ({"LANG": "C.UTF-8"}, 'LANG="sv_SE.UTF-8"', "sv_SE.UTF-8"),
        ({"LANG": "C"}, "# LANG=x\nLANG=en_GB.UTF-8\n", "en_GB.UTF-8"),
        ({"LANG": "$(reboot)"}, "LANG=;;'", ""),
        ({}, "", ""),
    ],
)
def test_the_locale(tmp_path: Path, env: dict[str, str], file: str, found: str) -> None:
    put(tmp_path, "etc/default/locale", file)
    assert host.locale(env, tmp_path) == found


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ('XKBLAYOUT="gb"\nXKBVARIANT=""\n', "gb"),
        ("XKBLAYOUT=ch\nXKBVARIANT=fr\n", "ch(fr)"),
        ('XKBLAYOUT="us,ru"\nXKBVARIANT="intl,"\n', "us(intl)"),
        ("XKBLAYOUT='; rm'\n", ""),
        ("", ""),
    ],
)
def test_the_keyboard(tmp_path: Path, file: str, found: str) -> None:
    put(tmp_path, "etc/default/keyboard", file)
    assert host.keyboard(tmp_path) == found


def tool(folder: Path, name: str, output: str) -> None:
    """A program that prints ``output``."""
    file = folder / name
    file.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_the_wifi_is_the_active_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool(tmp_path, "iwgetid", "Second")
    tool(tmp_path, "nmcli", "no:Other\nyes:My\\:Home \\\\ Net\nyes:Later")
    assert host.wifi() == "My:Home \\ Net"
    tool(tmp_path, "nmcli", "no:Other")
    assert host.wifi() == "Second"
    tool(tmp_path, "iwgetid", "x" * 40)
    assert host.wifi() == ""


def test_the_country(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool(tmp_path, "iw", "global\ncountry 00: DFS-UNSET")
    put(
        tmp_path,
        "usr/share/zoneinfo/zone.tab",
        "# x\nGB\t+513030-0000731\tEurope/London\nFR\t+4852+00220\tEurope/Paris\n",
    )
    assert host.country("Europe/Paris", "en_GB.UTF-8", tmp_path) == "FR"
    assert host.country("Etc/UTC", "en_GB.UTF-8", tmp_path) == "GB"
    assert host.country("Etc/UTC", "C.UTF-8", tmp_path) == ""
    tool(tmp_path, "iw", "global\ncountry DE: DFS-ETSI")
    assert host.country("Europe/Paris", "en_GB.UTF-8", tmp_path) == "DE"


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        ("", "10.0.0.0/24"),
        ("wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\n", "10.0.0.0/24"),
        ("wlan0\t0000000A\t00000000\t0001\t0\t0\t600\t00FFFFFF\n", "10.77.0.0/24"),
        ("vpn\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\n", "172.29.77.0/24"),
        ("vpn\tzz\t0\n\n", "10.0.0.0/24"),
    ],
)
def test_the_network_is_one_that_this_machine_does_not_use(tmp_path: Path, routes: str, found: str) -> None:
    put(tmp_path, "proc/net/route", ROUTES + routes)
    assert host.network(tmp_path) == found


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_in_the_files_a_default_is_valid_or_missing(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc/default").mkdir(parents=True, exist_ok=True)
    for name in ("etc/timezone", "etc/default/keyboard", "etc/default/locale"):
        content = text if name == "etc/timezone" else f"LANG={text}\nXKBLAYOUT={text}\nXKBVARIANT={text}\n"
        (tmp_path / name).write_text(content, "utf-8", "replace")
    for kind, found in (
        ("timezone", host.timezone(tmp_path)),
        ("keyboard", host.keyboard(tmp_path)),
        ("locale", host.locale({"LANG": text}, tmp_path)),
    ):
        assert not found or checked(kind, found) == found
