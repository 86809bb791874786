"""How a Wi-Fi network is protected, in the files of each release, as their programs read them."""

import shutil
import subprocess

import pytest

from imagebuilder.keys import derive
from imagebuilder.model import Release
from tests.integration.overlays import rendered
from tests.integration.overlays.network_files import (
    KEYFILES,
    PROFILES,
    keyfile,
    planned,
    unescaped,
    wpa_networks,
)
from tests.support import networks

HARD = " a\\s;#=\"'%\\\\ "
"""A passphrase with what the formats treat specially: blanks at both ends, backslashes, quotes."""


@pytest.mark.parametrize("release", KEYFILES)
@pytest.mark.parametrize("kind", networks.SECURITIES)
def test_networkmanager_knows_each_kind(kind: str, release: Release) -> None:
    profile = keyfile(planned(networks.SECURITIES[kind], "master", release), "piimg-wifi")
    found = dict(profile["wifi-security"]) if profile.has_section("wifi-security") else {}
    key = derive.wifi_psk("Home", rendered.PASSPHRASE)
    typed = rendered.PASSPHRASE.replace(" ", "\\s")
    assert (
        found
        == {
            "wpa2": {"key-mgmt": "wpa-psk", "psk": key},
            "wpa3": {"key-mgmt": "sae", "psk": typed},
            "wpa2/wpa3": {"key-mgmt": "wpa-psk", "psk": typed},
            "open": {},
            "owe": {"key-mgmt": "owe"},
        }[kind]
    )
    assert (profile["wifi"].get("hidden") == "true") == (kind in ("wpa2/wpa3", "owe"))


@pytest.mark.parametrize("kind", networks.SECURITIES)
def test_wpa_supplicant_knows_each_kind(kind: str) -> None:
    (found,) = wpa_networks(planned(networks.SECURITIES[kind], "master", Release.BULLSEYE))
    key, sae = derive.wifi_psk("Home", rendered.PASSPHRASE), rendered.PASSPHRASE.encode().hex()
    assert (found.pop("scan_ssid", "0") == "1") == (kind in ("wpa2/wpa3", "owe"))
    assert found.pop("ssid") == b"Home".hex()
    assert (
        found
        == {
            "wpa2": {"key_mgmt": "WPA-PSK", "psk": key},
            "wpa3": {"key_mgmt": "SAE", "sae_password": sae, "ieee80211w": "2"},
            "wpa2/wpa3": {"key_mgmt": "WPA-PSK SAE", "psk": key, "sae_password": sae, "ieee80211w": "1"},
            "open": {"key_mgmt": "NONE"},
            "owe": {"key_mgmt": "OWE", "ieee80211w": "2"},
        }[kind]
    )


@pytest.mark.parametrize("release", Release)
@pytest.mark.parametrize("kind", networks.SECURITIES)
def test_the_passphrase_is_on_the_card_only_for_wpa3(kind: str, release: Release) -> None:
    plan = planned(networks.SECURITIES[kind], "master", release)
    spelled = (rendered.PASSPHRASE.replace(" ", "\\s").encode(), rendered.PASSPHRASE.encode().hex().encode())
    having = [entry for entry in plan.entries if any(form in entry.content for form in spelled)]
    assert bool(having) == (kind in ("wpa3", "wpa2/wpa3"))
    assert all(one.secret and one.mode == 0o600 for one in having)


@pytest.mark.skipif(shutil.which("nmcli") is None, reason="needs nmcli (network-manager)")
@pytest.mark.parametrize("passphrase", [HARD, "  eight  ", "a;b#c=d\\n", "\"quoted\" 'too'"])
def test_networkmanager_reads_any_passphrase(passphrase: str) -> None:
    plan = planned(networks.SECURITIES["wpa3"], "master", Release.TRIXIE, passphrase)
    content = rendered.files(plan)[f"{PROFILES}/piimg-wifi.nmconnection"].content
    command = ["nmcli", "--offline", "--show-secrets", "connection", "modify", "ipv6.method", "auto"]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    psk = next(line for line in done.stdout.decode().splitlines() if line.startswith("psk="))
    assert unescaped(psk.removeprefix("psk=")) == passphrase
