"""What a base image's own first boot would undo is undone, on every release: shown by booting a node of each.

test_one_node.py asks whether a node is what the manifest says. This asks the node whether the base's own
units ran at all, for else that would prove little, and whether nothing but the layers' network set it up.
"""

from collections.abc import Callable, Iterator, Mapping

import pytest

from imagebuilder.boot.run import Guest, bring_up, guest, node_disk, settle
from imagebuilder.events import Silent
from tests.support.cluster import Place
from tests.system.boot.conftest import RELEASES
from tests.system.boot.rig import expected, laboratory

NODE = "worker2"
NETWORK = {"bullseye": "dhcpcd", "bookworm": "NetworkManager", "trixie": "NetworkManager"}
"""The service that is to run the network."""

STARTS = {"bullseye": 2, "bookworm": 2, "trixie": 1}
"""How often a first boot starts the board: init=…/firstboot ends in a reboot."""

ASK = """
unit() { echo "$1 $(systemctl is-enabled "$1" 2>/dev/null) $(systemctl is-active "$1" 2>/dev/null)"; }
for one in regenerate_ssh_host_keys sshswitch userconfig rpi-resize ssh; do unit "$one"; done
for one in NetworkManager dhcpcd systemd-networkd cloud-init-main cloud-init-local cloud-init-network; do
    unit "$one"
done
echo "sshd $(systemctl show -p MainPID --value ssh) $(cat /run/sshd.pid)"
echo "names $(systemctl show -p Names --value ssh)"
echo "own-keys $(ls /etc/ssh/ssh_host_*_key | wc -l)"
echo "same $(cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub /etc/piimg/ssh/*.pub | uniq -d | wc -l)"
echo "profile $(nmcli -t -e no -f DEVICE,FILENAME connection show | sed -n 's/^eth0://p')"
echo "netplan $(ls /etc/netplan 2>/dev/null | paste -sd ' ')"
echo "cloud-init $(cloud-init status 2>/dev/null | sed -n 's/^status: //p')"
echo "cloud $(ls /var/lib/cloud/instance 2>/dev/null | wc -l)"
echo "shell $(getent passwd 1000 | cut -d : -f 7)"
echo "accept_ra $(cat /proc/sys/net/ipv6/conf/eth0/accept_ra)"
echo "ipv6 $(ip -6 -o address show dev eth0 scope global | wc -l) $(ip -6 route show default | wc -l)"
echo "offered $(sudo timeout 60 busybox udhcpc -f -n -q -i eth0 -s /bin/true 2>&1 | grep -c 'lease of')"
"""


@pytest.fixture(scope="module", params=RELEASES)
def booted(request: pytest.FixtureRequest, built: Callable[[str], Place]) -> Iterator[tuple[str, Guest]]:
    """A release, and a node of it that is up, its first boot over."""
    release: str = request.param
    place = built(release)
    with laboratory(place, [NODE]) as lab:
        node = lab.cluster.node(NODE)
        with guest(lab, node, node_disk(lab, node, place.build / f"{NODE}.img")) as one:
            bring_up(one, Silent())
            settle(one, expected(place, NODE, release))
            yield release, one


@pytest.fixture(scope="module")
def said(booted: tuple[str, Guest]) -> Mapping[str, list[str]]:
    """What the node says to ASK: the words of each line by its first."""
    _, one = booted
    done = one.login.run("sh -s", ASK.encode())
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    return {line[0]: line[1:] for line in lines}


pytestmark = [pytest.mark.timeout(1200), pytest.mark.checks]


def test_the_bases_own_first_boot_ran(booted: tuple[str, Guest], said: Mapping[str, list[str]]) -> None:
    """Its host keys are there, its units have run and switched themselves off, it has started anew."""
    release, one = booted
    assert int(said["own-keys"][0]) >= 3
    assert said["regenerate_ssh_host_keys"][0] == said["userconfig"][0] == "disabled"
    assert said["shell"] == ["/bin/bash"]
    assert said["sshswitch"] == ["enabled", "inactive"]
    assert one.machine.starts == STARTS[release]
    if release == "trixie":
        assert said["rpi-resize"] == ["disabled", "active"]


def test_sshd_is_one_and_has_the_key_made_ahead(said: Mapping[str, list[str]]) -> None:
    """sshswitch enables ssh while it runs: systemd knows its sshd all the same, by both names."""
    assert said["ssh"] == ["enabled", "active"]
    assert set(said["names"]) == {"ssh.service", "sshd.service"}
    main, running = said["sshd"]
    assert main == running != "0"
    assert said["same"] == ["0"]


def test_one_authority_sets_up_the_network(booted: tuple[str, Guest], said: Mapping[str, list[str]]) -> None:
    release, _ = booted
    runs = {name for name in ("NetworkManager", "dhcpcd", "systemd-networkd") if "active" in said[name]}
    assert runs == {NETWORK[release]}
    assert said["netplan"] == []
    if release != "bullseye":
        assert said["profile"] == ["/etc/NetworkManager/system-connections/piimg-lan.nmconnection"]


def test_cloud_init_is_off(booted: tuple[str, Guest], said: Mapping[str, list[str]]) -> None:
    release, _ = booted
    assert said["cloud-init"] == (["disabled"] if release == "trixie" else [])
    assert said["cloud"] == ["0"]
    for unit in ("cloud-init-main", "cloud-init-local", "cloud-init-network"):
        assert "active" not in said[unit]


def test_the_lan_offers_addresses_and_none_is_taken(said: Mapping[str, list[str]]) -> None:
    """A DHCP server is there: the check that the address is not lent could fail."""
    assert said["offered"] == ["1"]
    assert said["accept_ra"] == ["0"]
    assert said["ipv6"] == ["0", "0"]
