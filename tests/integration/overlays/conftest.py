"""Fixtures of the machines, started once for all tests of the overlays."""

import contextlib
from collections.abc import Iterator

import pytest

from imagebuilder.model import Release
from tests.integration.overlays import lans, machines, rendered
from tests.integration.overlays.lans import Lan
from tests.integration.overlays.machines import cable, machine
from tests.support.waiting import wait_until


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """The running machines; ``lan`` is the one to use."""
    if missing := machines.missing():
        pytest.skip(missing)
    with contextlib.ExitStack() as stack:
        uplink, master, worker1, worker2 = (
            stack.enter_context(machine(name, tmp_path_factory.mktemp(name)))
            for name in ("uplink", "master", "worker1", "worker2")
        )
        cable(master, "wlan0", uplink, "port")
        uplink.shell(f"ip address add {lans.OUTSIDE}/24 dev port")
        master.shell("ip address add 203.0.113.2/24 dev wlan0; ip route add default via 203.0.113.1")
        master.shell("ip link add eth0 type bridge; ip link set eth0 up; ip address add 10.0.0.1/24 dev eth0")
        for number, worker in ((1, worker1), (2, worker2)):
            cable(master, f"port{number}", worker, "eth0")
            master.shell(f"ip link set port{number} master eth0")
            worker.shell(f"ip address add 10.0.0.1{number}/24 dev eth0; ip route add default via 10.0.0.1")
        for made in (master, worker1, worker2):
            made.install(rendered.node_plan(made.name, Release.BOOKWORM))
            made.shell("id -u pi >/dev/null 2>&1 || useradd --create-home --shell /bin/bash pi")
        master.shell("systemd-sysusers piimg-gateway.conf")
        stack.enter_context(uplink.running("python3", "-m", "http.server", "8080", "--bind", lans.OUTSIDE))
        stack.enter_context(master.running("/usr/sbin/sshd", "-D", "-e"))
        wait_until(lambda: master.run("bash", "-c", "exec 3<>/dev/tcp/10.0.0.1/22", ok=None).returncode == 0)
        wait_until(lambda: uplink.run("bash", "-c", lans.PROBE, ok=None).returncode == 0)
        yield Lan(uplink, master, worker1, worker2)


@pytest.fixture
def lan(whole: Lan) -> Iterator[Lan]:
    """The machines with the gateway closed, before and after."""
    whole.master.run("piimg-gateway", "off", "--now")
    yield whole
    whole.master.run("piimg-gateway", "off", "--now")
