"""`piimg init` and `piimg plan`: the real command, run without rights, network or terminal."""

import json
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import TOP
from tests.unit.plan.running import GIVEN, PIIMG, piimg, planned, refused

ROW = re.compile(
    r"  (?P<kind>\w+) +(?P<mode>\d{4}|-) (?P<owner>\S+) +(?P<layer>\S+(?: \(own\))?)"
    r" +(?P<path>(?:boot|root)/\S+)(?: -> (?P<target>\S+))?"
    r"(?: \(of the base image: removed if it sets up (?P<interfaces>.*)\))?"
    r"(?: \(under (?P<section>[^)]*)\))?(?P<secret> \(secret\))?(?: \(overrides (?P<overrides>.*)\))?"
)


def row(entry: Mapping[str, Any]) -> dict[str, str | None]:
    """An entry of the JSON as the text should have it."""
    owner = {(0, 0): "root", (1000, 1000): "user"}.get((entry["uid"], entry["gid"]), "other")
    return {
        "kind": entry["kind"],
        "mode": entry["mode"] if entry["kind"] in ("file", "directory") else "-",
        "owner": owner,
        "layer": entry["layer"],
        "path": entry["partition"] + entry["path"],
        "target": entry.get("target"),
        "interfaces": ", ".join(entry.get("interfaces", [])) or None,
        "section": entry.get("section"),
        "secret": " (secret)" if entry["secret"] else None,
        "overrides": ", ".join(entry["overrides"]) or None,
    }


@pytest.mark.parametrize("release", ["bullseye", "trixie"])
def test_text_and_json_say_the_same(cluster: Path, release: str) -> None:
    (cluster / "overlays/node-worker2/root/etc").mkdir(parents=True)
    (cluster / "overlays/node-worker2/root/etc/motd").write_text("mine")
    document = json.loads(planned(cluster, "--release", release, "--json"))
    text, _, layers = planned(cluster, "--full", "--release", release).partition("\nlayers\n")
    assert [tuple(line.split(maxsplit=1)) for line in layers.splitlines()] == [*document["layers"].items()]
    assert document["layers"]["base"] and set(document["layers"]) <= {
        name for node in document["nodes"] for name in node["layers"]
    }
    reported: dict[str, list[dict[str, str | None]]] = {}
    for line in filter(None, text.split("\n")):
        if not line.startswith(" "):
            node = line.partition(":")[0]
            reported[node] = []
        elif not line.startswith("  layers: "):
            match = ROW.fullmatch(line)
            assert match, line
            reported[node].append(match.groupdict())
    assert reported == {node["node"]: [row(entry) for entry in node["entries"]] for node in document["nodes"]}
    assert len(reported) == 6
    assert [e["overrides"] for e in reported["worker2"] if e["path"] == "root/etc/motd"] == ["base (own)"]
    assert f"  layers: {', '.join(document['nodes'][0]['layers'])}\n" in text
    files = [entry for entry in document["nodes"][0]["entries"] if entry["kind"] == "file"]
    assert all(("sha256" in entry) != entry["secret"] for entry in files)


def matrix(folder: Path, *words: str) -> list[dict[str, str]]:
    """The jobs of the matrix: one line of JSON and nothing else, with no secret given."""
    done = piimg(folder, "plan", "--matrix", *words)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")
    jobs: list[dict[str, str]] = json.loads(done.stdout)["include"]
    return jobs


def test_the_matrix_needs_no_secret_and_names_every_node(cluster: Path) -> None:
    """What a job is given agrees with the manifest and with the catalogue of base images."""
    jobs = matrix(cluster)
    assert [job["node"] for job in jobs] == ["master", *(f"worker{number}" for number in range(1, 6))]
    pins = tomllib.loads((TOP / "manifests/images.toml").read_text())
    for job in jobs:
        pin = pins[job["base"]]
        assert job["cache"] == f"piimg-base-{pin['sha256']}" and job["release"] == pin["release"] == "trixie"
    assert (jobs[0]["role"], jobs[0]["board"]) == ("master", "pi-4b")
    assert matrix(cluster, "--node", "worker2") == [job for job in jobs if job["node"] == "worker2"]


def test_the_matrix_of_base_images_that_are_not_pinned(cluster: Path) -> None:
    manifest = cluster / "cluster.toml"
    text, keys = manifest.read_text(), set()
    for base in ("https://example.com/a.img.xz", "https://example.com/b.img.xz", "./my.img"):
        manifest.write_text(re.sub(r'^base = "[^"]*"', f'base = "{base}"', text, flags=re.MULTILINE))
        [job] = matrix(cluster, "--node", "master")
        assert job["release"] == "" and re.fullmatch("piimg-base-[0-9a-f]{64}", job["cache"])
        keys.add(job["cache"])
        [named] = matrix(cluster, "--node", "master", "--release", "bookworm")
        assert named == {**job, "release": "bookworm"}
    assert len(keys) == 3
    manifest.write_text(re.sub(r'^base = "[^"]*"', 'base = "no-such-base"', text, flags=re.MULTILINE))
    assert "no base image is called" in refused(piimg(cluster, "plan", "--matrix"))
    manifest.write_text(text)
    assert "exclude each other" in refused(piimg(cluster, "plan", "--matrix", "--json"))


def test_one_node_alone(cluster: Path) -> None:
    document = json.loads(planned(cluster, "--node", "worker2", "--json"))
    assert [node["node"] for node in document["nodes"]] == ["worker2"]
    said = refused(piimg(cluster, "plan", "--node", "worker9", env=GIVEN))
    assert (
        said
        == "piimg: the manifest has no node worker9\n       it has master, worker1, worker2, worker3, "
        + ("worker4, worker5\n")
    )


def test_layers_that_no_node_has_are_warned_of(cluster: Path) -> None:
    for name in ("workers", "node-wrker2"):
        (cluster / "overlays" / name / "root").mkdir(parents=True)
    done = piimg(cluster, "plan", "--json", env=GIVEN)
    assert done.returncode == 0 and json.loads(done.stdout)
    assert "warning: no node uses the layer overlays/workers/; is worker meant?" in done.stderr
    assert "warning: no node uses the layer overlays/node-wrker2/; is node-worker2 meant?" in done.stderr


@pytest.mark.parametrize(
    ("board", "wifi", "notes"),
    [
        ("pi-3b+", True, []),
        ("pi-500+", True, []),
        ("pi-2", False, []),
        ("pi-2", True, ["has no Wi-Fi: wlan0 then needs an adapter"]),
        ("pi-3a+", True, ["has no wired port: eth0 then needs an adapter"]),
        ("cm1", False, ["has eMMC and no card slot", "does not always have a wired port"]),
        ("cm4s", True, ["with eMMC cannot read a card", "has no Wi-Fi", "does not always have a wired port"]),
        (
            "cm5",
            True,
            ["with eMMC cannot read a card", "does not always have Wi-Fi", "does not always have a"],
        ),
    ],
)
def test_what_a_board_lacks_is_a_note(cluster: Path, board: str, wifi: bool, notes: list[str]) -> None:
    file = cluster / "cluster.toml"
    text = file.read_text().replace("raspios-trixie-arm64-lite", "raspios-trixie-armhf-lite")
    head, mark, rest = text.partition('name = "worker2"')
    assert mark
    rest = rest.replace('board = "pi-3b+"', f'board = "{board}"', 1)
    radio = '[node.wifi]\nssid = "x"\ncountry = "GB"\n\n[[node]]'
    file.write_text(head + mark + (rest.replace("[[node]]", radio, 1) if wifi else rest))
    (node,) = json.loads(planned(cluster, "--node", "worker2", "--json"))["nodes"]
    assert len(node["notes"]) == len(notes)
    assert all(part in said for part, said in zip(notes, node["notes"], strict=True))
    for view in ([], ["--full"]):
        text = planned(cluster, "--node", "worker2", *view)
        assert re.findall(r"^  note: (.*)$", text, re.MULTILINE) == node["notes"]


@pytest.mark.parametrize(
    ("board", "security", "release", "said"),
    [
        ("pi-4b", "wpa3", "trixie", "WPA3: the radio of Raspberry Pi 4 Model B (CYW43455) needs Linux 6.6"),
        ("pi-4b", "wpa3", "bullseye", "the kernel and firmware of bullseye have none for the radio of"),
        ("pi-400", "wpa3", "trixie", "(CYW43456) has none (raspberrypi/linux issue 7610)"),
        (
            "pi-3b",
            "wpa3",
            "bookworm",
            "there is no report that the radio of Raspberry Pi 3 Model B (CYW43438)",
        ),
        ("pi-5", "owe", "trixie", "OWE: there is no report"),
        ("pi-400", "wpa2/wpa3", "bullseye", ""),
        ("pi-4b", "wpa2", "bullseye", ""),
        ("pi-4b", "wpa2", "trixie", ""),
    ],
)
def test_what_a_radio_cannot_do_is_a_note(
    cluster: Path, board: str, security: str, release: str, said: str
) -> None:
    file = cluster / "cluster.toml"
    psk = 'passphrase = { secret = "wifi_psk" }'
    kept = "" if security == "owe" else f"{psk}\n"
    text = file.read_text().replace('board = "pi-4b"', f'board = "{board}"', 1)
    file.write_text(text.replace(psk, f'{kept}security = "{security}"'))
    (node,) = json.loads(planned(cluster, "--node", "master", "--release", release, "--json"))["nodes"]
    assert [note for note in node["notes"] if said and said in note] == node["notes"]
    assert len(node["notes"]) == bool(said)


@pytest.mark.parametrize(("release", "count"), [("bullseye", 0), ("bookworm", 1), ("trixie", 1)])
def test_an_adapter_and_a_mixed_network(cluster: Path, release: str, count: int) -> None:
    file = cluster / "cluster.toml"
    text = file.read_text().replace('uplink = "wlan0"', 'uplink = "wlan1"')
    file.write_text(text.replace('ssid = "HomeNetwork"', 'ssid = "HomeNetwork"\ninterface = "wlan1"'))
    (node,) = json.loads(planned(cluster, "--node", "master", "--release", release, "--json"))["nodes"]
    assert len([note for note in node["notes"] if 'set security = "wpa2/wpa3"' in note]) == count


def test_the_release_must_be_known(cluster: Path) -> None:
    file = cluster / "cluster.toml"
    (cluster / "own.img").write_bytes(b"")
    file.write_text(file.read_text().replace("raspios-trixie-arm64-lite", "own.img"))
    assert "--release NAME" in refused(piimg(cluster, "plan", env=GIVEN))
    assert "bookworm" in planned(cluster, "--release", "bookworm")
    assert refused(piimg(cluster, "--manifest", "none.toml", "plan")).startswith(
        "piimg: cannot read none.toml"
    )
    assert "piimg init DIR" in refused(piimg(cluster.parent, "plan"))


def test_a_manifest_s_errors_on_the_terminal(cluster: Path) -> None:
    file = cluster / "cluster.toml"
    file.write_text(file.read_text().replace("10.0.0.12", "10.0.0.11").replace("timezone", "timezne"))
    said = refused(piimg(cluster, "plan", env=GIVEN)).split("\n")
    assert said[0] == "piimg: cluster.toml has 2 errors"
    assert re.fullmatch(r" +cluster\.toml:\d+: cluster\.timezne: unknown key; is timezone meant\?", said[1])
    assert re.fullmatch(
        r" +cluster\.toml:\d+: node\[3\]\.address: 10\.0\.0\.11 is already .* worker1", said[2]
    )


def test_help_has_an_example() -> None:
    for command in ("plan", "init"):
        done = subprocess.run([PIIMG, command, "--help"], capture_output=True, text=True, check=True)
        assert re.search(rf"Examples?:\n +piimg {command} ", done.stdout)
        assert max(map(len, done.stdout.split("\n"))) <= 80


def test_packages_build_scripts_and_downloads_are_shown(cluster: Path) -> None:
    manifest = cluster / "cluster.toml"
    text = manifest.read_text().replace("[gateway]", '[role.worker]\npackages = ["munge"]\n[gateway]')
    manifest.write_text(text)
    layer = cluster / "overlays/worker"
    (layer / "build.d").mkdir(parents=True, exist_ok=True)
    (layer / "build.d/20-tools").write_text("#!/bin/sh\n")
    (layer / "layer.toml").write_text(
        'packages = ["htop", "munge"]\n[[downloads]]\nurl = "https://example.org/k3s"\n'
        f'sha256 = "{"0" * 64}"\npath = "root/usr/local/bin/k3s"\nmode = "0755"\n'
    )
    shown = planned(cluster, "--full", "--release", "trixie", "--node", "worker1")
    assert "  package   htop (layer worker (own))\n" in shown
    assert "  package   munge (role.worker, layer worker (own))\n" in shown
    assert "  build.d   20-tools (layer worker (own))\n" in shown
    assert "root/usr/local/bin/k3s (from https://example.org/k3s)" in shown
    document = json.loads(planned(cluster, "--release", "trixie", "--json", "--node", "worker1"))
    (node,) = document["nodes"]
    assert {"name": "htop", "named_by": ["layer worker (own)"]} in node["packages"]
    assert node["build_scripts"] == [{"name": "20-tools", "layer": "worker (own)"}]
    (entry,) = (one for one in node["entries"] if one["path"] == "/usr/local/bin/k3s")
    assert entry["download"]["url"] == "https://example.org/k3s" and entry["sha256"] == "0" * 64
