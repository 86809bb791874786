"""The gateway beside Docker: Debian's dockerd and its own rules."""

import pytest

from tests.integration.overlays import lans
from tests.integration.overlays.machines import Machine
from tests.system.gateway import place as places
from tests.system.gateway.place import Place

pytestmark = pytest.mark.gateway


def test_docker_is_asked_to_let_the_lan_through_and_keeps_nothing_of_it(place: Place) -> None:
    places.start_docker(place.master)
    before = places.rules(place.master)
    assert place.gateway("on").startswith("open, and passing: ")
    assert place.goes_out()
    assert place.leaks() == []
    assert "piimg_gateway" in place.master.shell("iptables -S DOCKER-USER")
    assert place.gateway("off").startswith("closed\n")
    assert places.rules(place.master) == before


@pytest.mark.parametrize("policy", ["on", "on-demand"])
def test_docker_started_while_it_is_open_is_as_without_the_gateway(
    place: Place, twin: Machine, policy: str
) -> None:
    """Docker that finds ip_forward at 1 leaves its policy alone; set back to 0, it cuts containers off."""
    lans.policy(place.master, policy)
    place.gateway("on")
    for master in (place.master, twin):
        places.start_docker(master)
    places.run_container(place.master)
    assert places.settled(place.goes_out)
    for word in ("on", "off"):
        place.gateway(word)
        assert places.container_reaches(place.master, lans.OUTSIDE), word
        assert places.container_reaches(place.master, places.WORKER), word
    place.master.shell("docker rm --force box1")
    assert not place.goes_out()
    assert places.rules(place.master) == places.rules(twin)
    assert "policy drop" in places.rules(twin)


def test_closed_is_closed_though_docker_has_the_kernel_forward(place: Place) -> None:
    places.start_docker(place.master)
    places.forward_all(place.master)
    place.master.shell("iptables -P FORWARD ACCEPT")  # as dockerd leaves it when it finds forwarding on
    assert not place.goes_out()
    assert place.leaks() == []


def test_a_standing_connection_ends_when_it_closes(place: Place) -> None:
    places.start_docker(place.master)
    place.gateway("on")
    with places.standing(place.worker, place.uplink) as passes:
        assert passes()
        place.gateway("off", "--now")
        assert not passes()
        tracked = place.master.shell("cat /proc/net/nf_conntrack")
        assert f"dst={lans.OUTSIDE}" not in "".join(
            line for line in tracked.splitlines() if f"src={places.WORKER} " in line
        )
        place.gateway("on")
        assert place.goes_out()


def test_a_restart_of_docker_changes_nothing(place: Place) -> None:
    places.start_docker(place.master)
    place.gateway("on")
    places.stop_docker(place.master)
    places.start_docker(place.master)
    assert places.settled(place.goes_out)
    place.gateway("off")
    places.stop_docker(place.master)
    places.start_docker(place.master)
    assert not place.goes_out() and place.leaks() == []


def test_docker_with_the_older_iptables(place: Place, twin: Machine) -> None:
    for master in (place.master, twin):
        master.shell("update-alternatives --quiet --set iptables /usr/sbin/iptables-legacy")
        places.start_docker(master)
    assert place.gateway("on").startswith("open, and passing: ")
    assert place.goes_out()
    # nobody is notified of a change of these rules: they are looked at while it is open
    place.master.shell("iptables -F DOCKER-USER; iptables -A DOCKER-USER -j RETURN")
    assert places.settled(place.goes_out, 3)
    place.gateway("off")
    assert places.rules(place.master) == places.rules(twin)
