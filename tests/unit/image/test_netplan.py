"""netplan's files and NetworkManager's profiles, judged by netplan, by libnetplan and by nmcli."""

import ctypes
import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.image import netplan
from imagebuilder.image.netplan import NotUnderstoodError, definitions, keyfile, sets_up
from imagebuilder.model import Release
from tests.integration.overlays import rendered

OURS = ("eth0", "wlan0")
FOLDER = "/etc/NetworkManager/system-connections"

CLOUD_INIT = """network:
  version: 2
  ethernets:
    eth0:
      match:
        macaddress: "b8:27:eb:00:00:12"
      dhcp4: true
      dhcp6: true
      set-name: "eth0"
"""
"""50-cloud-init.yaml as cloud-init 25.1 writes it, its network-config being only comments."""

NM = """network:
  version: 2
  {kind}:
    NM-626dd384-8b3d-3690-9511-192b2c79b3fd:
      renderer: NetworkManager
      match: {match}
      {more}
      networkmanager:
        uuid: "626dd384-8b3d-3690-9511-192b2c79b3fd"
        name: "theirs"
"""

FILES = {
    "cloud-init": (CLOUD_INIT, ("eth0",)),
    "by name": ("network: {ethernets: {eth0: {dhcp4: yes}}}", ("eth0",)),
    "another card": ("network: {ethernets: {eth1: {dhcp4: yes}}}", ()),
    "another card by its MAC": (CLOUD_INIT.replace('"eth0"', "eth1").replace("    eth0", "    eth1"), ()),
    "a pattern": ('network: {ethernets: {all: {match: {name: "e*"}, dhcp4: yes}}}', ("eth0",)),
    "patterns": ('network: {ethernets: {all: {match: {name: ["x*", "eth?"]}, dhcp4: yes}}}', ("eth0",)),
    "a driver": ("network: {ethernets: {all: {match: {driver: smsc95xx}, dhcp4: yes}}}", ("eth0",)),
    "NetworkManager": (
        NM.format(kind="ethernets", match='{name: "eth0"}', more="dhcp4: true"),
        ("eth0",),
    ),
    "NetworkManager, any card": (NM.format(kind="ethernets", match="{}", more="dhcp4: true"), ("eth0",)),
    "NetworkManager, any radio": (
        NM.format(kind="wifis", match="{}", more='access-points: {"a": {password: "12345678"}}'),
        ("wlan0",),
    ),
    "a bridge": ("network: {ethernets: {eth0: {}}, bridges: {br0: {interfaces: [eth0]}}}", ("eth0",)),
    "a bridge of others": ("network: {bridges: {br0: {dhcp4: yes}}}", ()),
    "a VLAN called so": ("network: {ethernets: {eth1: {}}, vlans: {eth0: {id: 5, link: eth1}}}", ("eth0",)),
    "nothing": ("network: {version: 2, renderer: NetworkManager}", ()),
    "comments": ("# network:\n#   version: 2\n", ()),
}


@pytest.mark.parametrize("what", FILES)
def test_which_interfaces_a_file_sets_up(what: str) -> None:
    text, expected = FILES[what]
    assert sets_up(text.encode(), OURS) == expected


@pytest.mark.skipif(shutil.which("netplan") is None, reason="needs netplan (netplan.io)")
@pytest.mark.parametrize(
    "what", sorted(FILES.keys() - {"patterns", "a driver"})
)  # netplan has these for networkd only
def test_netplan_takes_each_of_them(what: str, tmp_path: Path) -> None:
    """They are files that netplan reads; those for another card make no profile of eth0 or wlan0."""
    text, expected = FILES[what]
    folder = tmp_path / "etc/netplan"
    folder.mkdir(parents=True)
    (folder / "00-network-manager-all.yaml").write_text("network: {version: 2, renderer: NetworkManager}\n")
    (folder / "50.yaml").write_text(text)
    for file in folder.iterdir():
        file.chmod(0o600)
    subprocess.run(["netplan", "generate", "--root-dir", tmp_path], check=True, capture_output=True)
    made = (tmp_path / "run/NetworkManager/system-connections").glob("*")
    profiles = "".join(path.read_text() for path in made)
    if not expected:
        assert "interface-name=eth0\n" not in profiles and "interface-name=wlan0\n" not in profiles
    else:
        assert "[connection]\n" in profiles


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "aliases": (f"{BOMB}network: {{}}\n", "has aliases"),
    "merged": ("base: &b {dhcp4: yes}\nnetwork: {ethernets: {eth0: {<<: *b}}}", "has aliases"),
    "deep": ("[" * 5000 + "]" * 5000, "is nested too deeply"),
    "large": ("#" * (netplan.LIMIT + 1), "has more than 64 KiB"),
    "no YAML": ("network: [", "is no YAML"),
    "a tab": ("network:\n\tversion: 2\n", "is no YAML"),
    "a key that is a list": ("network: {? [a, b] : c}", "is no YAML"),
    "text": ("hello", "is no netplan file"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_understood_says_so(what: str) -> None:
    text, why = REFUSED[what]
    with pytest.raises(NotUnderstoodError, match=f"^{why}$"):
        sets_up(text.encode(), OURS)


_KEYS = [
    "name",
    "match",
    "addresses",
    "routes",
    "to",
    "via",
    "nameservers",
    "access-points",
    "auth",
    "password",
    "networkmanager",
    "passthrough",
    "uuid",
    "set-name",
    "interfaces",
    "a",
    "gateway4",
    "ipv4.address1",
    "wifi.ssid",
    "dhcp4",
]
_words = st.sampled_from(["eth0", "*", "", "default", "72;", "10.0.0.1/24", "[a", "yes"])
_values = st.recursive(
    st.one_of(_words, st.none(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.sampled_from(["ethernets", "wifis", "bridges", "nm-devices"]), _values)
def test_no_shape_of_a_file_is_a_traceback(kind: str, said: object) -> None:
    try:
        found = definitions(json.dumps({"network": {kind: {"NM-x": said, "eth0": {"match": said}}}}).encode())
    except NotUnderstoodError:
        return
    for one in found:
        assert one.settings.words is not None and one.uuid == ""
        assert one.sets_up("eth0") in (True, False)


@given(st.binary(max_size=200))
def test_no_bytes_are_a_traceback(raw: bytes) -> None:
    for read in (definitions, keyfile):
        try:
            read(raw)
        except NotUnderstoodError:
            pass


# --- the same profile, before and after NetworkManager took it to netplan ---


def _library() -> ctypes.CDLL | None:
    for name in ("libnetplan.so.1", "libnetplan.so.0.0"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def as_netplan_writes_it(profile: bytes, folder: Path) -> bytes:
    """The 90-NM-UUID.yaml of a keyfile, made by the functions that NetworkManager of Trixie calls."""
    library = _library()
    assert library is not None
    for function in (library.netplan_parser_new, library.netplan_state_new):
        function.restype = ctypes.c_void_p
    source, target = folder / "profile.nmconnection", folder / "profile.yaml"
    source.write_bytes(profile)
    error = ctypes.c_void_p()
    parser, state = (
        ctypes.c_void_p(make()) for make in (library.netplan_parser_new, library.netplan_state_new)
    )
    assert library.netplan_parser_load_keyfile(parser, os.fsencode(source), ctypes.byref(error)) == 1
    assert library.netplan_state_import_parser_results(state, parser, ctypes.byref(error)) == 1
    with target.open("wb") as stream:
        assert library.netplan_state_dump_yaml(state, stream.fileno(), ctypes.byref(error)) == 1
    return target.read_bytes()


@pytest.mark.skipif(_library() is None, reason="needs libnetplan (netplan.io)")
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("node", "name"), [("master", "lan"), ("master", "wifi"), ("worker1", "lan")])
def test_a_profile_says_the_same_in_netplan(node: str, name: str, normalized: bool, tmp_path: Path) -> None:
    given_cluster = rendered.with_wifi("Home \N{ANTENNA WITH BARS}")
    files = rendered.files(rendered.node_plan(node, Release.TRIXIE, given_cluster))
    raw = files[f"{FOLDER}/piimg-{name}.nmconnection"].content
    profile = raw
    if normalized:  # as NetworkManager writes it
        if shutil.which("nmcli") is None:
            pytest.skip("needs nmcli (network-manager)")
        words = ["nmcli", "--offline", "connection", "modify", "autoconnect", "yes"]
        profile = subprocess.run(words, input=raw, check=True, capture_output=True).stdout
    (found,) = definitions(as_netplan_writes_it(profile, tmp_path))
    settings = keyfile(raw)
    assert found.settings == keyfile(profile) == settings
    assert found.uuid == settings.uuid != ""
    assert settings.interface == ("wlan0" if name == "wifi" else "eth0")
    assert found.sets_up(settings.interface)
    assert settings.gateway == ("10.0.0.1" if node == "worker1" else "")
    if name == "wifi":
        assert settings.key and settings.key not in settings.words
        assert settings.network.decode() == "Home \N{ANTENNA WITH BARS}"


@pytest.mark.skipif(_library() is None, reason="needs libnetplan (netplan.io)")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"10.0.0.11/24", b"10.0.0.99/24"),
        (b",10.0.0.1\n", b",10.0.0.2\n"),
        (b"dns=1.1.1.1;9.9.9.9;", b"dns=8.8.8.8;"),
        (b"method=manual", b"method=auto"),
    ],
)
def test_a_profile_that_was_changed_does_not(old: bytes, new: bytes, tmp_path: Path) -> None:
    files = rendered.files(rendered.node_plan("worker1", Release.TRIXIE))
    raw = files[f"{FOLDER}/piimg-lan.nmconnection"].content
    assert old in raw
    (found,) = definitions(as_netplan_writes_it(raw.replace(old, new), tmp_path))
    assert found.settings != keyfile(raw)
    assert found.settings.words != keyfile(raw).words
    assert dataclasses.replace(found.settings, key="x").words == found.settings.words
