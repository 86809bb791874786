"""The manifest of a new cluster: TOML that means what was given, whatever that is."""

import tomllib
from ipaddress import IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.model import Secret, Wifi
from imagebuilder.starter import Starter, manifest_text, most_workers

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(TEXT, TEXT, TEXT, st.lists(TEXT, max_size=3), st.booleans(), st.integers(0, 30), st.integers(8, 27))
@settings(max_examples=80, deadline=None)
def test_every_value_is_quoted(
    zone: str, ssid: str, user: str, keys: list[str], secret: bool, workers: int, prefix: int
) -> None:
    network = IPv4Network(f"10.0.0.0/{prefix}")
    wifi = Wifi(ssid, zone, Secret("wifi_psk") if secret else None) if ssid else None
    workers = min(workers, most_workers(network))
    starter = Starter(
        name="n", base="b", timezone=zone, locale=user, keyboard=ssid, user=user, keys=keys, network=network,
        workers=workers, master_board=zone, worker_board=ssid, uplink=user, wifi=wifi,
    )  # fmt: skip
    found = tomllib.loads(manifest_text(starter))
    assert (found["cluster"]["timezone"], found["cluster"]["locale"], found["user"]["name"]) == (
        zone,
        user,
        user,
    )
    assert found["user"].get("authorized_keys", []) == keys
    assert found["node"][0]["uplink"] == user and found["node"][0]["board"] == zone
    expected = {"ssid": ssid, "country": zone} | ({"passphrase": {"secret": "wifi_psk"}} if secret else {})
    assert found["node"][0].get("wifi") == (expected if ssid else None)
    addresses = {node["address"] for node in found["node"]}
    assert len(addresses) == workers + 1
    assert {str(network.network_address), str(network.broadcast_address)} & addresses == set()
