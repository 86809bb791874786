"""The way out as a worker asks for it: with-internet over a real sshd and sudo, and what its key may do."""

import dataclasses
import json
from pathlib import Path

import pytest

from imagebuilder.model import NodePlan, Release
from tests.integration.overlays import lans, rendered
from tests.integration.overlays.lans import Lan
from tests.integration.overlays.machines import Machine
from tests.support.waiting import wait_until


def test_with_internet_opens_for_a_command_and_gives_its_status(lan: Lan) -> None:
    done = lan.worker1.run("with-internet", "bash", "-c", f"{lans.PROBE} && exit 42", ok=(42,))
    assert done.stderr == ""
    assert not lans.status(lan)["open"]
    assert not lans.reaches(lan.worker1)


def test_with_internet_for_the_ordinary_user(lan: Lan) -> None:
    done = lan.worker1.run(
        "runuser", "-u", "pi", "--", "with-internet", "bash", "-c", f"{lans.PROBE} && id -un"
    )
    assert (done.stdout, done.stderr) == ("pi\n", "")


def test_two_users_are_counted(lan: Lan) -> None:
    with lans.held(lan.worker1) as first:
        with lans.held(lan.worker2):
            assert sorted(lans.users(lan)) == ["10.0.0.11", "10.0.0.12"]
            first.terminate()
            lan.worker1.kill("with-internet")
            wait_until(lambda: lans.users(lan) == ["10.0.0.12"])
            assert lans.reaches(lan.worker2)
            lan.worker2.kill("sleep")
        wait_until(lambda: not lans.status(lan)["open"])


@pytest.mark.parametrize("victim", ["ssh", "with-internet"])
def test_a_killed_client_does_not_leave_it_open(lan: Lan, victim: str) -> None:
    with lans.held(lan.worker1):
        lan.worker1.kill(victim)
        wait_until(lambda: not lans.status(lan)["open"], 5)


def test_a_killed_client_of_the_ordinary_user_does_not_leave_it_open(lan: Lan) -> None:
    with lans.held(lan.worker1, "runuser", "-u", "pi", "--"):
        lan.worker1.kill("with-internet")
        wait_until(lambda: not lans.status(lan)["open"], 5)


def test_a_worker_that_loses_its_power_does_not_leave_it_open(lan: Lan) -> None:
    ask_after(lan, 15, 1)
    with lans.held(lan.worker1):
        lan.worker1.shell("ip link set eth0 down")
        assert lans.status(lan)["open"]
        wait_until(lambda: not lans.status(lan)["open"], 10)
    lan.worker1.shell("ip link set eth0 up; ip route add default via 10.0.0.1")
    ask_after(lan, 1, 15)


def ask_after(lan: Lan, old: int, new: int) -> None:
    """Have the master's sshd ask silent clients after ``new`` seconds; it listens anew when this returns."""
    drop_in = "/etc/ssh/sshd_config.d/20-piimg-gateway.conf"
    listening = "ss --no-header --listening --tcp --numeric --extended 'sport = :22'"  # tells inodes too
    before = set(lan.master.shell(listening).splitlines())
    parent = min(lan.master.pids("sshd"))
    lan.master.shell(f"sed -i 's/Interval {old}$/Interval {new}/' {drop_in}; kill -HUP {parent}")
    wait_until(lambda: len(set(lan.master.shell(listening).splitlines()) - before) == len(before))


def test_the_workers_key_can_do_nothing_else(lan: Lan) -> None:
    ssh = [
        "ssh",
        "-F",
        "none",
        "-i",
        "/etc/piimg/gateway_key",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=5",
    ]
    user = "piimg-gateway@10.0.0.1"
    # another command: the forced one runs instead, and ends with its standard input
    assert lan.worker1.run(*ssh, user, "id; cat /etc/shadow").stdout == "open\n"
    # a terminal, another account, a forwarded port, a file
    assert "PTY allocation request failed" in lan.worker1.run(*ssh, "-tt", user, ok=None).stderr
    for account in ("root", "pi"):
        assert "Permission denied" in lan.worker1.run(*ssh, f"{account}@10.0.0.1", "true", ok=(255,)).stderr
    with lan.worker1.running(*ssh, "-N", "-L", f"9000:{lans.OUTSIDE}:8080", user):
        wait_until(
            lambda: lan.worker1.run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9000", ok=None).returncode == 0
        )
        fetched = lan.worker1.shell(
            "exec 3<>/dev/tcp/127.0.0.1/9000; echo 'GET / HTTP/1.0' >&3; echo >&3; timeout 2 cat <&3", ok=None
        )
        assert fetched == ""
    lan.worker1.run("sftp", *ssh[1:], user, data=b"get /etc/hosts /tmp/x\n", ok=(255, 1))
    # from outside the LAN the key is no key
    key = lan.worker1.shell("cat /etc/piimg/gateway_key")
    lan.uplink.run("sh", "-c", "umask 077; cat >/root/key", data=key.encode())
    stranger = [
        "ssh",
        "-F",
        "none",
        "-i",
        "/root/key",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
    ]
    refused = lan.uplink.run(*stranger, "piimg-gateway@203.0.113.2", "true", ok=(255,))
    assert "Permission denied" in refused.stderr


def test_with_internet_says_when_the_master_is_away(lan: Lan) -> None:
    lan.worker2.shell("sed -i 's/^GATEWAY=.*/GATEWAY=10.0.0.99/' /etc/piimg/node.conf")
    try:
        done = lan.worker2.run("with-internet", "true", ok=(69,), timeout=10)
        assert done.stderr.startswith("with-internet: the gateway 10.0.0.99 does not answer on port 22")
        assert done.stderr.count("\n") == 1
    finally:
        lan.worker2.shell("sed -i 's/^GATEWAY=.*/GATEWAY=10.0.0.1/' /etc/piimg/node.conf")


def test_with_internet_at_another_port(lan: Lan) -> None:
    """With the files of a cluster whose gateway has this port."""
    lan.worker2.shell("cp -a /etc/piimg/node.conf /etc/ssh/ssh_known_hosts /run/")
    lan.worker2.install(files_at(2222, "worker2", "/etc/piimg/node.conf", "/etc/ssh/ssh_known_hosts"))
    try:
        refused = lan.worker2.run("with-internet", "true", ok=(69,), timeout=10)
        assert "does not answer on port 2222" in refused.stderr
        with lan.master.running("/usr/sbin/sshd", "-D", "-e", "-p", "2222"):
            wait_until(
                lambda: (
                    lan.worker2.run("bash", "-c", "exec 3<>/dev/tcp/10.0.0.1/2222", ok=None).returncode == 0
                )
            )
            done = lan.worker2.run("with-internet", "bash", "-c", f"{lans.PROBE} && exit 42", ok=(42,))
            assert done.stderr == ""
    finally:
        lan.worker2.shell("cp -a /run/node.conf /etc/piimg/; cp -a /run/ssh_known_hosts /etc/ssh/")


def files_at(port: int, name: str, *paths: str) -> NodePlan:
    """These files of a node in a cluster whose gateway has sshd at ``port``."""
    cluster = rendered.cluster()
    nodes = tuple(
        dataclasses.replace(node, ssh_port=port) if node.name == "master" else node for node in cluster.nodes
    )
    plan = rendered.node_plan(name, Release.BOOKWORM, dataclasses.replace(cluster, nodes=nodes))
    return dataclasses.replace(plan, entries=tuple(entry for entry in plan.entries if entry.path in paths))


def test_with_internet_on_the_master_just_runs(lan: Lan, tmp_path: Path) -> None:
    assert lan.master.run("with-internet", "bash", "-c", "exit 7", ok=(7,)).stderr == ""
    assert lan.worker1.run("with-internet", ok=(2,)).stdout.startswith("with-internet COMMAND")


def _firstboot(worker: Machine, scripts: dict[str, str], conf: str) -> dict[str, dict[str, object]]:
    """Run the first-boot runner on a worker; what its summary says of each script."""
    worker.shell("rm -rf /var/lib/piimg /usr/local/lib/piimg/firstboot.d/*; mkdir -p /run/boot")
    worker.run("sh", "-c", "cat >>/etc/piimg/node.conf", data=f"BOOT_MOUNT=/run/boot\n{conf}\n".encode())
    for name, text in scripts.items():
        path = f"/usr/local/lib/piimg/firstboot.d/{name}"
        worker.run("sh", "-c", f"cat >{path}; chmod +x {path}", data=text.encode())
    worker.run("piimg-firstboot", ok=(0, 1), timeout=60)
    summary = json.loads(worker.shell("cat /run/boot/piimg-firstboot.json"))
    return {script["name"]: script for script in summary["scripts"]}


def test_a_first_boot_script_on_a_worker_gets_what_it_needs(lan: Lan) -> None:
    scripts = {
        "10-lan": "#!/bin/sh\n# needs: lan\n# retries: 0\n",
        "20-internet": f"#!/bin/bash\n# needs: internet\n# retries: 0\n{lans.PROBE}\n",
        "30-time": "#!/bin/sh\n# needs: time\n# retries: 0\n",
    }
    found = _firstboot(lan.worker1, scripts, f"PROBE_HOST={lans.OUTSIDE} PROBE_PORT=8080 PATIENCE=2")
    assert [found[name]["status"] for name in scripts] == ["done", "done", "waiting"], found
    assert not lans.status(lan)["open"]


def test_without_a_way_out_a_first_boot_script_is_not_begun(lan: Lan) -> None:
    lans.policy(lan.master, "off")
    try:
        script = "#!/bin/sh\n# needs: internet\n# retries: 0\ntouch /run/begun\n"
        found = _firstboot(lan.worker2, {"10-out": script}, f"PROBE_HOST={lans.OUTSIDE} PATIENCE=2")
    finally:
        lans.policy(lan.master, "on-demand")
    assert found["10-out"]["status"] == "waiting"
    assert "did not open" in str(found["10-out"]["said"])
    assert lan.worker2.run("test", "-e", "/run/begun", ok=(1,))


def test_with_internet_gives_the_reason_of_ssh_in_one_line(lan: Lan) -> None:
    lan.worker2.shell(
        "sed -i.kept 's/ AAAA[^ ]*/ AAAAC3NzaC1lZDI1NTE5AAAAIHJ1bGVzIG9mIG5vYm9keSBhdCBhbGwgcmVh/' "
        "/etc/ssh/ssh_known_hosts"
    )
    try:
        done = lan.worker2.run("with-internet", "true", ok=(69,), timeout=10)
        assert "did not open: Host key verification failed." in done.stderr
        assert done.stderr.count("\n") == 1
    finally:
        lan.worker2.shell("mv /etc/ssh/ssh_known_hosts.kept /etc/ssh/ssh_known_hosts")


def test_without_an_uplink_no_command_is_run(lan: Lan) -> None:
    lan.master.shell("ip link set wlan0 down")
    try:
        done = lan.worker1.run("with-internet", "touch", "/run/run", ok=(69,), timeout=10)
        assert "did not open: no worker reaches the internet: the uplink wlan0 is down" in done.stderr
        assert lan.worker1.run("test", "-e", "/run/run", ok=(1,))
        said = lan.master.run("piimg-gateway", "on", ok=(1,)).stdout
        assert said.startswith("open, but no worker reaches the internet: the uplink wlan0 is down\n")
    finally:
        lan.master.shell("ip link set wlan0 up; ip route add default via 203.0.113.1")
    wait_until(lambda: lans.status(lan)["passing"] is True, 5)
    assert lans.reaches(lan.worker1)
