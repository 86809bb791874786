"""The gateway's settings and its table, without a kernel: what is read, and what nft would be given."""

import importlib
import ipaddress
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkout import TOP

_PACKAGE = TOP / "overlays/master/root/usr/local/lib/piimg"
_DOCUMENT = TOP / "docs/gateway.md"
_GOOD = {"POLICY": "on-demand", "LAN": "10.0.0.0/24", "LAN_INTERFACE": "eth0", "UPLINK": "wlan0"}


@pytest.fixture(scope="module")
def parts() -> dict[str, ModuleType]:
    """The program's modules. Nothing is written beside them: that folder is a layer."""
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(_PACKAGE))
    try:
        names = ("conf", "failure", "rules", "netlink", "forwarding", "kept", "others")
        return {name: importlib.import_module(f"piimg_gateway.{name}") for name in names}
    finally:
        sys.path.remove(str(_PACKAGE))
        sys.dont_write_bytecode = written


def _text(**values: str) -> str:
    return "".join(f"{key}='{value}'\n" for key, value in (_GOOD | values).items())


def test_good_settings_are_read(parts: dict[str, ModuleType]) -> None:
    found = parts["conf"].parse("# a comment\n" + _text() + "INSIDE='docker0 tun*' # more\n")
    assert (found.policy, str(found.lan), found.lan_interface, found.uplink, found.inside, found.problem) == (
        *("on-demand", "10.0.0.0/24", "eth0", "wlan0"),
        ("docker0", "tun*"),
        "",
    )


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_any_text_is_settings_or_a_failure(parts: dict[str, ModuleType], text: str) -> None:
    for given_text in (text, _text() + text, text + "\n" + _text()):
        try:
            found = parts["conf"].parse(given_text)
        except parts["failure"].Failure as failure:
            assert "\n" not in str(failure)
            continue
        assert isinstance(found.lan, ipaddress.IPv4Network)


def test_the_document_says_what_status_says(parts: dict[str, ModuleType]) -> None:
    """What status advises is tried by tests/system/gateway; so is then what the document says."""
    others, conf, text = parts["others"], parts["conf"].parse(_text()), _DOCUMENT.read_text()
    block = re.findall(r"^    (sudo firewall-cmd .*)$", text, re.MULTILINE)
    assert block == others.advice(conf, "inet firewalld", "filter_FORWARD").split("; ")
    for protocol, port in (("tcp", 22), ("udp", 123)):
        assert f"`{others.advice_in(conf, 'ip filter', 'ufw-before-input', protocol, port)}`" in text
    now, kept = others.advice_in(conf, "inet firewalld", "filter_INPUT", "udp", 123).split("; ")
    assert f"`{now}`, and once more with `--permanent`" in text and "--permanent" in kept


def test_the_port_of_sshd_is_a_port(parts: dict[str, ModuleType]) -> None:
    read = parts["conf"].parse
    assert (read(_text()).ssh_port, read(_text() + "SSH_PORT='2222'\n").ssh_port) == (22, 2222)
    for wrong in ("0", "65536", "x", "", "٣"):
        found = read(_text() + f"SSH_PORT='{wrong}'\n")
        assert found.ssh_port == 22 and "SSH_PORT must be a port" in found.problem


_WORDS = st.text(st.sampled_from("abz019.-_:@+*\"'{};\\ \t#$`"), max_size=18)


@given(_WORDS, _WORDS, _WORDS)
def test_no_settings_bring_words_of_their_own_into_the_table(
    parts: dict[str, ModuleType], lan: str, uplink: str, inside: str
) -> None:
    values = {"LAN_INTERFACE": lan, "UPLINK": uplink, "INSIDE": inside}
    text = _text() + "".join(f'{key}="{value}"\n' for key, value in values.items())
    try:
        found = parts["conf"].parse(text)
    except parts["failure"].Failure:
        return
    for is_open in (False, True):
        table = parts["rules"].text(found, is_open)
        bare = re.sub(r'"[A-Za-z0-9_.@:+*-]+"', "NAME", table)
        assert '"' not in bare and bare.count("{") == bare.count("}")
        assert ("masquerade" in table) is is_open


@given(st.binary(max_size=300))
def test_any_bytes_from_netlink_are_read_to_the_end(parts: dict[str, ModuleType], data: bytes) -> None:
    netlink = parts["netlink"]
    for _, payload in netlink._messages(data):
        netlink._attributes(payload)
        netlink._step(1, netlink._attributes(payload[4:]))


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=60))
def test_any_kept_words_are_forwarding_or_nothing(parts: dict[str, ModuleType], saved: str) -> None:
    found = parts["forwarding"].Forwarding(("eth0", "wlan0"))
    found.load(saved)
    again = parts["forwarding"].Forwarding(("eth0", "wlan0"))
    again.load(found.saved())
    assert again.saved() == found.saved()


def test_words_are_kept_and_forgotten(parts: dict[str, ModuleType], tmp_path: Path) -> None:
    kept = parts["kept"].Kept(tmp_path / "run")
    kept.write("switch", "off")
    assert "No such file" in kept.problem
    kept.prepare()
    kept.write("switch", "12.5")
    assert (kept.problem, parts["kept"].Kept(tmp_path / "run").read("switch")) == ("", "12.5")
    kept.write("switch", "")
    assert kept.read("switch") == "" and os.listdir(tmp_path / "run") == []  # noqa: PTH208
