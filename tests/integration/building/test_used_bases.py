"""Bases that are not fresh: refused, or corrected in each node image; with and without root."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.image.base.findings import LAYER
from imagebuilder.image.drift import compare, wanted_of
from imagebuilder.image.results import home_of
from tests.integration.image.spoiling import (
    Spoil,
    boot_file,
    debugfs,
    field,
    in_order,
    root_edit,
    root_file,
    root_link,
    settle,
    words,
)
from tests.support import judge
from tests.support.cluster import Place, make_place
from tests.support.machine import AS_USER, ID, Machine

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root"),
    pytest.mark.usefixtures("nothing_held"),
]

MACHINE_ID = b"0123456789abcdef0123456789abcdef\n"
OLD_PROFILE = "/etc/NetworkManager/system-connections/home.nmconnection"


def used(image: Path) -> None:
    """A golden card: another first user, started before, prepared by Imager, in somebody's own network."""
    root_edit(
        "/etc/passwd", lambda text: text.replace(b"/home/pi", b"/home/alice").replace(b"\npi:", b"\nalice:")
    )(image)
    debugfs(image, "rm /home/pi/.bashrc", "rm /home/pi/.profile", "rmdir /home/pi")
    debugfs(image, "mkdir /home/alice", "sif /home/alice uid 1000", "sif /home/alice gid 1000")
    root_file("/etc/machine-id", MACHINE_ID, 0o444)(image)
    root_file("/var/lib/dbus/machine-id", MACHINE_ID)(image)
    root_file("/var/lib/systemd/random-seed", b"x" * 512, 0o600)(image)
    root_file(OLD_PROFILE, "[connection]\nid=home\ntype=wifi\n[wifi]\nssid=mine\n", 0o600)(image)
    root_file("/etc/udev/rules.d/70-persistent-net.rules", 'SUBSYSTEM=="net", NAME="eth7"\n')(image)
    boot_file("custom.toml", 'config_version = 1\n[system]\nhostname = "other"\n')(image)
    boot_file("firstrun.sh", "#!/bin/bash\n")(image)
    words("systemd.run=/boot/firstrun.sh", "systemd.unit=kernel-command-line.target")(image)
    settle(image)
    field("free_blocks_count", "100")(image)  # last: e2fsck would set both right
    field("state", "0")(image)


WARNINGS = (
    "not-clean",
    "free-counts",
    "home",
    "machine-id",
    "random-seed",
    "interface-names",
    "network-profile",
    "imager",
    "imager-words",
)


@pytest.fixture
def base(specimen: Callable[[str], Path], home: Path) -> Path:
    """A bookworm specimen to change, in a folder that others than root can come to."""
    copy = home / "golden card.img"
    judge.said("cp", "--sparse=always", "--no-preserve=mode", specimen("bookworm"), copy)
    return copy


def check_corrected(image: Path, folder: Path) -> None:
    judge.check_file_systems(image, folder)
    said = judge.said("e2fsck", "-f", "-n", f"{image}?offset={judge.places(image).root}")
    assert "count wrong" not in said
    assert judge.on_root(image, "/home/alice/.ssh/authorized_keys")
    assert b"User:  1000" in judge.debugfs(image, 'stat "/home/alice/.ssh"')
    for path in ("/home/pi", OLD_PROFILE, "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed"):
        assert b"Inode:" not in judge.debugfs(image, f'stat "{path}"'), path
    assert b"Inode:" not in judge.debugfs(image, 'stat "/etc/udev/rules.d/70-persistent-net.rules"')
    assert judge.on_root(image, "/etc/machine-id") == b""
    line = judge.on_boot(image, "/cmdline.txt")
    assert b"systemd." not in line and b"init=" in line and b"root=" in line and line.count(b"\n") == 1
    listed = judge.said("mdir", "-b", "-i", f"{image}@@{judge.places(image).boot}", "::")
    assert "custom.toml" not in listed and "firstrun.sh" not in listed


def test_a_used_base_is_corrected_in_every_node(base: Path, place: Place, tmp_path: Path) -> None:
    used(base)
    done = place.run("--progress", "json", "build", "--node", "worker1", "--node", "master", "--base", base)
    assert done.returncode == 0, done.stderr
    reported = [json.loads(line) for line in done.stderr.splitlines()]
    warned = [one for one in reported if one.get("data", {}).get("finding")]
    assert [one["data"]["finding"] for one in warned] == list(WARNINGS)
    assert all(one["level"] == "warning" and one["text"].startswith("golden card.img: ") for one in warned)
    for node in ("worker1", "master"):
        image = place.build / f"{node}.img"
        check_corrected(image, tmp_path)
        document = json.loads((place.build / f"{node}.json").read_text())
        corrections = {entry["path"] for entry in document["entries"] if entry["layer"] == LAYER}
        assert {"/etc/machine-id", "/custom.toml", "/cmdline.txt", OLD_PROFILE} <= corrections
        assert document["base"]["home"] == "/home/alice"
        assert document["image"]["used"] < 80 << 20  # not the whole partition, whatever the superblock said
    assert b"cfg80211.ieee80211_regdom=" in judge.on_boot(place.build / "master.img", "/cmdline.txt")


@pytest.mark.parametrize("name", ["pi", "alice"])
def test_after_a_first_boot_nothing_has_drifted(name: str, base: Path, place: Place, tmp_path: Path) -> None:
    """Whether userconf renamed the account and moved its home, or it had its name already."""
    used(base)
    place.edit('^name = "pi"$', f'name = "{name}"')
    place.good("build", "--node", "worker1", "--base", base)
    image, card = place.build / "worker1.img", tmp_path / "card.img"
    judge.said("cp", "--sparse=always", image, card)
    root_file("/etc/machine-id", MACHINE_ID, 0o444)(card)
    root_file("/var/lib/systemd/random-seed", b"y" * 512, 0o600)(card)
    root_link("/var/lib/dbus/machine-id", "/etc/machine-id")(card)
    if name != "alice":
        debugfs(card, f"ln /home/alice /home/{name}", "unlink /home/alice")
    document = json.loads((place.build / "worker1.json").read_text())
    seen = compare(card, image, wanted_of(document), home_of(document))
    assert seen.drift == () and seen.compared > 30
    root_file(f"/home/{name}/.ssh/authorized_keys", "other\n", 0o600)(card)
    seen = compare(card, image, wanted_of(document), home_of(document))
    assert {(one.path, one.what) for one in seen.drift} >= {(f"/home/{name}/.ssh/authorized_keys", "content")}


def test_without_root_the_result_is_the_same(
    base: Path, home: Path, desktop: Machine, tmp_path: Path
) -> None:
    used(base)
    place = make_place(home, home / "cache")
    place.good("build", "--node", "worker1", "--base", base)
    by_root = json.loads((place.build / "worker1.json").read_text())["tree_digest"]
    judge.said("rm", "-r", place.build, place.cache)
    judge.said("chown", "-R", f"{ID}:{ID}", home)
    done = as_user(desktop, place, "build", "--node", "worker1", "--base", base)
    assert done.returncode == 0, done.stderr
    check_corrected(place.build / "worker1.img", tmp_path)
    assert json.loads((place.build / "worker1.json").read_text())["tree_digest"] == by_root


REFUSED: dict[str, tuple[Spoil, str]] = {
    "a disk id of another tool": (
        lambda image: judge.said("sfdisk", "-q", "--disk-id", image, "0xdeadbeef"),
        "sfdisk --disk-id golden card.img 0x5b0012aa",
    ),
    "a journal": (
        lambda image: debugfs(image, "feature needs_recovery"),
        "e2fsck -f -y 'golden card.img?offset=",
    ),
    "no sshd": (root_link("/etc/systemd/system/ssh.service", "/dev/null"), "unmask ssh.service"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_not_be_used_is_refused_by_all(
    what: str, base: Path, home: Path, desktop: Machine
) -> None:
    """With root and without in the same words, which name the user's own file; nothing is left."""
    spoil, words = REFUSED[what]
    spoil(base)
    place = make_place(home, home / "cache")
    reported = place.refused(1, "build", "--node", "worker1", "--base", base)
    assert words in reported and "piimg: golden card.img: " in reported
    judge.said("chown", "-R", f"{ID}:{ID}", home)
    done = as_user(desktop, place, "build", "--node", "worker1", "--base", base)
    assert done.returncode == 1 and refusal(done.stderr) == refusal(reported)
    assert not list(place.build.glob("worker1.*"))


def test_all_refusals_are_reported_at_once(base: Path, place: Place) -> None:
    in_order(*(spoil for spoil, _ in REFUSED.values()))(base)
    reported = refusal(place.refused(1, "build", "--node", "worker1", "--base", base))
    assert "journal" in reported  # a file system that is not whole is not looked into
    debugfs(base, "feature -needs_recovery")
    reported = refusal(place.refused(1, "build", "--node", "worker1", "--base", base))
    assert "golden card.img cannot be used, for 2 reasons" in reported
    assert "disk-id: " in reported and "sshd: " in reported and len(reported.splitlines()) == 3


def test_what_a_layer_settles_is_left_to_it(base: Path, place: Place) -> None:
    boot_file("custom.toml", "config_version = 1\n")(base)
    root_file(OLD_PROFILE, "[connection]\ntype=ethernet\ninterface-name=eth0\n", 0o600)(base)
    layer = place.folder / "overlays" / "node-worker1"
    (layer / "boot").mkdir(parents=True)
    (layer / "boot" / "custom.toml").write_text("mine\n")
    (layer / "layer.toml").write_text(f'remove = ["root{OLD_PROFILE}"]\n')
    place.good("build", "--node", "worker1", "--base", base)
    image = place.build / "worker1.img"
    assert judge.on_boot(image, "/custom.toml") == b"mine\n"
    assert b"Inode:" not in judge.debugfs(image, f'stat "{OLD_PROFILE}"')


def test_lines_stand_in_their_own_section(
    specimen: Callable[[str], Path], place: Place, tmp_path: Path
) -> None:
    """Bullseye with blocks of others in dhcpcd.conf, and a config.txt that ends in one board's section."""
    base = tmp_path / "base.img"
    judge.said("cp", "--sparse=always", "--no-preserve=mode", specimen("bullseye"), base)
    blocks = b"\ninterface usb0\nnoipv6rs\n\ninterface eth0\nstatic routers=192.168.1.1\n"
    root_edit("/etc/dhcpcd.conf", lambda text: text + blocks + b"\ninterface wlan0\nstatic x=y\n", 0o664)(
        base
    )
    boot_file("config.txt", "arm_boost=1\n[cm4]\ndtoverlay=w1-gpio\n")(base)
    layer = place.folder / "overlays" / "worker"
    (layer / "layer.toml").write_text(
        '[[lines]]\npath = "boot/config.txt"\nlines = ["dtoverlay=w1-gpio", "arm_boost=1"]\n'
        '[[lines]]\npath = "root/etc/dhcpcd.conf"\nlines = ["hostname", "nohook lookup"]\n'
    )
    place.good("build", "--node", "worker1", "--node", "master", "--base", base)
    image = place.build / "worker1.img"
    config = judge.on_boot(image, "/config.txt").decode()
    assert config == "arm_boost=1\n[cm4]\ndtoverlay=w1-gpio\n[all]\ndtoverlay=w1-gpio\n"
    found = under_interface(judge.on_root(image, "/etc/dhcpcd.conf").decode())
    assert found["usb0"] == ["noipv6rs"] and "wlan0" not in found and "nohook lookup" in found[""]
    assert {"static ip_address=10.0.0.11/24", "noipv6rs"} <= set(found["eth0"])
    assert len([line for line in found["eth0"] if "routers" in line]) == 1
    master = under_interface(judge.on_root(place.build / "master.img", "/etc/dhcpcd.conf").decode())
    assert not [line for line in master["eth0"] if "routers" in line]
    assert b"Mode:  0664" in judge.debugfs(image, 'stat "/etc/dhcpcd.conf"')


def under_interface(text: str) -> dict[str, list[str]]:
    """The settings of dhcpcd.conf by the interface whose block they stand in."""
    found: dict[str, list[str]] = {"": []}
    at = ""
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        if line.startswith("interface "):
            at = line.split()[1]
            found.setdefault(at, [])
        else:
            found[at].append(line)
    return found


def test_an_image_without_inodes_grows(base: Path, place: Place, tmp_path: Path) -> None:
    inodes = 15727 - 100  # of those that a specimen has free
    root_file("/opt/x", "")(base)
    debugfs(base, *(f"symlink /opt/{number} x" for number in range(inodes)))
    settle(base)
    place.good("build", "--node", "worker1", "--base", base)
    image = place.build / "worker1.img"
    judge.check_file_systems(image, tmp_path)
    assert image.stat().st_size > base.stat().st_size


def test_inspect_shows_what_a_build_would_say(base: Path, place: Place) -> None:
    assert "as a base image: no problems" in place.good("inspect", base)
    used(base)
    shown = place.good("inspect", base)
    assert "as a base image:\n" in shown and "warned   machine-id: " in shown
    document = json.loads(place.good("inspect", base, "--json"))
    assert [one["name"] for one in document["findings"]] == list(WARNINGS)
    judge.said("sfdisk", "-q", "--disk-id", base, "0xdeadbeef")
    (first, *_) = [
        load
        for load in json.loads(place.good("inspect", base, "--json"))["findings"]
        if load["weight"] == "refused"
    ]
    assert first["name"] == "disk-id" and str(base) in first["remedy"]
    judge.said("sfdisk", "-q", "--disk-id", base, "0x5b0012aa")
    place.good("build", "--node", "worker1", "--base", base)
    document = json.loads(place.good("inspect", place.build / "worker1.img", "--json"))
    assert document["findings"] is None and document["node"] == "worker1"


def as_user(desktop: Machine, place: Place, *said: object) -> "subprocess.CompletedProcess[str]":
    """piimg, run by the ordinary user in the cluster folder."""
    return subprocess.run(
        desktop.entered([sys.executable, "-c", AS_USER, *said], place.folder),
        env={**place.env, "HOME_OF_USER": str(place.folder.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(reported: str) -> str:
    """What an error says, from "piimg: " on."""
    return reported[reported.index("piimg: ") :]
