"""The checks of a node on other networks: no gateway, DHCP, IPv6."""

import pytest

from imagebuilder.boot import checks, probe
from imagebuilder.model import Release
from tests.unit.boot.answers import Spoil, expected, more, right, spell, swap
from tests.unit.boot.test_checks import BY_DHCP, LAN6, NAMES, WORKER_ROUTES6


@pytest.mark.parametrize("release", list(Release))
@pytest.mark.parametrize("node", ["master", "worker2"])
def test_a_right_node_of_a_cluster_without_a_gateway(node: str, release: Release) -> None:
    one = expected(node, release, router="10.0.0.254")
    outcomes = checks.judge(one, probe.parse(spell(right(one))))
    assert [outcome for outcome in outcomes if not outcome.good] == []
    assert {outcome.check for outcome in outcomes} == NAMES - {"gateway"}


@pytest.mark.parametrize("release", list(Release))
@pytest.mark.parametrize("node", ["worker1", "worker2"])
def test_a_right_node_among_nodes_by_dhcp(node: str, release: Release) -> None:
    one = expected(node, release, **BY_DHCP)
    outcomes = checks.judge(one, probe.parse(spell(right(one))))
    assert [outcome for outcome in outcomes if not outcome.good] == []
    static = {"static", "route"} if node == "worker2" else set()
    assert {outcome.check for outcome in outcomes} == NAMES - {"gateway"} - static


@pytest.mark.parametrize(
    ("check", "spoil", "said"),
    [
        ("address", swap("links", "10.0.0.77", "192.168.9.9"), "not one address of 10.0.0.0/24"),
        ("address", swap("links", "eth0", "eth1"), "eth0 has no address"),
        ("mask", swap("links", '"prefixlen": 24', '"prefixlen": 16'), "/16, not /24"),
        ("hosts", swap("hosts", "127.0.1.1", "10.0.0.77"), "worker2 resolves to 10.0.0.77, not 127.0.1.1"),
        ("hosts", more("hosts", "10.0.0.13 worker3"), "worker3 resolves to 10.0.0.13, not nothing"),
        (
            "known-hosts",
            swap("known-host", "worker3.local", "10.0.0.13"),
            "no key is known for worker3.local",
        ),
    ],
)
def test_a_node_by_dhcp_that_is_wrong(check: str, spoil: Spoil, said: str) -> None:
    one = expected("worker2", **BY_DHCP)
    outcomes = checks.judge(one, probe.parse(spell(spoil(right(one)))))
    wrong = {outcome.check: outcome.wrong for outcome in outcomes if outcome.wrong}
    assert wrong.keys() == {check} and said in wrong[check]


@pytest.mark.parametrize("release", list(Release))
@pytest.mark.parametrize("node", ["master", "worker2"])
@pytest.mark.parametrize("router", ["", "10.0.0.254"])
def test_a_right_node_with_ipv6(node: str, release: Release, router: str) -> None:
    one = expected(node, release, router=router, lan6=LAN6)
    outcomes = checks.judge(one, probe.parse(spell(right(one))))
    assert [outcome for outcome in outcomes if not outcome.good] == []
    assert "ipv6" in {outcome.check for outcome in outcomes}


@pytest.mark.parametrize(
    ("node", "spoil", "said"),
    [
        (
            "worker2",
            swap("links6", "a00:c", "a00:d"),
            "has fd12:3456:789a:1::a00:d, not fd12:3456:789a:1::a00:c",
        ),
        ("worker2", swap("links6", '"link"', '"global"'), "fe80::ba27"),
        ("worker2", swap("routes6", "a00:1", "a00:2"), "not via fd12:3456:789a:1::a00:1 on eth0"),
        ("worker2", swap("routes6", "default", "default"), ""),
        (
            "master",
            lambda lines: [(k, WORKER_ROUTES6 if k == "routes6" else v) for k, v in lines],
            "into its own",
        ),
    ],
)
def test_ipv6_that_is_wrong(node: str, spoil: Spoil, said: str) -> None:
    lines = spoil(right(expected(node, lan6=LAN6)))
    outcomes = checks.judge(expected(node, lan6=LAN6), probe.parse(spell(lines)))
    wrong = {outcome.check: outcome.wrong for outcome in outcomes if outcome.wrong}
    assert wrong.keys() == ({"ipv6"} if said else set())
    assert said in wrong.get("ipv6", "")


@pytest.mark.parametrize("old", ['10.0.0.254"', "default"])
def test_without_a_gateway_the_default_route_leads_to_the_router(old: str) -> None:
    one = expected("master", router="10.0.0.254")
    lines = swap("routes", old, '10.0.0.1"' if old != "default" else "192.0.2.0/24")(right(one))
    outcomes = checks.judge(one, probe.parse(spell(lines)))
    (wrong,) = [outcome for outcome in outcomes if outcome.wrong]
    assert wrong.check == "route" and "not via 10.0.0.254 on eth0" in wrong.wrong
