"""`piimg plan --diff` against what is prepared and built, and against cards on real file systems."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError
from imagebuilder.image.card_drift import card_differences, contents_on
from imagebuilder.model import Partition
from imagebuilder.system.files import copy_sparse
from tests.integration.card import first_boot
from tests.integration.card.first_boot import debugfs, put_on_boot
from tests.support.cluster import PASSPHRASE, Place, make_place
from tests.support.judge import places
from tests.unit.plan.test_diff import changed

TOKEN = "Qzw7-Kbvx9"
ENV = {"PIIMG_SECRET_TOKEN": TOKEN}
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u200b\x7f\r"


@pytest.fixture(scope="module")
def base(specimen: Callable[[str], Path]) -> Path:
    return specimen("trixie")


@pytest.fixture(scope="module")
def built(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A cluster folder in which worker1 is prepared and built; a test that changes it works on a copy."""
    folder = tmp_path_factory.mktemp("diff")
    place = make_place(folder, folder / "cache")
    place.edit(r"^\[gateway\]", '[vars]\ntoken = { secret = "token" }\n\n[gateway]')
    place.edit(r'^base = ".*"', f'base = "{base}"\nrelease = "trixie"')
    layer = place.folder / "overlays/base"
    (layer / "root/etc").mkdir(parents=True, exist_ok=True)
    (layer / "root/etc/token.j2").write_text("{{ cluster.vars.token }}\n")
    (layer / "root/etc/mode").write_text("text\n")
    (layer / "root/etc/binary").write_bytes(b"\0\1")
    (layer / "root/etc/going").write_text("going\n")
    (layer / "layer.toml").write_text(
        '[files."root/etc/token"]\nmode = "0600"\n[links]\n"root/etc/link" = "/a"\n'
    )
    place.good("build", "--node", "worker1", env=ENV)
    return place


@pytest.fixture
def place(built: Place, tmp_path: Path) -> Place:
    """A copy of ``built``; its images are only read."""
    images = shutil.ignore_patterns("*.img")
    shutil.copytree(built.folder, tmp_path / "mycluster", symlinks=True, ignore=images)
    (tmp_path / "mycluster/build/worker1.img").symlink_to(built.build / "worker1.img")
    return Place(tmp_path / "mycluster", built.cache)


@pytest.fixture
def card(built: Place, tmp_path: Path) -> Path:
    """A copy of the image of worker1, to be changed as a card is."""
    copy_sparse(built.build / "worker1.img", tmp_path / "card.img")
    return tmp_path / "card.img"


def diff(place: Place, *words: str | Path, env: dict[str, str] | None = None) -> dict[str, str]:
    """What differs, by heading; nothing secret, and nothing but lines."""
    done = place.run("plan", "--diff", *words, "--node", "worker1", env={**ENV, **(env or {})})
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert not any(secret in said for secret in (TOKEN, PASSPHRASE, "PRIVATE KEY"))
    assert all(c.isprintable() or c in "\n\t" for c in said), repr(said)
    return changed(done.stdout)


def change_all(place: Place) -> None:
    """Change a node in each way in which it can change."""
    place.edit(r'^address = "10\.0\.0\.12"', 'address = "10.0.0.92"')
    layer = place.folder / "overlays/base"
    (layer / "root/etc/going").unlink()
    (layer / "root/etc/coming").write_text("coming\n")
    (layer / "root/etc/binary").write_bytes(b"\0\2")
    toml = '[files."root/etc/token"]\nmode = "0600"\n[files."root/etc/mode"]\nmode = "0640"\nowner = "user"\n'
    (layer / "layer.toml").write_text(f'{toml}[links]\n"root/etc/link" = "/b"\n')


WANTED = {
    "worker1: root/etc/going": r"only {0}: file 0644 root, layer base \(own\)\n--- {0}\n\+\+\+ planned\n"
    r"@@ -1 \+0,0 @@\n-going",
    "worker1: root/etc/coming": r"only planned: file 0644 root, layer base \(own\)\n--- {0}\n\+\+\+ planned\n"
    r"@@ -0,0 \+1 @@\n\+coming",
    "worker1: root/etc/mode": r"-mode 0644\n\+mode 0640\n-owner root\n\+owner user",
    "worker1: root/etc/link": r"-link to /a\n\+link to /b",
    "worker1: root/etc/hosts": r"--- {0}\n(.*\n)+-10\.0\.0\.12 worker2(.*\n)+\+10\.0\.0\.92 worker2(.*\n)+.*",
    "worker1: root/etc/ssh/ssh_known_hosts": r"(.*\n)+.*",
}


def test_what_is_prepared(place: Place) -> None:
    """Without the base image: the record has what is needed."""
    nowhere = {"PIIMG_CACHE": str(place.folder / "nowhere")}
    assert diff(place, env=nowhere) == {}
    change_all(place)
    found = diff(place, env=nowhere)
    binary = found.pop("worker1: root/etc/binary")
    assert re.fullmatch(
        r"-prepared: 2 bytes, sha256 \w+…, not kept\n\+planned: binary, 2 bytes, sha256 .*", binary
    )
    assert found.keys() == WANTED.keys()
    for title, pattern in WANTED.items():
        assert re.fullmatch(pattern.format("prepared"), found[title]), found[title]
    assert diff(place, env={"PIIMG_SECRET_TOKEN": "another"})["worker1: root/etc/token"] == (
        "the contents differ; they have a secret and are not shown"
    )


def test_what_is_built(place: Place) -> None:
    shutil.rmtree(place.folder / "state" / "mycluster" / "prepared")
    assert diff(place) == diff(place, "build") == {}
    change_all(place)
    found = diff(place)
    assert found == diff(place, place.build)
    assert re.fullmatch(
        r"-built: binary, 2 bytes, sha256 .*\n\+planned: binary, 2 bytes, sha256 .*",
        found.pop("worker1: root/etc/binary"),
    )
    assert found.keys() == WANTED.keys()
    for title, pattern in WANTED.items():
        assert re.fullmatch(pattern.format("built"), found[title]), found[title]
    assert "root/etc/token" in diff(place, env={"PIIMG_SECRET_TOKEN": "another"}).popitem()[0]


def test_a_card_that_was_never_booted(place: Place, card: Path) -> None:
    assert diff(place, card) == {}
    change_all(place)
    found = diff(place, card)
    assert found.keys() == {*WANTED, "worker1: root/etc/binary"} - {"worker1: root/etc/going"}
    (card.parent / "other").write_text("mine\nadded\n")
    debugfs(
        card,
        "rm /etc/hostname",
        f"write {card.parent}/other /etc/hostname",
        "rm /etc/timezone",
        "cd /etc",
        "mknod timezone p",
        "cd /",
        "rm /usr/local/bin/with-internet",
    )
    put_on_boot(card, "/cmdline.txt", b"console=tty1 quiet\n")
    found = diff(place, card)
    assert "-mine\n-added\n+worker1" in found["worker1: root/etc/hostname"]
    assert found["worker1: root/etc/timezone"].startswith("-kind FIFO\n+kind file\n")
    assert found["worker1: root/usr/local/bin/with-internet"].startswith(
        "only planned: file 0755 root, layer base"
    )
    assert "another" not in str(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="a first boot is done by root")
@pytest.mark.parametrize("account", ["pi", "ada"])
def test_a_booted_card_has_not_changed(place: Place, card: Path, account: str) -> None:
    os.truncate(card, 2 * card.stat().st_size)
    (card.parent / "point").mkdir()
    first_boot.boot(card, card.parent / "point", account)
    if account != "pi":
        passwd = subprocess.run(
            ["debugfs", "-R", "cat /etc/passwd", f"{card}?offset={places(card).root}"],
            capture_output=True,
            check=True,
        ).stdout
        (card.parent / "passwd").write_bytes(passwd.replace(b":/home/pi:", b":/home/ada:"))
        debugfs(card, "rm /etc/passwd", f"write {card.parent}/passwd /etc/passwd")
    assert diff(place, card) == {}
    change_all(place)
    assert "worker1: root/etc/hosts" in diff(place, card)


def test_which_node_a_card_should_carry(place: Place, card: Path) -> None:
    done = place.run("plan", "--diff", card, env=ENV)
    assert done.returncode == 0 and f"worker1: nothing that the plan gives differs on {card}\n" in done.stderr
    done = place.run("plan", "--diff", card, "--node", "worker2", env=ENV)
    assert f"note: {card} carries worker1\n" in done.stderr
    assert "-worker1\n+worker2" in changed(done.stdout)["worker2: root/etc/hostname"]
    assert "a card carries one node" in place.refused(
        2, "plan", "--diff", card, "-n", "worker1", "-n", "worker2"
    )
    place.edit('name = "worker1"', 'name = "worker7"')
    said = place.refused(2, "plan", "--diff", card, env=ENV)
    assert "carries worker1, which the manifest does not have" in said and "--node" in said


def test_a_hostile_card(place: Place, card: Path) -> None:
    """Its contents, targets, owners and sizes reach neither the terminal nor the memory."""
    text = (f"{HOSTILE}\n" * 3).encode()
    (card.parent / "hostile").write_bytes(text + b"\xff")
    (card.parent / "alike").write_text("x\ny\n" * 100_000)
    debugfs(
        card,
        *(
            f"rm {path}"
            for path in (
                "/etc/hostname",
                "/etc/hosts",
                "/etc/timezone",
                "/etc/mode",
                "/etc/link",
                "/etc/token",
            )
        ),
        f"write {card.parent}/hostile /etc/hostname",
        f"write {card.parent}/alike /etc/hosts",
        f'symlink /etc/link "{HOSTILE[:4]}x"',
        f"write {card.parent}/hostile /etc/token",
        "symlink /etc/timezone /etc/timezone",
        f"write {card.parent}/hostile /etc/mode",
        f"sif /etc/mode size {1 << 40}",
        "sif /etc/mode uid 4294967295",
    )
    (card.parent / "text").write_bytes(text)
    debugfs(card, "rm /etc/binary", f"write {card.parent}/text /etc/binary")
    put_on_boot(card, "/piimg.json", b'{"node": "worker1", "cluster": "mycluster"}' + text)
    begun = time.monotonic()
    found = diff(place, card)
    assert time.monotonic() - begun < 60
    assert "not shown: too large" in found["worker1: root/etc/mode"]
    assert "owner 4294967295:0\n" in found["worker1: root/etc/mode"]
    assert found["worker1: root/etc/hosts"].endswith("… more than 5000 lines")
    assert "secret" in found["worker1: root/etc/token"]
    assert "root/etc/timezone" in str(found) and "-link to ?]0;x" in found["worker1: root/etc/link"]


def test_a_damaged_card_is_an_error(place: Place, card: Path) -> None:
    with card.open("r+b") as stream:
        stream.seek(places(card).root + 1024)
        stream.write(bytes(4096))
    assert "has no ext4 file system" in place.refused(1, "plan", "--diff", card, "--node", "worker1", env=ENV)
    with pytest.raises(PiimgError, match="no ext4"):
        card_differences(card, ())
    with pytest.raises(PiimgError, match="no ext4"):
        contents_on(card, [(Partition.ROOT, "/etc/hosts")])


def test_show_has_the_files_of_the_base_image(place: Place) -> None:
    """Those with additions, and those that no layer changes."""
    line = place.good("plan", "--show", "boot/cmdline.txt", "--node", "master")
    assert line.count("\n") == 1 and "root=PARTUUID=" in line and "cfg80211.ieee80211_regdom=GB" in line
    everyone = place.good("plan", "--show", "boot/cmdline.txt")
    assert "==> worker1 … worker5: boot/cmdline.txt: the file of the base image, unchanged\n" in everyone
    assert "pi:x:1000:1000:" in place.good("plan", "--show", "/etc/passwd", "--node", "worker1")
    assert "no node gets /etc/pasword; is" not in place.refused(2, "plan", "--show", "/etc/nothing-of-it")
