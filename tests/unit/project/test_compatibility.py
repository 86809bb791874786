"""docs/compatibility.md: what 0.1.0 read and printed is still read and printed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagebuilder.cli.flashing import SOME_FAILED
from imagebuilder.cli.main import piimg
from imagebuilder.cli.signals import INTERRUPTED
from imagebuilder.history import store
from imagebuilder.image.drift import wanted_of
from imagebuilder.image.results import read_document
from imagebuilder.keys.missing import KeyPlace, missing_keys
from imagebuilder.manifest.read import load
from imagebuilder.model import Secret
from imagebuilder.station.completed import CompletedNodes
from tests.support import compatibility, events
from tests.support.checkout import TOP

SECRETS = {f"PIIMG_SECRET_{name}": "correcthorse" for name in ("WIFI_PSK", "TOKEN", "USER_PASSWORD")}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The sample of a manifest, in a folder of its own."""
    file = tmp_path / "cluster.toml"
    file.write_bytes((compatibility.KEPT / "cluster.toml").read_bytes())
    return file


def test_a_manifest_with_every_key_is_understood_as_before(manifest: Path) -> None:
    cluster = load(manifest)
    master, worker = cluster.nodes
    assert master.wifi is not None and cluster.gateway is not None
    found = {
        "name, domain": (cluster.name, cluster.domain),
        "base, release": (cluster.base, str(cluster.release)),
        "place": (cluster.timezone, cluster.locale, cluster.keyboard),
        "lan": (str(cluster.lan), [str(server) for server in cluster.dns]),
        "user": (cluster.user.name, cluster.user.password, len(cluster.user.authorized_keys)),
        "gateway": (cluster.gateway.node, cluster.gateway.uplink, str(cluster.gateway.policy)),
        "vars": dict(cluster.vars),
        "master": (master.role, master.board.name, str(master.address), master.interface),
        "wifi": (master.wifi.ssid, master.wifi.country, master.wifi.passphrase, master.wifi.interface),
        "swap": (str(master.swap.kind), str(worker.swap.kind)),
        "worker": (worker.role, worker.board.name, str(worker.address), dict(worker.vars)),
    }
    assert found == {
        "name, domain": ("compat", "compat.internal"),
        "base, release": ("raspios-bookworm-arm64-lite", "bookworm"),
        "place": ("Europe/London", "en_GB.UTF-8", "ch(fr)"),
        "lan": ("10.0.0.0/24", ["1.1.1.1", "9.9.9.9"]),
        "user": ("pi", Secret("user_password"), 1),
        "gateway": ("master", "wlan0", "on-demand"),
        "vars": {"rack": "attic", "height": 3, "lit": True, "token": Secret("token")},
        "master": ("master", "pi-4b", "10.0.0.1", "eth0"),
        "wifi": ("HomeNetwork2", "GB", Secret("wifi_psk"), "wlan0"),
        "swap": ("off", "zram"),
        "worker": ("worker", "pi-3b+", "10.0.0.11", {"pin": 4, "name": "one"}),
    }


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ("plan.json", ("plan", "--json", "--node", "worker1")),
        ("status.json", ("status", "--json")),
        ("fetch-list.json", ("fetch", "--list", "--json")),
        ("doctor.json", ("doctor", "--json")),
        ("cards.json", ("cards", "--json")),
    ],
)
def test_what_a_command_prints_has_every_key_of_before(
    manifest: Path, tmp_path: Path, sample: str, words: tuple[str, ...]
) -> None:
    env = {**SECRETS, "PIIMG_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = CliRunner().invoke(piimg, ["--manifest", str(manifest), *words], env=env)
    assert done.exit_code in (0, 1), done.output
    compatibility.check(sample, json.loads(done.stdout))


@pytest.mark.parametrize("name", ["report", "events"])
def test_reports_and_events_of_before_fit_the_schema_of_now(name: str) -> None:
    (file,) = compatibility.KEPT.glob(f"{name}.json*")
    for document in file.read_text().splitlines() if name == "events" else [file.read_text()]:
        events.schema(name).validate(json.loads(document))


def test_the_files_of_a_cluster_are_read(tmp_path: Path) -> None:
    history = store.parse((compatibility.KEPT / "cards.jsonl").read_bytes())
    assert [type(event).__name__ for event in history] == ["Begun", "Ended"]

    document = read_document(compatibility.KEPT / "node.json")
    assert len(wanted_of(document)) == len(document["entries"]) == 6

    (tmp_path / "station.json").write_bytes((compatibility.KEPT / "station.json").read_bytes())
    assert list(CompletedNodes(tmp_path, tmp_path).read()) == ["master"]

    (tmp_path / ".piimg-keys.json").write_bytes((compatibility.KEPT / "piimg-keys.json").read_bytes())
    place = KeyPlace(tmp_path / "state" / "bench", tmp_path / "cluster.toml", ("worker1",))
    assert missing_keys(place) is not None


def test_the_exit_codes_are_those_of_before(manifest: Path) -> None:
    def status(*words: str) -> int:
        code = "from imagebuilder.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, check=False
        ).returncode

    assert status("--version") == 0
    assert status("inspect", "/dev/null") == 1
    assert status("--manifest", str(manifest), "plan", "--node", "nobody") == 2
    assert status("--no-such-option") == 2
    assert (SOME_FAILED, INTERRUPTED) == (3, 130)


def test_a_key_that_is_lost_is_found() -> None:
    before = {"name": "a", "size": 1, "parts": [{"kind": "x", "at": 0}, {"kind": "y", "file": "f"}]}
    parts: list[object] = [{"kind": "y", "file": "g"}, {"kind": "x", "at": 9}]
    now = {"name": "b", "size": 2.5, "more": 1, "parts": parts}
    assert list(compatibility.lost(before, now)) == []
    assert list(compatibility.lost(before, {**now, "parts": []})) == []
    assert list(compatibility.lost(before, {**now, "size": "2"})) == [".size was a number, and is text"]
    assert list(compatibility.lost(before, {**now, "parts": parts[:1]})) == [], "none of the other kind"
    less = [*parts[:1], {"kind": "x"}]
    assert list(compatibility.lost(before, {**now, "parts": less})) == [".parts[].at is missing"]


def test_every_sample_is_named_on_the_page() -> None:
    page = (TOP / "docs" / "compatibility.md").read_text()
    assert [file.name for file in compatibility.files() if f"`{file.name}`" not in page] == []
