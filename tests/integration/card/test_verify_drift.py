"""`piimg verify DEVICE` on a booted card: exactly what changed of the overlay, and nothing else."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.image.firstboot import RULES
from imagebuilder.system.process import run
from tests.integration.card import first_boot
from tests.integration.card.first_boot import debugfs, put_on_boot
from tests.integration.card.running import TOP
from tests.integration.card.verifying import Built, copied, reported, verify
from tests.support.judge import debugfs as judged
from tests.support.judge import on_boot, places
from tests.unit.image.test_netplan import BOMB, as_netplan_writes_it


def rewrite(path: str, content: str, mode: str = "0100644", new: bool = False) -> Callable[[Path], None]:
    """Put another content into a file of the root partition, which is root's; or make a ``new`` one."""

    def change(card: Path) -> None:
        source = card.with_name("source")
        source.write_text(content)
        debugfs(
            card,
            *([] if new else [f"rm {path}"]),
            f"write {source} {path}",
            f"sif {path} mode {mode}",
            f"sif {path} uid 0",
            f"sif {path} gid 0",
        )

    return change


def flip_in(path: str) -> Callable[[Path], None]:
    """Change one bit in the content of a file of the root partition."""

    def change(card: Path) -> None:
        first, *_ = judged(card, f"blocks {path}").split()
        offset = places(card).root + int(first) * 4096 + 100
        with card.open("r+b") as stream:
            old = os.pread(stream.fileno(), 1, offset)
            os.pwrite(stream.fileno(), bytes([old[0] ^ 1]), offset)

    return change


def on_card(*commands: str) -> Callable[[Path], None]:
    return lambda card: debugfs(card, *commands)


def to_boot(path: str, content: bytes) -> Callable[[Path], None]:
    return lambda card: put_on_boot(card, path, content)


def from_boot(path: str) -> Callable[[Path], None]:
    def change(card: Path) -> None:
        run(["mdel", "-i", f"{card}@@{places(card).boot}", f"::{path}"])

    return change


def edit_boot(path: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(card: Path) -> None:
        before = on_boot(card, path)
        assert old in before
        put_on_boot(card, path, before.replace(old, new))

    return change


KEY = "/etc/piimg/ssh/ssh_host_ed25519_key"
WANTS = "/etc/systemd/system/multi-user.target.wants"
BREAKS: dict[str, tuple[Callable[[Path], None], str, str, str, str]] = {
    "content": (
        rewrite("/etc/hostname", "another\n"),
        "root/etc/hostname",
        "content",
        "8 bytes, ",
        "8 bytes, ",
    ),
    "length": (rewrite("/etc/hostname", "x\n"), "root/etc/hostname", "content", "8 bytes, ", "2 bytes"),
    "secret": (rewrite(KEY, "x", "0100600"), f"root{KEY}", "content", "", ""),
    "a bit of a secret": (flip_in(KEY), f"root{KEY}", "content", "", ""),
    "mode": (
        on_card("sif /usr/local/sbin/piimg-firstboot mode 0104755"),
        "root/usr/local/sbin/piimg-firstboot",
        "mode",
        "0755",
        "4755",
    ),
    "secret's mode": (on_card(f"sif {KEY} mode 0100604"), f"root{KEY}", "mode", "0600", "0604"),
    "owner": (on_card("sif /etc/hosts uid 1000"), "root/etc/hosts", "owner", "0:0", "1000:0"),
    "group": (on_card("sif /etc/hosts gid 70000"), "root/etc/hosts", "owner", "0:0", "0:70000"),
    "folder's mode": (on_card("sif /etc/spare mode 040755"), "root/etc/spare", "mode", "0750", "0755"),
    "moved home": (
        on_card("sif /home/ops/.ssh mode 040755"),
        "root/home/ops/.ssh",
        "mode",
        "0700",
        "0755",
    ),
    "link": (
        on_card("rm /etc/localtime", "symlink /etc/localtime /usr/share/zoneinfo/UTC"),
        "root/etc/localtime",
        "target",
        "/usr/share/zoneinfo/Europe/London",
        "/usr/share/zoneinfo/UTC",
    ),
    "long link": (
        on_card("rm /etc/long", f"symlink /etc/long /usr/share/{'a' * 40}/{'a' * 40}/tarbet"),
        "root/etc/long",
        "target",
        "/usr/share/aaa",
        "/usr/share/aaa",
    ),
    "disabled unit": (
        on_card(f"rm {WANTS}/piimg-firstboot.service"),
        f"root{WANTS}/piimg-firstboot.service",
        "missing",
        "",
        "",
    ),
    "missing file": (on_card("rm /etc/timezone"), "root/etc/timezone", "missing", "", ""),
    "a folder instead": (
        on_card("rm /etc/timezone", "mkdir /etc/timezone"),
        "root/etc/timezone",
        "kind",
        "regular",
        "directory",
    ),
    "quoted": (
        on_card('sif "/etc/a ""quoted"" name" mode 0100600'),
        'root/etc/a "quoted" name',
        "mode",
        "0644",
        "0600",
    ),
    "removed file": (
        on_card("symlink /etc/rpi-issue /etc/issue"),
        "root/etc/rpi-issue",
        "back",
        "",
        "",
    ),
    "lines": (
        rewrite("/etc/locale.gen", "# none\n"),
        "root/etc/locale.gen",
        "lines",
        "en_GB.UTF-8 UTF-8",
        "not in it",
    ),
    "boot file": (
        to_boot("/piimg.json", b'{"node": "worker1", "cluster": "mycluster"}'),
        "boot/piimg.json",
        "content",
        "",
        "",
    ),
    "boot pattern": (
        from_boot("/extra\\[2\\]/quirk\\[1\\].txt"),
        "boot/extra[2]/quirk[1].txt",
        "missing",
        "",
        "",
    ),
    "words that were removed": (
        edit_boot("/cmdline.txt", b"console=serial0", b"console=tty1 console=serial0"),
        "boot/cmdline.txt",
        "back",
        "",
        "console=tty1",
    ),
    "words": (
        edit_boot("/cmdline.txt", b" cgroup_enable=memory", b""),
        "boot/cmdline.txt",
        "words",
        "cgroup_enable=memory",
        "not in it",
    ),
    "secret line": (edit_boot("/config.txt", b"dtparam=audio=off", b""), "boot/config.txt", "lines", "", ""),
    "userconf put back": (to_boot("/userconf.txt", b"eve:$6$x$y\n"), "boot/userconf.txt", "content", "", ""),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_exactly_what_was_changed_is_reported(worker: Built, tmp_path: Path, broken: str) -> None:
    card = copied(worker.booted, tmp_path)
    change, path, what, wanted, found = BREAKS[broken]
    change(card)
    code, document = reported(worker, card)
    assert (code, document["state"]["state"]) == (3, "booted since")
    (one,) = document["state"]["drift"]
    assert (f"{one['partition']}{one['path']}", one["what"]) == (path, what)
    assert one["wanted"].startswith(wanted) and one["found"].startswith(found)
    assert bool(one["wanted"]) == bool(wanted) or broken == "boot file"
    done = verify(worker, card)
    assert done.returncode == 3
    assert "drift in 1 of" in done.stdout and path in done.stdout


def test_what_is_not_the_overlays_is_no_drift(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.booted, tmp_path)
    debugfs(card, "rm /etc/os-release", "sif /usr/sbin/sshd mode 0100777", "mkdir /srv/data")
    put_on_boot(card, "/config.txt", on_boot(card, "/config.txt") + b"enable_uart=1\n")
    put_on_boot(card, "/notes.txt", b"mine\n")
    code, document = reported(worker, card)
    assert (code, document["state"]["drift"]) == (0, [])


def test_several_changes_are_all_reported(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.booted, tmp_path)
    debugfs(card, "rm /etc/timezone", "sif /etc/hosts mode 0100600", "sif /etc/hosts uid 7")
    _, document = reported(worker, card)
    drift = [(one["path"], one["what"]) for one in document["state"]["drift"]]
    assert drift == [("/etc/hosts", "mode"), ("/etc/hosts", "owner"), ("/etc/timezone", "missing")]
    assert "drift in 2 of" in verify(worker, card).stdout


def test_a_card_that_was_pulled_while_running_says_so(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.booted, tmp_path)
    debugfs(card, "feature needs_recovery")
    code, document = reported(worker, card)
    assert code == 0
    assert any("not shut down cleanly" in one for one in document["state"]["notes"])
    first_boot.put_on_boot(
        card, "/cmdline.txt", on_boot(card, "/cmdline.txt").replace(b"1a2b3c4d", b"7213e26a")
    )
    _, document = reported(worker, card)
    assert any("may not boot" in one for one in document["state"]["notes"])


def test_a_node_image_of_an_older_piimg_is_not_guessed_at(worker: Built, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for suffix in (".img", ".bmap"):
        (images / f"worker1{suffix}").symlink_to(worker.image.with_suffix(suffix))
    document = json.loads(worker.image.with_suffix(".json").read_text())
    del document["entries"]
    (images / "worker1.json").write_text(json.dumps(document))
    done = verify(worker, worker.booted, "--images", images)
    assert done.returncode == 1
    assert "piimg build --node worker1" in done.stderr


def test_every_rule_has_its_reason_and_is_reported() -> None:
    safety = (TOP / "docs" / "safety.md").read_text()
    assert all(rule.reason for rule in RULES)
    paths = [f"`{rule.partition}{rule.pattern}`" for rule in RULES]
    assert [path for path in paths if path not in safety] == []


# --- what NetworkManager may do to a keyfile ---

KEYFILE = "/etc/NetworkManager/system-connections/piimg-lan.nmconnection"
STORED = pytest.mark.skipif(shutil.which("netplan") is None, reason="needs libnetplan (netplan.io)")


def taken_over(card: Path, folder: Path, *changes: tuple[bytes, bytes]) -> str:
    """Move the card's keyfile to netplan's folder, as NetworkManager of Trixie does; changed on the way.

    Gives the path of the new file.
    """
    keyfile = judged(card, f"cat {KEYFILE}")
    for old, new in changes:
        assert old in keyfile
        keyfile = keyfile.replace(old, new)
    uuid = next(line for line in keyfile.decode().splitlines() if line.startswith("uuid="))[5:]
    path = f"/etc/netplan/90-NM-{uuid}.yaml"
    debugfs(card, f"rm {KEYFILE}")
    rewrite(path, as_netplan_writes_it(keyfile, folder).decode(), "0100600", new=True)(card)
    return path


@STORED
def test_a_profile_moved_to_netplan_is_no_drift(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.booted, tmp_path)
    path = taken_over(card, tmp_path, (b"autoconnect-priority=100", b"autoconnect-priority=7"))
    code, document = reported(worker, card)
    assert (code, document["state"]["drift"]) == (0, [])
    (one,) = [one for one in document["state"]["expected_changes"] if one["change"] == "stored"]
    assert one["path"] == KEYFILE and one["reason"].endswith(f": now {path}")
    done = verify(worker, card)
    assert done.returncode == 0 and f"now {path}" in done.stdout and "no drift" in done.stdout


@STORED
@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (b"10.0.0.11/24", b"10.0.0.99/24", "eth0: 10.0.0.99/24 via 10.0.0.1, name servers"),
        (b",10.0.0.1\n", b",10.0.0.254\n", "eth0: 10.0.0.11/24 via 10.0.0.254, name servers"),
        (b"dns=", b"dns=8.8.8.8;", "eth0: 10.0.0.11/24 via 10.0.0.1, name servers 8.8.8.8 "),
        (b"method=manual", b"method=auto", "eth0: method auto"),
        (b"interface-name=eth0", b"interface-name=eth7", "eth7: 10.0.0.11/24"),
    ],
)
def test_a_profile_that_was_changed_is_drift(
    worker: Built, tmp_path: Path, old: bytes, new: bytes, found: str
) -> None:
    card = copied(worker.booted, tmp_path)
    taken_over(card, tmp_path, (old, new))
    code, document = reported(worker, card)
    (one,) = document["state"]["drift"]
    assert (code, one["path"], one["what"]) == (3, KEYFILE, "content")
    assert one["wanted"].startswith("eth0: 10.0.0.11/24 via 10.0.0.1, name servers ")
    assert one["found"].startswith(found)


@STORED
def test_a_profile_that_a_power_cut_emptied_is_missing(worker: Built, tmp_path: Path) -> None:
    card = copied(worker.booted, tmp_path)
    path = taken_over(card, tmp_path)
    rewrite(path, "", "0100600")(card)
    _, document = reported(worker, card)
    (one,) = document["state"]["drift"]
    assert (one["path"], one["what"], one["found"]) == (KEYFILE, "missing", f"{path} does not contain it")


@pytest.mark.parametrize("moved", [False, pytest.param(True, marks=STORED)])
def test_somebody_elses_netplan_file_is_drift(worker: Built, tmp_path: Path, moved: bool) -> None:
    """Next to the keyfile, or to the profile that it became, it could set up the interface otherwise."""
    card = copied(worker.booted, tmp_path)
    if moved:
        taken_over(card, tmp_path)
    rewrite("/etc/netplan/60-mine.yaml", "network: {ethernets: {eth0: {dhcp4: yes}}}\n", new=True)(card)
    rewrite("/etc/netplan/70-usb.yaml", "network: {ethernets: {eth1: {dhcp4: yes}}}\n", new=True)(card)
    rewrite("/etc/netplan/80-bomb.yaml", BOMB, new=True)(card)
    code, document = reported(worker, card)
    assert code == 3
    assert [(one["path"], one["what"], one["found"]) for one in document["state"]["drift"]] == [
        ("/etc/netplan/60-mine.yaml", "back", "it sets up eth0"),
        ("/etc/netplan/80-bomb.yaml", "back", "it has aliases, so it may set up eth0"),
    ]
