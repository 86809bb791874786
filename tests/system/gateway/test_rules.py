"""The gateway beside rules that somebody has written by hand: it says whose they are, and what to do."""

import re

import pytest

from tests.integration.overlays import lans
from tests.system.gateway import place as places
from tests.system.gateway.place import Place
from tests.system.gateway.test_firewalls import advice

pytestmark = pytest.mark.gateway

NFT = {
    # name: the rules, and what must be said of them
    "a policy": ("chain mine { type filter hook forward priority 0; policy drop; }", "inet own, chain mine"),
    "a reject at the end": (
        "chain mine { type filter hook forward priority 10; policy accept; ct state established accept;"
        ' iifname "docker0" accept; reject with icmpx admin-prohibited; }',
        "inet own, chain mine",
    ),
    "a chain of chains": (
        "chain deep { drop; }; chain mid { goto deep; };"
        " chain top { type filter hook forward priority -5; ip saddr 10.0.0.0/8 jump mid; }",
        "inet own, chain deep",
    ),
    "the way back": (
        "chain mine { type filter hook forward priority 0; policy drop;"
        ' iifname "eth0" oifname "wlan0" accept; }',
        "inet own, chain mine",
    ),
    "before routing": (
        "chain pre { type filter hook prerouting priority -400;"
        ' iifname "eth0" ip daddr != 10.0.0.0/24 drop; }',
        "inet own, chain pre",
    ),
    "before routing, the way back": (
        "chain deep { drop; }; chain pre { type filter hook prerouting priority -150;"
        ' iifname "wlan0" tcp sport 443 jump deep; iifname "wlan0" tcp sport 8080 jump deep; }',
        "inet own, chain deep",
    ),
    "after translation": (
        "chain post { type filter hook postrouting priority 200; oifname wlan0 ct direction original"
        " ip protocol tcp drop; }",
        "inet own, chain post",
    ),
}


def _lines(rules: str) -> str:
    """A statement a line, as nft 1.0 wants them."""
    return re.sub(r"; *|(?<=[{}])", "\n", rules)


@pytest.mark.parametrize("name", NFT)
def test_own_rules_are_named_and_the_advice_helps(place: Place, name: str) -> None:
    rules, where = NFT[name]
    place.master.run("nft", "-f", "-", data=f"table inet own {{\n{_lines(rules)}\n}}\n".encode())
    before = places.rules(place.master)
    said = place.gateway("on", ok=(1,))
    assert said.startswith(f"open, but stopped by table {where}: do this: sudo nft insert rule inet own "), (
        said
    )
    assert place.status()["passing"] is False and not place.goes_out()
    table, chain = where.split(", chain ")
    assert place.status()["stopped_by"] == {"table": table, "chain": chain}
    refused = place.worker.run("with-internet", "true", ok=(69,), timeout=10)
    assert f"did not open: no worker reaches the internet: stopped by table {where}" in refused.stderr
    assert refused.stderr.count("\n") == 1
    opened = re.sub(r"(ipv4/conf/(?:eth0|wlan0)/forwarding):0", r"\1:1", before)
    assert places.rules(place.master) == opened, "rules written by hand are let alone"
    for command in advice(said)[0].split("; "):
        place.master.shell(command.removeprefix("sudo "))
    assert places.settled(place.goes_out)
    assert place.gateway("status").startswith("open, and passing: ")
    assert place.leaks() == []


INPUT = {
    "nftables": "nft 'table inet own { chain i { type filter hook input priority 0; policy drop; }; }'",
    "iptables": "iptables -P INPUT DROP",
    "iptables-legacy": "iptables-legacy -P INPUT DROP",
    "ufw": "ufw --force enable",
}


@pytest.mark.parametrize("name", INPUT)
def test_who_keeps_the_workers_from_asking_is_named_and_the_advice_helps(place: Place, name: str) -> None:
    place.master.shell(INPUT[name])
    assert place.status()["reachable"] == {"ssh": False, "time": False}
    said = place.gateway("status")
    for command in advice(said):
        place.master.shell(command.removeprefix("sudo "))
    assert place.status()["reachable"] == {"ssh": True, "time": True}, said
    assert place.leaks() == []


@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
def test_own_rules_of_iptables_are_named_and_the_advice_helps(place: Place, program: str) -> None:
    place.master.shell(f"{program} -P FORWARD DROP; {program} -A FORWARD -i docker0 -j ACCEPT")
    said = place.gateway("on", ok=(1,))
    table = "ip filter" if program == "iptables-nft" else "legacy filter"
    assert said.startswith(f"open, but stopped by table {table}, chain FORWARD: do this: "), said
    assert not place.goes_out()
    for command in advice(said)[0].split("; "):
        place.master.shell(command.removeprefix("sudo "))
    assert places.settled(place.goes_out, 3)
    assert place.gateway("status").startswith("open, and passing: ")
    assert place.leaks() == []


# What they write, in their own words; the programs themselves are not run.
RULES = {
    "k3s": """
        for c in KUBE-FORWARD KUBE-ROUTER-FORWARD FLANNEL-FWD KUBE-PROXY-FIREWALL; do iptables -N $c; done
        iptables -A FORWARD -j KUBE-ROUTER-FORWARD
        iptables -A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
        iptables -A FORWARD -j KUBE-FORWARD
        iptables -A FORWARD -j FLANNEL-FWD
        iptables -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
        iptables -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
        iptables -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        iptables -A KUBE-ROUTER-FORWARD -m mark --mark 0x20000/0x20000 -j ACCEPT
        iptables -A FLANNEL-FWD -s 10.42.0.0/16 -j ACCEPT
        iptables -A FLANNEL-FWD -d 10.42.0.0/16 -j ACCEPT
        iptables -t nat -N FLANNEL-POSTRTG
        iptables -t nat -A POSTROUTING -j FLANNEL-POSTRTG
        iptables -t nat -A FLANNEL-POSTRTG -s 10.42.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
        """,
    "libvirt": """
        for c in LIBVIRT_FWI LIBVIRT_FWO LIBVIRT_FWX; do iptables -N $c; iptables -I FORWARD -j $c; done
        iptables -A LIBVIRT_FWI -o virbr0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        iptables -A LIBVIRT_FWI -o virbr0 -j REJECT
        iptables -A LIBVIRT_FWO -s 192.168.122.0/24 -i virbr0 -j ACCEPT
        iptables -A LIBVIRT_FWO -i virbr0 -j REJECT
        iptables -A LIBVIRT_FWX -i virbr0 -o virbr0 -j ACCEPT
        iptables -t nat -A POSTROUTING -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE
        """,
    "podman": """
        iptables -N NETAVARK_FORWARD; iptables -A FORWARD -j NETAVARK_FORWARD
        iptables -A NETAVARK_FORWARD -m conntrack --ctstate INVALID -j DROP
        iptables -A NETAVARK_FORWARD -d 10.88.0.0/16 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        iptables -A NETAVARK_FORWARD -s 10.88.0.0/16 -j ACCEPT
        iptables -t nat -A POSTROUTING -s 10.88.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
        """,
    "lxd": """
        nft 'table inet lxd { chain fwd.lxdbr0 { type filter hook forward priority 0; policy accept; }; }'
        nft add rule inet lxd fwd.lxdbr0 oifname lxdbr0 accept
        nft add rule inet lxd fwd.lxdbr0 iifname lxdbr0 accept
        nft 'add chain inet lxd pstrt.lxdbr0 { type nat hook postrouting priority 100; policy accept; }'
        nft add rule inet lxd pstrt.lxdbr0 ip saddr 10.7.0.0/24 ip daddr != 10.7.0.0/24 masquerade
        """,
}


@pytest.mark.parametrize("name", RULES)
def test_their_rules_are_nobodys_obstacle(place: Place, name: str) -> None:
    place.master.shell(f"set -e; {RULES[name]}")
    places.forward_all(place.master)
    before = places.rules(place.master)
    assert not place.goes_out() and place.leaks() == []
    assert place.gateway("on").startswith("open, and passing: ")
    assert place.goes_out() and place.leaks() == []
    place.gateway("off")
    assert places.rules(place.master) == before


@pytest.mark.parametrize("bridge", ["cni0", "flannel.1", "br-4c1f", "podman1", "virbr0", "lxdbr0", "lxcbr0"])
def test_what_runs_on_the_master_and_the_lan_reach_each_other(place: Place, bridge: str) -> None:
    """Whatever has an interface of its own on the master (a container, a virtual machine) is no way out."""
    place.master.shell(
        "unshare --net sleep 1000 >/dev/null 2>&1 & sleep 0.2;"
        f"ip link add {bridge} type bridge; ip link set {bridge} up;"
        f"ip address add 10.42.0.1/24 dev {bridge};"
        "ip link add v0 type veth peer name eth0 netns $!;"
        f"ip link set v0 master {bridge} up; nsenter --target $! --net sh -c 'ip link set eth0 up;"
        "ip address add 10.42.0.2/24 dev eth0; ip route add default via 10.42.0.1'; echo $! >/run/pod"
    )
    places.forward_all(place.master)
    inside = "nsenter --target $(cat /run/pod) --net"
    with place.master.running("sh", "-c", f"exec {inside} python3 -m http.server 80"):
        assert places.settled(lambda: places.connects(place.worker, "10.42.0.2", 80), 5)
        from_pod = f"{inside} timeout 1 bash -c 'exec 3<>/dev/tcp/{places.WORKER}/8081'"
        place.master.shell(from_pod)
        place.gateway("on")
        place.master.shell(from_pod)
        assert places.connects(place.worker, "10.42.0.2", 80)


def test_another_interface_is_no_way_round(place: Place) -> None:
    """A second network card, a tunnel: neither in nor out, unless INSIDE names it."""
    place.master.shell(
        "ip link add tun9 type veth peer name far; ip link set tun9 up;"
        "ip address add 192.168.9.1/24 dev tun9;"
        "unshare --net sleep 1000 >/dev/null 2>&1 & sleep 0.2; ip link set far netns $!; echo $! >/run/far;"
        "nsenter --target $! --net sh -c 'ip link set far up; ip address add 192.168.9.2/24 dev far;"
        "ip route add default via 192.168.9.1'"
    )
    there = "nsenter --target $(cat /run/far) --net "
    places.forward_all(place.master)
    from_far = f"{there} timeout 0.5 bash -c 'exec 3<>/dev/tcp/{places.WORKER}/8081'; echo $?"
    for word in ("off", "on"):
        place.gateway(word)
        assert place.master.shell(from_far) != "0\n"
        assert not places.connects(place.worker, "192.168.9.2", 80)
        assert place.worker.run("ping", "-c1", "-W1", "192.168.9.2", ok=(1,))
    place.master.shell("echo \"INSIDE='docker0 tun*'\" >>/etc/piimg/gateway.conf")
    place.gateway("off")
    assert place.master.shell(from_far) == "0\n"
    assert place.worker.run("ping", "-c1", "-W1", "192.168.9.2")


def test_no_address_of_the_lan_leaves_untranslated(place: Place) -> None:
    """A connection that began while all rules were away, and nobody was there to see it, does not go on."""
    places.forward_all(place.master)
    place.gateway("on")
    place.master.shell("kill -STOP $(cat /run/piimg-gateway/watch.pid); nft flush ruleset")
    with places.standing(place.worker, place.uplink) as passes:
        assert passes()
        place.master.shell("kill -CONT $(cat /run/piimg-gateway/watch.pid)")
        assert places.settled(lambda: not passes())
        place.uplink.run("nft", "-f", "-", data=_SEEN)
        assert not passes() and place.goes_out()
        assert "packets 0 " in place.uplink.shell("nft list table ip seen")


@pytest.mark.parametrize("host", [lans.OUTSIDE, places.OUTSIDE6])
@pytest.mark.parametrize("word", ["off", "on"])
def test_what_began_while_all_rules_were_away_is_forgotten(place: Place, word: str, host: str) -> None:
    """While it is tracked, a flowtable of somebody's could carry it past all rules."""
    places.forward_all(place.master)
    place.gateway(word)
    place.master.shell("kill -STOP $(cat /run/piimg-gateway/watch.pid); nft flush ruleset")
    place.master.run("nft", "-f", "-", data=_TRACKING)

    def tracked() -> bool:
        return " dport=8080 " in place.master.shell("grep ESTABLISHED /proc/net/nf_conntrack", ok=None)

    connect = f"exec 3<>/dev/tcp/{host}/8080; exec sleep 1000"
    with place.worker.running("bash", "-c", connect):
        assert places.settled(tracked, 5)
        place.master.shell("kill -CONT $(cat /run/piimg-gateway/watch.pid)")
        assert places.settled(lambda: not tracked())


_TRACKING = b"""
table inet own {
    chain c {
        type filter hook forward priority 0
        ct state new accept
    }
}
"""
_SEEN = b"""
table ip seen {
    chain i {
        type filter hook input priority 0;
        ip saddr 10.0.0.0/24 counter
    }
}
"""
