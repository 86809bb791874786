"""The way in for a person: ssh and Ansible with what `piimg export` prints, from the uplink's side."""

import contextlib
from collections.abc import Iterator

import pytest

from imagebuilder import export
from tests.integration.overlays import rendered
from tests.integration.overlays.lans import Lan

INSIDE = "203.0.113.2"  # the master's address on the uplink
HERE = "/root/.ssh"
NODES = ("master", "worker1", "worker2")


@pytest.fixture
def home(lan: Lan) -> Iterator[Lan]:
    """The machines, with sshd on the workers too, and the exported files on the one that stands for home."""
    cluster, credentials = rendered.cluster(), rendered.credentials()
    keys = {name: pair.public for name, pair in credentials.host_keys.items()}
    via = export.via(INSIDE)
    known = export.default_known_hosts(cluster)
    lan.uplink.shell(f"rm -rf {HERE}; mkdir -m 700 {HERE}; echo 'Include picluster.conf' >{HERE}/config")
    for name, text in {
        "picluster.conf": export.ssh_config(cluster, via, known, f"{HERE}/key"),
        "picluster.known_hosts": export.known_hosts(cluster, keys, via),
        "inventory.yaml": export.ansible_inventory(cluster),
        "key": rendered.someone().private,
    }.items():
        lan.uplink.run("sh", "-c", f"umask 077; cat >{HERE}/{name}", data=text.encode())
    for node in (lan.master, lan.worker1, lan.worker2):
        node.shell("chown -R pi: /home/pi")  # the host may have another account with UID 1000
    with contextlib.ExitStack() as stack:
        for worker in (lan.worker1, lan.worker2):
            stack.enter_context(worker.running("/usr/sbin/sshd", "-D", "-e"))
            lan.master.shell(f"until (exec 3<>/dev/tcp/{worker.name}/22) 2>/dev/null; do sleep 0.1; done")
        yield lan


@pytest.mark.parametrize("domain", ["", ".picluster.internal"])
@pytest.mark.parametrize("node", NODES)
def test_ssh_reaches_each_node_by_its_name(home: Lan, node: str, domain: str) -> None:
    done = home.uplink.run("ssh", "-o", "BatchMode=yes", f"{node}{domain}", "hostname; id -un")
    assert done.stdout == f"{node}\npi\n"
    assert done.stderr == ""
    assert home.uplink.run("ls", HERE).stdout.split() == [
        "config", "inventory.yaml", "key", "picluster.conf", "picluster.known_hosts",
    ]  # fmt: skip  # no key was learnt


@pytest.mark.parametrize("node", NODES)
def test_a_node_with_another_host_key_is_refused(home: Lan, node: str) -> None:
    """Each node's own line is what counts: with another node's key, or none, no login."""
    other = "worker2" if node == "worker1" else "worker1"
    known = f"{HERE}/picluster.known_hosts"
    key = rendered.credentials().host_keys[node].public.split()[1]
    wrong = rendered.credentials().host_keys[other].public.split()[1]
    ssh = ("ssh", "-o", "BatchMode=yes", node, "true")
    home.uplink.shell(f"sed -i 's|{key}|{wrong}|' {known}")
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in home.uplink.run(*ssh, ok=(255,)).stderr
    home.uplink.shell(f"sed -i '/^{node},/d' {known}")
    assert "Host key verification failed" in home.uplink.run(*ssh, ok=(255,)).stderr


def test_ansible_reaches_each_node(home: Lan) -> None:
    done = home.uplink.run(
        "env", "HOME=/root", "LC_ALL=C.UTF-8", "ANSIBLE_NOCOLOR=1", "ANSIBLE_DEPRECATION_WARNINGS=False",
        "ansible", "-i", f"{HERE}/inventory.yaml", "-m", "ping", "--one-line", ":".join(NODES), timeout=120,
    )  # fmt: skip
    answers = sorted(done.stdout.splitlines())
    assert [line.split(" ")[0] for line in answers] == list(NODES)
    assert all("| SUCCESS =>" in line and '"ping": "pong"' in line for line in answers)
    assert done.stderr == ""
