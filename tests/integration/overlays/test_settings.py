"""The settings of the manifest on each release: their files, read by the programs that are to read them."""

import dataclasses
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.boards import BOARDS
from imagebuilder.image.inject import with_lines, with_words, without_words
from imagebuilder.model import Kind, NodePlan, Partition, Release
from imagebuilder.settings import CA_CERTIFICATES, MODEL_FILTERS, HeaderInterface, Journal, Mount, data_uuid
from tests.integration.overlays import machines, rendered
from tests.integration.overlays.machines import Machine, machine
from tests.support.certificates import authority, issue
from tests.support.checkout import TOP
from tests.support.judge import said

LAYERS = TOP / "scripts" / "bases" / "layers"
BASES = {
    Release.BULLSEYE: ("common", "bullseye"),
    Release.BOOKWORM: ("cm5", "bookworm"),
    Release.TRIXIE: ("trixie-2026-10", "trixie"),
}
"""The layers of the specimens whose config.txt and cmdline.txt are those of each release's newest image."""

I2C, SPI, SERIAL, CONSOLE, ONE_WIRE = HeaderInterface


def planned(release: Release, name: str = "worker1", **settings: object) -> NodePlan:
    """What a node gets with ``settings``."""
    cluster = rendered.cluster()
    nodes = tuple(
        dataclasses.replace(node, **settings) if node.name == name else node  # type: ignore[arg-type]
        for node in cluster.nodes
    )
    return rendered.node_plan(name, release, dataclasses.replace(cluster, nodes=nodes))


# --- config.txt and cmdline.txt ---


def of_base(release: Release, name: str) -> bytes:
    """A file of the boot partition of the newest image of a release."""
    layer = BASES[release][name == "cmdline.txt"]
    return (LAYERS / layer / "boot" / name).read_bytes()


def changed(plan: NodePlan, name: str, content: bytes) -> bytes:
    """The file as the plan changes it."""
    for entry in plan.entries:
        if entry.partition is Partition.BOOT and entry.path == f"/{name}":
            match entry.kind:
                case Kind.LINES:
                    content = with_lines(content, entry)
                case Kind.WORDS:
                    content = with_words(content, entry.content)
                case Kind.NO_WORDS:
                    content = without_words(content, entry.content)
    return content


def seen_by(board: str, content: bytes) -> Iterator[str]:
    """The lines that the firmware of a board applies, by the documentation of its filters.

    A model filter replaces the one before; another filter (here never true) adds up until [all].
    """
    model, others = True, True
    for line in content.decode().splitlines():
        if not line.startswith("["):
            if model and others and line and not line.startswith("#"):
                yield line
        elif line == "[all]":
            model, others = True, True
        elif (name := line.strip("[]")) in MODEL_FILTERS:
            model = board in MODEL_FILTERS[name]
        else:
            others = False


CONFIG = {
    "all": ("gpu_mem=16",),
    "pi3": ("arm_freq=1300",),
    "gpio4=1": ("hdmi_safe=1",),
    "pi4": ("arm_freq=1800",),
}
WANTED = {
    "pi-3b+": ["gpu_mem=16", "arm_freq=1300"],
    "pi-4b": ["gpu_mem=16", "arm_freq=1800"],
    "cm5": ["gpu_mem=16"],
}


@pytest.mark.parametrize("release", Release)
def test_each_board_sees_its_lines_and_those_of_the_base_image(release: Release) -> None:
    before = of_base(release, "config.txt")
    after = changed(planned(release, config=CONFIG), "config.txt", before)
    for board in BOARDS:
        seen, own = list(seen_by(board, after)), list(seen_by(board, before))
        assert seen[: len(own)] == own, board
        assert seen[len(own) :] == WANTED.get(board, seen[len(own) :]), board
    assert after.endswith(b"[all]\n")
    assert changed(planned(release, config=CONFIG), "config.txt", after) == after


@pytest.mark.parametrize(
    "left_open", [b"[gpio4=1]\n", b"[gpio4=1]\n[pi3]\n", b"[none]\na=1\n[pi3]\narm_freq=1300\n"]
)
def test_a_filter_that_the_base_image_leaves_open_does_not_apply_to_the_lines(left_open: bytes) -> None:
    after = changed(planned(Release.TRIXIE, config=CONFIG), "config.txt", b"first=1\n" + left_open)
    assert list(seen_by("pi-3b+", after)) == ["first=1", "gpu_mem=16", "arm_freq=1300"]
    assert list(seen_by("pi-4b", after)) == ["first=1", "gpu_mem=16", "arm_freq=1800"]


@pytest.mark.parametrize("release", Release)
def test_interfaces_are_turned_on(release: Release) -> None:
    plan = planned(release, interfaces=(I2C, SPI, SERIAL, ONE_WIRE))
    added = {"dtparam=i2c_arm=on", "dtparam=spi=on", "dtoverlay=w1-gpio", "enable_uart=1"}
    after = changed(plan, "config.txt", of_base(release, "config.txt"))
    before = set(seen_by("pi-3b+", of_base(release, "config.txt")))
    assert set(seen_by("pi-3b+", after)) - before == added
    assert set(seen_by("pi-5", after)) - set(seen_by("pi-5", of_base(release, "config.txt"))) == {
        *added,
        "dtparam=uart0=on",
    }
    assert rendered.files(plan)["/etc/modules-load.d/piimg-i2c.conf"].content.endswith(b"\ni2c-dev\n")
    line = of_base(release, "cmdline.txt")
    assert changed(plan, "cmdline.txt", line) == line.replace(b"console=serial0,115200 ", b"").strip() + b"\n"


@pytest.mark.parametrize("release", Release)
def test_the_serial_console_is_that_of_the_base_image(release: Release) -> None:
    plan = planned(release, interfaces=(CONSOLE,))
    line = of_base(release, "cmdline.txt")
    assert changed(plan, "cmdline.txt", line) == line
    assert b"console=serial0,115200" in changed(plan, "cmdline.txt", b"console=tty1 root=x\n").split()
    assert "enable_uart=1" in seen_by("pi-4b", changed(plan, "config.txt", of_base(release, "config.txt")))
    assert "/etc/modules-load.d/piimg-i2c.conf" not in rendered.files(plan)


@pytest.mark.parametrize("release", Release)
def test_without_settings_nothing_is_added(release: Release) -> None:
    plan = planned(release)
    assert "interfaces" not in plan.layers
    assert not [entry for entry in plan.entries if entry.path == "/config.txt"]


# --- the journal ---


@pytest.mark.parametrize("release", Release)
def test_journald_puts_the_journal_on_the_card(release: Release, tmp_path: Path) -> None:
    """Read as journald reads it: all its files in order, that of Raspberry Pi OS included."""
    shipped = "usr/lib/systemd/journald.conf.d/40-rpi-volatile-storage.conf"
    (tmp_path / shipped).parent.mkdir(parents=True)
    (tmp_path / shipped).write_bytes((LAYERS / "common" / "root" / shipped).read_bytes())
    read = ["systemd-analyze", f"--root={tmp_path}", "cat-config", "systemd/journald.conf"]
    settings = [line for line in said(*read).splitlines() if line.startswith("Storage=")]
    assert settings == ["Storage=volatile"]
    rendered.unpack(planned(release, journal=Journal.PERSISTENT), tmp_path)
    settings = [line for line in said(*read).splitlines() if line.startswith("Storage=")]
    assert settings[-1] == "Storage=persistent"
    assert "journal-persistent" not in planned(release).layers


# --- the port of sshd ---


@pytest.fixture(scope="module", params=list(Release))
def ported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the files of a node whose cluster has other ports than 22."""
    if missing := machines.missing():
        pytest.skip(missing)
    cluster = rendered.cluster()
    ports = {"master": 2222, "worker1": 2201}
    nodes = tuple(dataclasses.replace(n, ssh_port=ports.get(n.name, 22)) for n in cluster.nodes)
    plan = rendered.node_plan("worker1", request.param, dataclasses.replace(cluster, nodes=nodes))
    with machine("worker1", tmp_path_factory.mktemp("ported")) as made:
        made.install(plan)
        made.shell("id -u pi >/dev/null 2>&1 || useradd --no-create-home pi")
        yield made


def test_sshd_listens_on_the_port_only(ported: Machine) -> None:
    settings = ported.shell("sshd -T -C user=pi,host=x,addr=10.0.0.12").splitlines()
    assert [line for line in settings if line.startswith("port ")] == ["port 2201"]


@pytest.mark.parametrize(("name", "port"), [("master", 2222), ("worker1", 2201), ("worker2", 22)])
def test_ssh_on_a_node_finds_the_port_and_the_key(ported: Machine, name: str, port: int) -> None:
    settings = ported.shell(f"ssh -G {name}").splitlines()
    assert f"port {port}" in settings
    address = rendered.cluster().node(name).address
    for host in (name, f"{name}.picluster.internal", address):
        key = host if port == 22 else f"[{host}]:{port}"
        assert "found" in ported.shell(f"ssh-keygen -F '{key}' -f /etc/ssh/ssh_known_hosts")


def test_with_one_port_there_is_no_ssh_config() -> None:
    assert "/etc/ssh/ssh_config.d/10-piimg.conf" not in rendered.files(planned(Release.TRIXIE))
    assert (
        b"Port" not in rendered.files(planned(Release.TRIXIE))["/etc/ssh/sshd_config.d/10-piimg.conf"].content
    )


# --- certificates ---

HOME, WORK = authority("home"), authority("work")


def certified(release: Release) -> NodePlan:
    """What worker1 gets with a file of two certificates, and one with the first of them again."""
    both, first = (HOME.pem.decode(), WORK.pem.decode()), (HOME.pem.decode(),)
    files = {"certificates/my (own).pem": both, "other/my (own).pem": first}
    cluster = rendered.cluster()
    nodes = tuple(dataclasses.replace(node, ca_certificates=tuple(files)) for node in cluster.nodes)
    credentials = dataclasses.replace(rendered.credentials(), ca_certificates=files)
    return rendered.node_plan("worker1", release, dataclasses.replace(cluster, nodes=nodes), credentials)


@pytest.mark.parametrize("release", Release)
def test_each_certificate_has_a_file(release: Release) -> None:
    plan = certified(release)
    files = {path: entry for path, entry in rendered.files(plan).items() if path.startswith(CA_CERTIFICATES)}
    assert sorted(entry.content for entry in files.values()) == sorted([HOME.pem, WORK.pem])
    assert all(re.fullmatch(rf"{CA_CERTIFICATES}/piimg-my__own_-[0-9a-f]{{8}}\.crt", path) for path in files)
    assert {(entry.mode, entry.uid) for entry in files.values()} == {(0o644, 0)}
    assert "/usr/local/lib/piimg/firstboot.d/07-ca-certificates" in rendered.files(plan)


def test_programs_trust_what_the_authorities_issue(tmp_path: Path) -> None:
    """update-ca-certificates reads the files, and openssl its result."""
    if missing := machines.missing():
        pytest.skip(missing)
    with machine("worker1", tmp_path) as node:
        for name, issued in (("home", issue("a", HOME)), ("work", issue("b", WORK))):
            node.run("sh", "-c", f"cat >/run/{name}.pem", data=issued.pem)
        check = "openssl verify -CApath /etc/ssl/certs /run/home.pem /run/work.pem"
        assert "unable to get local issuer certificate" in node.run("sh", "-c", check, ok=(2,)).stderr
        node.install(certified(Release.BOOKWORM))
        for _ in range(2):  # a power cut may run it twice
            done = node.run("/usr/local/lib/piimg/firstboot.d/07-ca-certificates", timeout=120)
            assert "piimg" not in done.stderr  # a file with several certificates would be skipped
        assert node.shell(check) == "/run/home.pem: OK\n/run/work.pem: OK\n"
        bundle = node.shell("cat /etc/ssl/certs/ca-certificates.crt")
        assert HOME.pem.decode() in bundle and WORK.pem.decode() in bundle


# --- mounts ---

MOUNTS = (
    Mount("LABEL=data", "/srv/data", "ext4", ("noatime",)),
    Mount("10.0.0.1:/srv/share", "/srv/share", "nfs4"),
    Mount("//nas/Films#1", "/srv/films", "cifs", ("credentials=/etc/piimg/nas",)),
    Mount("tmpfs", "/var/cache/scratch", "tmpfs", ("size=16M", "mode=1777")),
)


@pytest.mark.parametrize("release", Release)
def test_systemd_and_mount_read_fstab(release: Release, tmp_path: Path) -> None:
    """The base image's own lines stay; systemd makes a unit of each line, and findmnt finds no error."""
    plan = planned(release, mounts=MOUNTS)
    before = (LAYERS / BASES[release][1] / "root/etc/fstab").read_bytes()
    (entry,) = [one for one in plan.entries if one.path == "/etc/fstab"]
    after = with_lines(before, entry)
    assert after == before + b"".join(f"{one.line}\n".encode() for one in MOUNTS)
    (tmp_path / "fstab").write_bytes(after)
    (tmp_path / "units").mkdir()
    generator = "/usr/lib/systemd/system-generators/systemd-fstab-generator"
    subprocess.run(
        [generator, *[tmp_path / "units"] * 3], env={"SYSTEMD_FSTAB": str(tmp_path / "fstab")}, check=True
    )
    made = {file.name for file in (tmp_path / "units").iterdir()}
    assert {"srv-data.mount", "srv-share.automount", "srv-films.automount", "var-cache-scratch.mount"} <= made
    assert "What=//nas/Films#1\n" in (tmp_path / "units/srv-films.mount").read_text()
    required = {file.name for file in (tmp_path / "units").glob("*.requires/*")}
    assert not {
        name for name in required if name.startswith(("srv-", "var-"))
    }  # the node starts without them
    columns = ["--noheadings", "--raw", "--output", "SOURCE,TARGET,FSTYPE,OPTIONS"]
    read = said("findmnt", "--tab-file", tmp_path / "fstab", *columns).splitlines()
    assert read[-4:] == [" ".join(one.line.split()[:4]) for one in MOUNTS]
    folders = {
        one.path: one.mode for one in plan.entries if one.kind is Kind.DIRECTORY and one.layer == "manifest"
    }
    assert folders == {one.path: 0o755 for one in MOUNTS}


def test_findmnt_verifies_what_can_be_mounted_here(tmp_path: Path) -> None:
    if missing := machines.missing():
        pytest.skip(missing)
    plan = planned(Release.TRIXIE, mounts=MOUNTS[3:])
    with machine("worker1", tmp_path) as node:
        node.install(plan)
        node.run("sh", "-c", "cat >/etc/fstab", data=f"{MOUNTS[3].line}\n".encode())
        assert "no errors" in node.run("findmnt", "--verify").stdout
        node.run("mount", "/var/cache/scratch")
        assert node.shell("findmnt -rno FSTYPE /var/cache/scratch") == "tmpfs\n"


# --- the size of root ---


@pytest.mark.parametrize("release", Release)
def test_nothing_else_grows_root(release: Release) -> None:
    plan = planned(release, root_size=8192, data="/srv/data")
    line = of_base(release, "cmdline.txt")
    words = changed(plan, "cmdline.txt", line).split()
    assert set(line.split()) - set(words) == {release.facts.growth_word.encode()}
    assert "/usr/local/lib/piimg/firstboot.d/01-root-size" in rendered.files(plan)
    conf = rendered.files(plan)["/etc/piimg/root-size.conf"].content.decode()
    assert "ROOT_MIB='8192'\n" in conf and f"DATA_UUID='{data_uuid('picluster', 'worker1')}'" in conf
    only_size = rendered.files(planned(release, root_size=8192))["/etc/piimg/root-size.conf"].content
    assert b"DATA_UUID=''" in only_size
