"""The layers nfs, watchdog, log-to-master, monitoring and unattended-upgrades on a master and a worker.

All of them at once, as somebody would use them; what docs/recipes.md says to type is run here.
"""

import base64
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder import resources
from imagebuilder.boot.run import Guest, wait_for_login
from imagebuilder.system.process import ToolError
from tests.conftest import releases
from tests.support import judge
from tests.support.mirror import Mirror
from tests.support.waiting import wait_until
from tests.system.cluster.mirror import SOURCES, mirror, service
from tests.system.recipes.booting import booted, make_cluster, said

pytestmark = [pytest.mark.recipes, pytest.mark.timeout(2400)]

LAYERS = ["nfs", "watchdog", "log-to-master", "monitoring", "unattended-upgrades"]
SOON = 90  # seconds in emulation


@dataclass(frozen=True)
class Pair:
    """The booted nodes; and a package of version 1.0, which the mirror has in version 2.0."""

    release: str
    master: Guest
    worker: Guest
    older: bytes


@pytest.fixture(scope="module", params=releases())
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A master and a worker of the release with all layers, every check good."""
    release, folder = request.param, tmp_path_factory.mktemp("shared")
    place, base = make_cluster(folder, release)
    place.edit(r"^(base = .*)$", rf'\1\nlayers = {json.dumps(LAYERS)}\npackages = ["curl"]')
    older = folder / "older"
    older.mkdir()
    Mirror(older).add("piimg-fresh")
    served = upgrades(base, release, folder / "served")
    with booted(place, base, release, ["master", "worker1"], services=(service(served),)) as nodes:
        yield Pair(release, nodes["master"], nodes["worker1"], (older / "piimg-fresh.deb").read_bytes())


def upgrades(base: Path, release: str, folder: Path) -> Path:
    """A mirror in ``folder`` that says it is Debian's for security updates; it has chrony, too."""
    shutil.copytree(mirror(judge.on_root(base, "/var/lib/dpkg/status"), release, ("chrony",)), folder)
    index = folder / "Packages"
    index.write_text(f"{index.read_text()}\n")
    Mirror(folder).add("piimg-fresh", {"Version": "2.0"})
    raw = index.read_bytes()
    (folder / "Release").write_text(
        f"Origin: Debian\nLabel: Debian-Security\nSuite: stable-security\nCodename: {release}-security\n"
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S UTC', time.gmtime())}\n"
        f"SHA256:\n {hashlib.sha256(raw).hexdigest()} {len(raw)} Packages\n"
    )
    return folder


def soon(what: Callable[[], bool], seconds: int = SOON) -> None:
    """Wait until ``what`` is so; a command that fails meanwhile says no."""

    def is_so() -> bool:
        try:
            return what()
        except (AssertionError, ToolError):
            return False

    wait_until(is_so, seconds, pause=3)


def restart(one: Guest) -> None:
    """Cut the power, and wait until the node is up again."""
    one.machine.power_cut()
    one.machine.power_on()
    wait_for_login(one)


def is_open(pair: Pair) -> bool:
    """Whether the gateway lets anybody out."""
    return bool(json.loads(said(pair.master, "sudo piimg-gateway status --json"))["open"])


def listening(one: Guest) -> set[str]:
    """Where a node's services listen for TCP, as ADDRESS:PORT."""
    return {line.split()[3] for line in said(one, "ss -Htln").splitlines()}


def test_a_file_is_on_both_nodes_and_only_on_the_lan(pair: Pair) -> None:
    said(pair.worker, "echo hello >/srv/cluster/greeting")
    assert said(pair.worker, "findmnt -nro FSTYPE /srv/cluster") == "autofs\nnfs4\n"
    assert said(pair.master, "cat /srv/cluster/greeting && stat -c %U:%a /srv/cluster") == "hello\npi:2775\n"
    said(pair.worker, "sudo touch /srv/cluster/by-root", ok=1)
    where = listening(pair.master)
    assert {one for one in where if one.endswith(":2049")} == {"10.0.0.1:2049"}
    assert not [one for one in where if one.endswith(":111")]
    assert said(pair.master, "sudo exportfs -s").split("(")[0].split() == ["/srv/cluster", "10.0.0.0/24"]


def test_what_a_worker_logs_is_on_the_master(pair: Pair) -> None:
    said(pair.worker, "logger -t recipe the kettle boils")
    soon(lambda: "the kettle boils" in said(pair.master, "sudo cat /var/log/nodes/worker1.log"))
    assert "Linux version" in said(pair.master, "sudo grep -h kernel: /var/log/nodes/worker1.log")
    said(pair.master, "logger -t recipe so does this one")
    soon(lambda: "so does this one" in said(pair.master, "sudo cat /var/log/nodes/master.log"))
    assert said(pair.master, "stat -c %U:%G:%a /var/log/nodes/worker1.log") == "root:adm:640\n"
    assert {one for one in listening(pair.master) if one.endswith(":514")} == {"10.0.0.1:514"}
    for one in (pair.master, pair.worker):
        said(one, "sudo rsyslogd -N1 && ! ls /var/log/syslog /var/log/auth.log")
    said(pair.master, "sudo logrotate --force /etc/logrotate.d/piimg-nodes && ls /var/log/nodes/*1.log.1")
    said(pair.worker, "logger -t recipe after the rotation")
    soon(lambda: "after the rotation" in said(pair.master, "sudo cat /var/log/nodes/worker1.log"))


def test_measurements_are_read_on_the_lan(pair: Pair) -> None:
    for node, name, address in ((pair.master, "master", "10.0.0.1"), (pair.worker, "worker1", "10.0.0.11")):
        assert {one for one in listening(node) if one.endswith(":9100")} == {f"{address}:9100"}
        text = said(pair.master, f"curl --silent {name}:9100/metrics | grep node_load1")
        assert "\nnode_load1 " in text


def test_an_upgrade_goes_through_the_gateway_and_closes_it(pair: Pair) -> None:
    assert not is_open(pair)
    for one in (pair.worker, pair.master):
        deb = base64.b64encode(pair.older).decode()
        said(one, f"echo {deb} | base64 -d >/tmp/older.deb && sudo dpkg -i /tmp/older.deb")
        said(one, "sudo rm -f /etc/apt/sources.list.d/*")
        said(one, f"echo '{SOURCES.strip()}' | sudo tee /etc/apt/sources.list")
        said(one, "sudo systemctl start apt-daily.service")
        assert "piimg-fresh" in said(one, "sudo with-internet unattended-upgrade --dry-run --debug 2>&1")
        said(one, "sudo systemctl start apt-daily-upgrade.service")
        assert said(one, "dpkg-query -W -f '${Version}' piimg-fresh") == "2.0"
        log = said(one, "sudo cat /var/log/unattended-upgrades/unattended-upgrades.log")
        assert "Packages that will be upgraded: piimg-fresh" in log
    soon(lambda: not is_open(pair))


def test_a_master_without_packages_installs_chrony_itself(pair: Pair) -> None:
    """The script of a master that is not dressed (docs/packages.md), with the mirror of the test before."""
    said(pair.master, "sudo dpkg --remove chrony")
    script = resources.shipped("overlays") / "master/firstboot.d/30-time"
    text = base64.b64encode(script.read_bytes()).decode()
    # without the internet's time it would wait for two minutes
    said(pair.master, f"echo {text} | base64 -d | sed 's/seq 60/seq 1/' >/tmp/30-time")
    said(pair.master, "sudo sh /tmp/30-time")
    assert "allow 10.0.0.0/24" in said(pair.master, "sudo chronyd -p && systemctl is-active chrony")


def test_a_worker_starts_while_the_master_is_away(pair: Pair) -> None:
    pair.master.machine.power_cut()
    restart(pair.worker)
    assert said(pair.worker, "findmnt -nro FSTYPE /srv/cluster") == "autofs\n"
    said(pair.worker, "timeout 60 ls /srv/cluster || exit 7", ok=7)
    said(pair.worker, "logger -t recipe while nobody listens")
    pair.master.machine.power_on()
    wait_for_login(pair.master)
    soon(lambda: said(pair.worker, "timeout 60 cat /srv/cluster/greeting") == "hello\n", 240)
    soon(lambda: "while nobody listens" in said(pair.master, "sudo cat /var/log/nodes/worker1.log"))


def test_a_board_that_hangs_is_reset(pair: Pair) -> None:
    """By the kernel's watchdog in software: the emulated board has none of its own."""
    node = pair.worker
    config = said(node, "cat /boot/firmware/config.txt /boot/config.txt 2>/dev/null || :")
    assert "dtparam=watchdog=on" in config.splitlines()
    assert said(node, "systemctl show --property RuntimeWatchdogUSec") == "RuntimeWatchdogUSec=15s\n"
    timeout = "/sys/class/watchdog/watchdog0/timeout"
    said(node, "sudo modprobe softdog && sudo piimg-watchdog extend")
    assert said(node, f"cat {timeout}") == "600\n"
    assert said(node, f"sudo piimg-watchdog restore && cat {timeout}") == "15\n"
    said(node, "! ls /run/piimg/watchdog-apt")
    before = node.machine.starts
    with_no_answer = "sudo sh -c 'echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze'"  # systemd hangs
    said(node, with_no_answer)
    wait_until(lambda: node.machine.starts > before, 120)
    wait_for_login(node)
