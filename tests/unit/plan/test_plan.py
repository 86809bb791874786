"""`piimg init` and `piimg plan`: the real command, run without rights, network or terminal."""

import functools
import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.keys import derive
from imagebuilder.keys.credentials import make_credentials
from imagebuilder.model import Credentials
from imagebuilder.workspace import Workspace
from tests.support.checkout import TOP

PIIMG = Path(sys.executable).with_name("piimg")
NOBODY = 65534
PASSPHRASE = "battery staple correct"
PASSWORD = "Tr0ub4dor&3 indeed"
WIFI = {"PIIMG_SECRET_WIFI_PSK": PASSPHRASE}


@functools.cache
def dropping() -> tuple[str, ...]:
    """The command in front of piimg that takes root's rights and the network away (none for a user)."""
    if os.geteuid() != 0:
        return ()
    away = ("unshare", "--net", "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    nobody = (*away, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
    # In a folder that only root may enter, nobody could not start piimg: then root without any capability.
    reachable = (
        subprocess.run([*nobody, PIIMG, "--version"], capture_output=True, check=False).returncode == 0
    )
    return nobody if reachable else (*away, "--")


Done = subprocess.CompletedProcess[str]


def piimg(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Done:
    """Run piimg in ``folder`` with nothing inherited."""
    return subprocess.run(
        [*dropping(), PIIMG, *words],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user piimg runs as (pytest's own is closed to nobody)."""
    folder = Path(tempfile.mkdtemp(prefix="piimg-test-"))
    if f"--reuid={NOBODY}" in dropping():
        os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster folder as `piimg init` lays it out."""
    folder = tmp_path_factory.mktemp("laid-out") / "mine"
    subprocess.run([PIIMG, "init", folder], capture_output=True, check=True)
    return folder


@pytest.fixture
def cluster(home: Path, laid_out: Path) -> Path:
    """A cluster folder with a login password and a secret variable."""
    shutil.copytree(laid_out, home / "mine")
    if f"--reuid={NOBODY}" in dropping():
        for path in (home / "mine", *(home / "mine").rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    file = home / "mine/cluster.toml"
    text = file.read_text().replace("# password =", "password =")
    file.write_text(text.replace("[gateway]", '[vars]\ntoken = { secret = "token" }\n[gateway]'))
    return home / "mine"


SECRETS = {"wifi_psk": PASSPHRASE, "user_password": PASSWORD, "token": "the token itself"}
GIVEN = {f"PIIMG_SECRET_{name.upper()}": value for name, value in SECRETS.items()}


def planned(folder: Path, *words: str, env: Mapping[str, str] = GIVEN) -> str:
    done = piimg(folder, "plan", *words, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr  # one line: no key of the user's
    return done.stdout


def refused(done: Done) -> str:
    """What a refused command said: exit 2, nothing on standard output, no traceback."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("piimg: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_init_lays_out_a_folder_that_plans(home: Path) -> None:
    done = piimg(home, "init", "mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.split("\n"))) <= 80
    secrets = home / "mine/secrets.toml"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert "secrets.toml" in (home / "mine/.gitignore").read_text().split("\n")
    assert "state/" in (home / "mine/.gitignore").read_text().split("\n")
    named = [line for line in (home / "mine/cluster.toml").read_text().split("\n") if 'name = "mine"' in line]
    assert len(named) == 1
    plan = piimg(home / "mine", "plan")
    assert plan.returncode == 0, plan.stderr
    assert [line for line in plan.stdout.split("\n") if line and not line.startswith(" ")] == [
        "master: master, Raspberry Pi 4 Model B, 10.0.0.1, trixie",
        *(f"worker{n}: worker, Raspberry Pi 3 Model B+, 10.0.0.1{n}, trixie" for n in range(1, 6)),
        "layers",
    ]
    assert re.search(r"base \(own\) +root/etc/motd", plan.stdout)
    assert "the secret wifi_psk still has the value that piimg init gave it" in plan.stderr
    assert not (home / "mine/state").exists()


def test_init_in_a_folder_that_is_there(home: Path) -> None:
    (home / "empty").mkdir(mode=0o777)
    (home / "empty").chmod(0o777)
    assert piimg(home, "init", "empty").returncode == 0
    before = sorted((home / "empty").rglob("*"))
    assert refused(piimg(home, "init", "empty")).startswith("piimg: empty is not empty")
    assert sorted((home / "empty").rglob("*")) == before
    (home / "file").write_text("mine")
    assert piimg(home, "init", "file").returncode == 2
    assert (home / "file").read_text() == "mine"
    (home / "closed").mkdir(mode=0)
    said = refused(piimg(home, "init", "closed/new"))
    assert said.startswith("piimg: cannot create closed/new: Permission denied")


def test_a_name_no_host_can_have(home: Path) -> None:
    assert piimg(home, "init", "My Cluster").returncode == 0
    assert 'name = "picluster"' in (home / "My Cluster/cluster.toml").read_text()


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
    text, _, layers = planned(cluster, "--release", release).partition("\nlayers\n")
    assert [tuple(line.split(maxsplit=1)) for line in layers.splitlines()] == [*document["layers"].items()]
    assert document["layers"]["base"] and set(document["layers"]) <= {
        name for node in document["nodes"] for name in node["layers"]
    }
    told: dict[str, list[dict[str, str | None]]] = {}
    for line in filter(None, text.split("\n")):
        if not line.startswith(" "):
            node = line.partition(":")[0]
            told[node] = []
        elif not line.startswith("  layers: "):
            match = ROW.fullmatch(line)
            assert match, line
            told[node].append(match.groupdict())
    assert told == {node["node"]: [row(entry) for entry in node["entries"]] for node in document["nodes"]}
    assert len(told) == 6
    assert [e["overrides"] for e in told["worker2"] if e["path"] == "root/etc/motd"] == ["base (own)"]
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
    """What a job is told agrees with the manifest and with the catalogue of base images."""
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
    text = planned(cluster, "--node", "worker2")
    assert re.findall(r"^  note: (.*)$", text, re.MULTILINE) == node["notes"]


def test_nothing_secret_is_printed(cluster: Path) -> None:
    key = cluster / "overlays/base/root/etc/token.j2"
    key.write_text("{{ cluster.vars.token }}")
    (cluster / "overlays/base/layer.toml").write_text('[files."root/etc/token"]\nmode = "0600"')
    credentials = kept(cluster)
    if f"--reuid={NOBODY}" in dropping():
        for path in (cluster / "state", *(cluster / "state").rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    pairs = [credentials.gateway_key, *credentials.host_keys.values()]
    secrets = [PASSPHRASE, PASSWORD, "the token itself", credentials.password_hash, "$6$", "PRIVATE KEY"]
    secrets += [derive.wifi_psk("HomeNetwork", PASSPHRASE), *(pair.private.split("\n")[2] for pair in pairs)]
    for words in ([], ["--json"]):
        done = piimg(cluster, "--progress", "json", "-v", "plan", *words, env=GIVEN)
        assert done.returncode == 0, done.stderr
        assert "root/etc/token" in done.stdout or "/etc/token" in done.stdout
        assert [secret for secret in secrets if secret in done.stdout + done.stderr] == []


def test_missing_secrets_are_told_at_once(cluster: Path) -> None:
    (cluster / "secrets.toml").unlink()
    said = refused(piimg(cluster, "plan"))
    assert said.startswith("piimg: no value for the secrets user_password, token, wifi_psk\n")
    for name in ("user_password", "token", "wifi_psk"):
        assert f'{name}: set PIIMG_SECRET_{name.upper()}, or write {name} = "…" to secrets.toml' in said


def test_where_secrets_are_from(cluster: Path) -> None:
    file = cluster / "secrets.toml"
    file.write_text(f'wifi_psk = "too short"\nuser_password = "{PASSWORD}"\ntoken = "x"\n')
    env = {"PIIMG_SECRET_WIFI_PSK": "short"}
    assert "must have 8 to 63" in refused(piimg(cluster, "plan", env=env))
    assert piimg(cluster, "plan", env=WIFI).returncode == 0
    file.write_text('token = ""')
    assert "no value for the secret token\n" in refused(
        piimg(cluster, "plan", env={**GIVEN, "PIIMG_SECRET_TOKEN": ""})
    )


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_secrets_file_that_others_can_read(cluster: Path, mode: int) -> None:
    (cluster / "secrets.toml").chmod(mode)
    said = refused(piimg(cluster, "plan", env=GIVEN))
    assert "secrets.toml can be read by others" in said
    assert "chmod 600" in said


@pytest.mark.parametrize(
    "text",
    [
        f"wifi_psk = {PASSPHRASE}",
        "wifi_psk = 7" * 5000,
        "\0",
        f'[wifi]\npsk = "{PASSPHRASE}"',
        "a = " + "[" * 9999,
    ],
)
def test_a_secrets_file_that_is_none(cluster: Path, text: str) -> None:
    (cluster / "secrets.toml").write_text(text)
    said = refused(piimg(cluster, "plan", env=GIVEN))
    assert "secrets.toml: " in said
    assert PASSPHRASE not in said


def test_at_a_terminal_it_asks(cluster: Path) -> None:
    """Asked for, not shown; without a terminal there is no question (every other test here)."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cluster), "TERM": "dumb", **GIVEN}
    del env["PIIMG_SECRET_TOKEN"]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb+", buffering=0) as terminal:
        child = subprocess.Popen(
            [*dropping(), PIIMG, "plan"],
            cwd=cluster,
            env=env,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        seen = b""
        while b"Secret token" not in seen:
            seen += terminal.read(1)
        terminal.write(b"typed in\n")
        printed, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        assert b"worker5" in printed
        assert b"typed in" not in printed + seen


def kept(folder: Path) -> Credentials:
    workspace = Workspace(folder / "cluster.toml")
    return make_credentials(workspace.cluster, workspace.keys(), SECRETS)


def test_keys_are_kept_private_and_the_same(cluster: Path) -> None:
    first = kept(cluster)
    state = cluster / "state"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))}
    assert len(modes) >= 2 * (6 + 1) + 1 + 3
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    again = kept(cluster)
    assert again == first
    assert len({pair.private for pair in first.host_keys.values()}) == 6
    (state / "mine/host-keys/worker2").unlink()
    third = kept(cluster)
    assert {n for n in third.host_keys if third.host_keys[n] != first.host_keys[n]} == {"worker2"}


@pytest.mark.parametrize(
    ("name", "said"), [("gateway-key", "not an OpenSSH private key"), ("salt", "not a salt")]
)
def test_a_state_folder_that_was_damaged(cluster: Path, name: str, said: str) -> None:
    kept(cluster)
    (cluster / "state/mine" / name).write_text("$6$ \n")
    with pytest.raises(PiimgError, match=said) as error:
        kept(cluster)
    assert "to generate a new" in error.value.hint


def test_the_release_must_be_known(cluster: Path) -> None:
    file = cluster / "cluster.toml"
    (cluster / "own.img").write_bytes(b"")
    file.write_text(file.read_text().replace("raspios-trixie-arm64-lite", "own.img"))
    assert "--release bookworm" in refused(piimg(cluster, "plan", env=GIVEN))
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


def test_a_password_no_one_could_type(cluster: Path) -> None:
    with pytest.raises(UsageError, match="1 to 1024"):
        derive.password_hash("a\0b", "salt")
    file = cluster / "secrets.toml"
    file.write_text('user_password = "bell\\u0007"\n')
    said = refused(piimg(cluster, "plan", env={key: GIVEN[key] for key in GIVEN if "PASSWORD" not in key}))
    assert "the password must have 1 to 1024 characters" in said
    assert "bell" not in said
