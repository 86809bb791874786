"""`piimg init`: what it lays out, from options and from answers, and where it refuses to."""

import os
import re
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagebuilder import manifest
from imagebuilder.cli.main import piimg as command
from imagebuilder.errors import UsageError
from imagebuilder.keys import ssh
from imagebuilder.model import Secret, Wifi
from imagebuilder.networks import WifiSecurity
from tests.support.terminal import Window, window
from tests.unit.plan.running import PIIMG, dropping, piimg, refused

WIFI = ("--wifi", 'Café "7" 📶', "--country", "FR", "--wifi-passphrase-file", "pass")
PASSPHRASE = 'a "long" one\\'
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"


def named(folder: Path) -> dict[str, str]:
    """The secrets in a cluster folder."""
    return tomllib.loads((folder / "secrets.toml").read_text())


def test_init_lays_out_a_folder_that_plans_as_it_stands(home: Path) -> None:
    """Without a terminal and without a Wi-Fi: the way out is a cable, and nothing is to be filled in."""
    done = piimg(home, "init", "mine")
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    assert first.startswith("public keys that may log in: none in ")
    assert second.startswith("the master reaches your home network by a cable in eth1")
    assert max(map(len, done.stdout.split("\n"))) <= 80
    secrets = home / "mine/secrets.toml"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert "secrets.toml" in (home / "mine/.gitignore").read_text().split("\n")
    assert "state/" in (home / "mine/.gitignore").read_text().split("\n")
    lines = [line for line in (home / "mine/cluster.toml").read_text().split("\n") if 'name = "mine"' in line]
    assert len(lines) == 1
    plan = piimg(home / "mine", "plan", "--full")
    assert plan.returncode == 0, plan.stderr
    assert [line for line in plan.stdout.split("\n") if line and not line.startswith(" ")] == [
        "master: master, Raspberry Pi 4 Model B, 10.0.0.1, trixie",
        *(f"worker{n}: worker, Raspberry Pi 3 Model B+, 10.0.0.1{n}, trixie" for n in range(1, 6)),
        "layers",
    ]
    assert re.search(r"base \(own\) +root/etc/motd", plan.stdout)
    assert "change-me" not in "".join(
        file.read_text() for file in (home / "mine").rglob("*") if file.is_file()
    )
    assert not (home / "mine/state").exists()


def test_every_option_is_in_the_manifest(home: Path) -> None:
    key = ssh.make("me@laptop").public
    (home / "key.pub").write_text(f"{key}\n")
    (home / "pass").write_text(f"{PASSPHRASE}\nnot this line\n")
    done = piimg(
        home, "init", "mine", *WIFI, "--workers", "3", "--master-board", "pi-5", "--worker-board", "pi-4b",
        "--timezone", "Europe/Paris", "--locale", "fr_FR.UTF-8", "--keyboard", "fr(bepo)",
        "--network", "10.9.0.0/24", "--user", "anna", "--ssh-key", "key.pub",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    cluster = manifest.load(home / "mine/cluster.toml")
    assert (cluster.name, cluster.timezone, cluster.locale, cluster.keyboard) == (
        *("mine", "Europe/Paris", "fr_FR.UTF-8", "fr(bepo)"),
    )
    assert (cluster.user.name, cluster.user.authorized_keys) == ("anna", (key,))
    assert cluster.nodes[0].wifi == Wifi('Café "7" 📶', "FR", Secret("wifi_psk"))
    assert [(node.name, node.board.name, str(node.address)) for node in cluster.nodes] == [
        ("master", "pi-5", "10.9.0.1"),
        *((f"worker{n}", "pi-4b", f"10.9.0.1{n}") for n in (1, 2, 3)),
    ]
    assert named(home / "mine") == {"wifi_psk": PASSPHRASE}
    assert stat.S_IMODE((home / "mine/secrets.toml").stat().st_mode) == 0o600
    assert PASSPHRASE not in done.stdout + done.stderr
    assert piimg(home / "mine", "plan").returncode == 0


def test_a_passphrase_that_is_not_known_yet_is_the_next_step(home: Path) -> None:
    done = piimg(home, "init", "mine", "--wifi", "Home", "--country", "GB")
    assert "Next: cd mine && piimg secrets set wifi_psk && piimg plan" in done.stdout
    assert named(home / "mine") == {}
    assert "piimg secrets set wifi_psk" in refused(piimg(home / "mine", "plan"))
    given = {"PIIMG_SECRET_WIFI_PSK": PASSPHRASE}
    assert piimg(home / "mine", "plan", env=given).returncode == 0
    assert "secrets set" not in piimg(home, "init", "two", "--wifi", "H", "--country", "GB", env=given).stdout


def test_an_empty_folder_is_filled(home: Path) -> None:
    (home / "mine").mkdir()
    os.chown(home / "mine", home.stat().st_uid, home.stat().st_gid)
    before = (home / "mine").stat().st_ino
    assert piimg(home / "mine", "init", ".").returncode == 0
    assert (home / "mine").stat().st_ino == before and not list(home.glob("*.partial"))
    assert piimg(home / "mine", "plan").returncode == 0
    assert manifest.load(home / "mine/cluster.toml").name == "mine"


@pytest.mark.parametrize(
    ("board", "base"), [("pi-2", "raspios-trixie-armhf-lite"), ("pi-5", "raspios-trixie-arm64-lite")]
)
def test_the_base_image_is_one_that_every_board_starts(home: Path, board: str, base: str) -> None:
    assert piimg(home, "init", "mine", "--worker-board", board).returncode == 0
    assert manifest.load(home / "mine/cluster.toml").base == base
    assert piimg(home / "mine", "plan").returncode == 0


def test_your_own_keys_may_log_in(home: Path) -> None:
    (home / ".ssh").mkdir()
    keys = [ssh.make(name).public for name in ("a", "b")]
    for name, key in zip("ab", keys, strict=True):
        (home / f".ssh/{name}.pub").write_text(key)
    assert "public keys that may log in: 2" in piimg(home, "init", "mine").stderr
    assert manifest.load(home / "mine/cluster.toml").user.authorized_keys == tuple(keys)


@pytest.mark.parametrize("workers", ["0", "1", "200"])
def test_any_number_of_workers(home: Path, workers: str) -> None:
    assert CliRunner().invoke(command, ["init", f"{home}/mine", "--workers", workers]).exit_code == 0
    assert len(manifest.load(home / "mine/cluster.toml").nodes) == int(workers) + 1


@pytest.mark.parametrize("prefix", [24, 28, 29, 30])
def test_the_smallest_networks(home: Path, prefix: int) -> None:
    given = ["init", f"{home}/mine", "--network", f"10.0.0.0/{prefix}"]
    assert CliRunner().invoke(command, given).exit_code == 0
    nodes = manifest.load(home / "mine/cluster.toml").nodes
    assert len(nodes) == {24: 6, 28: 6, 29: 6, 30: 2}[prefix]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--timezone", "Europe/Pariss"),
            "--timezone: no time zone is named Europe/Pariss; is Europe/Paris meant?",
        ),
        (("--locale", "en_GB"), "--locale: en_GB has no character set"),
        (("--keyboard", "QWERTY"), "--keyboard: 'QWERTY' is not a keyboard layout"),
        (("--network", "10.0.0.1/24"), "--network: 10.0.0.1/24 is the address of a machine"),
        (("--network", "x"), "--network: takes an IPv4 network"),
        (("--user", "root"), "--user: 'root' is not a user name"),
        (("--worker-board", "pi-3b++"), "--worker-board: no board is named pi-3b++; is pi-3b+ meant?"),
        (("--workers", "201"), "--workers: at most 200 fit into 10.0.0.0/24"),
        (("--workers", "6", "--network", "10.0.0.0/29"), "--workers: at most 5 fit into 10.0.0.0/29"),
        (("--wifi", "x" * 33, "--country", "GB"), f"--wifi: {'x' * 33!r} is not a network name"),
        (("--network", "10.0.0.0/31"), "--network: 10.0.0.0/31 is too small for two nodes"),
        (("--network", "0.0.0.0/0"), "these values make no valid cluster: cluster.toml:"),
        (("--country", "GB"), "--country needs the name of the Wi-Fi"),
        (("--wifi", "a\nb", "--country", "GB"), "--wifi: contains a control character"),
        (
            ("--wifi", "x", "--country", "UK"),
            "--country: the kernel has no wireless rules for a country UK; is GB meant?",
        ),
        (("--wifi", "x", "--wired", "eth1"), "--wired and a Wi-Fi exclude each other"),
        (("--wired", "eth0"), "--wired: eth0 is the LAN of the cluster"),
        (("--wired", "eth0.5"), "--wired: 'eth0.5' is not a network interface name"),
        (("--wifi-passphrase-file", "pass"), "--wifi-passphrase-file needs the name of the Wi-Fi"),
        (
            ("--wifi", "x", "--country", "GB", "--wifi-passphrase-file", "short"),
            "the passphrase of the network x must have",
        ),
        (("--wifi", "x", "--country", "GB", "--wifi-passphrase-file", "gone"), "cannot read gone"),
        (("--ssh-key", "private"), "--ssh-key: private is a private key"),
        (("--ssh-key", "short"), "--ssh-key short: 'short' is not an SSH public key line"),
        (("--ssh-key", "empty"), "--ssh-key: the file is empty"),
    ],
)
def test_a_value_that_no_manifest_accepts_is_refused_before_anything_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    for name, text in {"pass": PASSPHRASE, "short": "short", "empty": "\n", "private": PRIVATE}.items():
        (home / name).write_text(text)
    monkeypatch.chdir(home)
    before = sorted(home.iterdir())
    done = CliRunner().invoke(command, ["init", "mine", *words])
    assert isinstance(done.exception, UsageError)
    assert done.exception.message.startswith(said) and done.exception.hint
    assert sorted(home.iterdir()) == before


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
    assert "piimg: cannot create closed/new: Permission denied" in refused_after_notes(home, "closed/new")


def refused_after_notes(home: Path, folder: str) -> str:
    done = piimg(home, "init", folder)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def test_a_name_no_host_can_have(home: Path) -> None:
    for name in ("My Cluster", "localhost", "x" * 70):
        assert CliRunner().invoke(command, ["init", f"{home}/{name}"]).exit_code == 0
        assert 'name = "picluster"' in (home / name / "cluster.toml").read_text()


@contextmanager
def asking(home: Path, *words: str) -> Iterator[tuple[Window, "subprocess.Popen[bytes]"]]:
    """piimg at a terminal of its own."""
    with window(100, 40) as (seen, side):
        argv = ["setsid", "--ctty", *dropping(), str(PIIMG), *words]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(home), "TERM": "xterm", "LANG": "de_DE.utf8"}
        with subprocess.Popen(argv, stdin=side, stdout=side, stderr=side, env=env, cwd=home) as running:
            try:
                yield seen, running
            finally:
                running.kill()


def answer(seen: Window, question: str, text: str) -> None:
    seen.wait_for(lambda lines: question in lines[-1])
    os.write(seen.main, f"{text}\n".encode())


def test_it_asks_at_a_terminal_and_asks_again(home: Path) -> None:
    with asking(home, "init", "mine", "--keyboard", "de", "--network", "10.5.0.0/24") as (seen, running):
        answer(seen, "How many workers [5]", "many")
        answer(seen, "How many workers [5]", "2")
        answer(seen, "Board of the master [pi-4b]", "pi-5")
        answer(seen, "Board of the workers [pi-3b+]", "pi-33")
        answer(seen, "Board of the workers [pi-3b+]", "")
        answer(seen, "Time zone [", "Europe/Berln")
        answer(seen, "Time zone [", "Europe/Berlin")
        answer(seen, "Locale [de_DE.UTF-8]", "")
        answer(seen, "Account on the nodes [pi]", "")
        answer(seen, "Wi-Fi that the master joins", "Zuhause")
        answer(seen, "Country of the Wi-Fi [DE]", "")
        answer(seen, "Passphrase of Zuhause", "short")
        answer(seen, "Passphrase of Zuhause", PASSPHRASE)
        answer(seen, "The passphrase again", "another one")
        answer(seen, "Passphrase of Zuhause", PASSPHRASE)
        answer(seen, "The passphrase again", PASSPHRASE)
        seen.wait_for(lambda lines: "Next: cd mine && piimg plan" in lines[-1])
        assert running.wait() == 0
        text = " ".join(seen.everything)
    assert "a number from 0 to 200" in text and "is Europe/Berlin meant?" in text
    assert (
        "no board is named pi-33" in text and "must have 8 to 63" in text and "the two answers differ" in text
    )
    assert PASSPHRASE not in text and "another one" not in text
    cluster = manifest.load(home / "mine/cluster.toml")
    assert (cluster.timezone, cluster.locale, cluster.keyboard) == ("Europe/Berlin", "de_DE.UTF-8", "de")
    assert (len(cluster.nodes), cluster.nodes[0].board.name, str(cluster.lan)) == (3, "pi-5", "10.5.0.0/24")
    assert cluster.nodes[0].wifi == Wifi("Zuhause", "DE", Secret("wifi_psk"))
    assert named(home / "mine") == {"wifi_psk": PASSPHRASE}
    assert piimg(home / "mine", "plan").returncode == 0


def test_ctrl_c_at_a_question_writes_nothing(home: Path) -> None:
    before = sorted(home.iterdir())
    with asking(home, "init", "mine") as (seen, running):
        seen.wait_for(lambda lines: "How many workers" in lines[-1])
        os.write(seen.main, b"\x03")
        assert running.wait() == 130
    assert sorted(home.iterdir()) == before


def test_an_open_network_and_yes_without_questions(home: Path) -> None:
    with asking(home, "init", "mine", "--wifi", "Cafe", "--country", "DE") as (seen, running):
        for question in (
            "How many",
            "the master",
            "the workers",
            "Time zone",
            "Locale",
            "Keyboard",
            "Account",
        ):
            answer(seen, question, "")
        answer(seen, "Passphrase of Cafe", "")
        seen.wait_for(lambda lines: "Next:" in lines[-1])
        assert running.wait() == 0
    assert manifest.load(home / "mine/cluster.toml").nodes[0].wifi == Wifi(
        "Cafe", "DE", None, security=WifiSecurity.OPEN
    )
    with asking(home, "init", "two", "--yes") as (seen, running):
        seen.wait_for(lambda lines: "Next: cd two && piimg plan" in lines[-1])
        assert running.wait() == 0
