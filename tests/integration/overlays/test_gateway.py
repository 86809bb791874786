"""The gateway as the master turns it, between machines of its own with real nft."""

import time
from collections.abc import Iterator

import pytest

from tests.integration.overlays import lans
from tests.integration.overlays.lans import Lan
from tests.support.waiting import wait_until

_OWN_RULES = b"""
table inet mine {
    chain input {
        type filter hook input priority 0; policy accept;
        tcp dport 9999 counter drop
    }
}
table ip nat {
    chain out {
        type nat hook postrouting priority 100;
        ip saddr 172.17.0.0/16 oifname "wlan0" masquerade
    }
}
"""


def test_closed_means_unreachable_and_open_reachable(lan: Lan) -> None:
    assert not lans.reaches(lan.worker1)
    said = lan.master.run("piimg-gateway", "on").stdout
    assert said.startswith("open, and passing: 10.0.0.0/24 goes out through wlan0\n")
    assert lans.reaches(lan.worker1) and lans.reaches(lan.worker2)
    assert lan.master.run("piimg-gateway", "off").stdout == "closed\npolicy on-demand\n"
    assert not lans.reaches(lan.worker1)


def test_ipv6_passes_only_while_it_is_open(ipv6: Lan) -> None:
    """Translated to the uplink's address, as IPv4 is; what IPv6 changes in the kernel is undone."""
    lan = ipv6
    state = "grep -r . /proc/sys/net/ipv6/conf/*/forwarding /proc/sys/net/ipv6/conf/*/accept_ra"
    before = lan.master.shell(state)
    assert "/all/forwarding:0" in before
    assert not lans.reaches6(lan.worker1)
    lan.master.run("piimg-gateway", "on")
    assert lans.reaches6(lan.worker1) and lans.reaches(lan.worker1)
    assert lan.master.shell("cat /proc/sys/net/ipv6/conf/wlan0/accept_ra") == "2\n"
    flows = lan.master.run("nft", "list", "table", "inet", "piimg_gateway").stdout
    assert f"ip6 saddr {lans.NET6}" in flows and "masquerade" in flows
    lan.master.run("piimg-gateway", "off")
    assert not lans.reaches6(lan.worker1)
    assert lan.master.shell(state) == before


def test_an_ipv6_connection_ends_when_the_gateway_closes(ipv6: Lan) -> None:
    lan = ipv6
    lan.master.run("piimg-gateway", "on")
    talk = f"{lans.PROBE6}; echo begun; read -r; printf 'GET / HTTP/1.0\\n\\n' >&3; timeout 2 cat <&3"
    with lan.worker1.running("bash", "-c", talk) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"begun\n"
        lan.master.run("piimg-gateway", "off")
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stdout.read() == b""


def test_nobody_outside_gets_in_by_ipv6(ipv6: Lan) -> None:
    lan = ipv6
    lan.uplink.shell(f"ip -6 route add {lans.NET6} via {lans.OUTSIDE6[:-1]}2")
    with lan.worker1.running("nc", "-6", "-l", "-k", lans.WORKER6, "8082"):
        inwards = ("timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{lans.WORKER6}/8082")
        wait_until(lambda: lan.master.run(*inwards, ok=None).returncode == 0)
        lan.master.run("piimg-gateway", "on")
        assert lan.uplink.run(*inwards, ok=None).returncode != 0
    lan.uplink.shell(f"ip -6 route delete {lans.NET6}")


@pytest.fixture
def ipv6(lan: Lan) -> Iterator[Lan]:
    """The machines with IPv6 on the LAN and on the uplink."""
    for machine, interface, address in (
        (lan.master, "eth0", lans.MASTER6),
        (lan.worker1, "eth0", lans.WORKER6),
        (lan.master, "wlan0", f"{lans.OUTSIDE6[:-1]}2"),
        (lan.uplink, "port", lans.OUTSIDE6),
    ):
        machine.shell(f"ip address replace {address}/64 dev {interface} nodad")
    lan.worker1.shell(f"ip -6 route add default via {lans.MASTER6}")
    lan.master.shell(f"ip -6 route add default via {lans.OUTSIDE6}")
    lan.master.shell(f"echo \"LAN6='{lans.NET6}'\" >>/etc/piimg/gateway.conf")
    lans.stop_watcher(lan.master)  # it reads its settings when it starts
    try:
        with lan.uplink.running("python3", "-m", "http.server", "8080", "--bind", lans.OUTSIDE6):
            wait_until(lambda: lan.uplink.run("bash", "-c", lans.PROBE6, ok=None).returncode == 0)
            yield lan
    finally:
        lan.master.run("piimg-gateway", "off", "--now")
        lan.master.shell("sed -i /^LAN6/d /etc/piimg/gateway.conf")
        lans.stop_watcher(lan.master)
        lan.worker1.shell("ip -6 route delete default")
        lan.master.shell("ip -6 route delete default")


def test_two_toggles_leave_the_kernel_as_found(lan: Lan) -> None:
    lan.master.shell("echo 1 >/proc/sys/net/ipv4/conf/port1/forwarding")  # one interface forwards already
    before = lans.kernel(lan.master)
    for _ in range(2):
        lan.master.run("piimg-gateway", "on")
        assert lan.master.shell("cat /proc/sys/net/ipv4/conf/{eth0,wlan0}/forwarding") == "1\n1\n"
        lan.master.run("piimg-gateway", "off")
        assert lans.kernel(lan.master) == before


def test_forwarding_that_was_on_stays_on(lan: Lan) -> None:
    lan.master.shell("echo 1 >/proc/sys/net/ipv4/ip_forward")
    before = lans.kernel(lan.master)
    lan.master.run("piimg-gateway", "on")
    lan.master.run("piimg-gateway", "off")
    assert lans.kernel(lan.master) == before
    lan.master.shell("echo 0 >/proc/sys/net/ipv4/ip_forward")


def test_the_users_own_rules_are_left_alone(lan: Lan) -> None:
    lan.master.run("nft", "-f", "-", data=_OWN_RULES)
    before = lans.kernel(lan.master)
    lan.master.run("piimg-gateway", "on")
    opened = lan.master.shell("nft list table inet mine; nft list table ip nat")
    lan.master.run("piimg-gateway", "off")
    assert lans.kernel(lan.master) == before
    assert "tcp dport 9999" in opened and "172.17.0.0/16" in opened
    lan.master.shell("nft delete table inet mine; nft delete table ip nat")


def test_a_flushed_ruleset_is_fixed_while_it_is_needed(lan: Lan) -> None:
    lan.master.run("piimg-gateway", "on")
    lan.master.run("nft", "flush", "ruleset")
    wait_until(lambda: lan.master.shell("nft list ruleset") != "", 3)
    wait_until(lambda: lans.is_open(lan.master) and lans.reaches(lan.worker1), 3)


def test_nobody_outside_gets_in_while_it_is_open(lan: Lan) -> None:
    lan.uplink.shell("ip route add 10.0.0.0/24 via 203.0.113.2")
    with lan.worker1.running("python3", "-m", "http.server", "8081", "--bind", "10.0.0.11"):
        inwards = ("timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/10.0.0.11/8081")
        wait_until(lambda: lan.master.run(*inwards, ok=None).returncode == 0)
        lan.master.run("piimg-gateway", "on")
        assert lan.uplink.run(*inwards, ok=None).returncode != 0
    lan.uplink.shell("ip route delete 10.0.0.0/24")


def test_on_for_a_time_closes_by_itself(lan: Lan) -> None:
    lan.master.run("piimg-gateway", "on", "--for", "2s")
    assert lans.reaches(lan.worker1)
    wait_until(lambda: not lans.status(lan)["open"], 6)
    assert not lans.is_open(lan.master)


@pytest.mark.parametrize(
    "words", [["--for"], ["--for", "soon"], ["--for", "0m"], ["--for", "1m; reboot"], ["x"]]
)
def test_a_time_that_is_none_is_refused(lan: Lan, words: list[str]) -> None:
    assert lan.master.run("piimg-gateway", "on", *words, ok=(2,)).stderr
    assert not lans.status(lan)["open"]


def test_off_leaves_those_who_use_it_and_off_now_does_not(lan: Lan) -> None:
    lan.master.run("piimg-gateway", "on")
    with lans.held(lan.worker1):
        assert "used by 10.0.0.11" in lan.master.run("piimg-gateway", "off").stdout
        assert lans.reaches(lan.worker1)
        assert lan.master.run("piimg-gateway", "off", "--now").stdout.startswith("closed")
        assert not lans.reaches(lan.worker1)


def test_a_killed_holder_does_not_leave_it_open(lan: Lan) -> None:
    with lans.held(lan.worker1):
        # sudo goes with it, and so does the connection
        lan.master.shell(
            "pkill -KILL --full --exact '/usr/bin/python3 -IS /usr/local/sbin/piimg-gateway hold'"
        )
        wait_until(lambda: not lans.is_open(lan.master), 5)


def test_a_killed_watcher_is_replaced_by_the_next_user(lan: Lan) -> None:
    lan.master.run("piimg-gateway", "on")
    lan.master.shell("kill -KILL $(cat /run/piimg-gateway/watch.pid)")
    lan.master.run("piimg-gateway", "on", "--for", "1s")
    wait_until(lambda: not lans.is_open(lan.master), 6)


def test_policy_off_refuses(lan: Lan) -> None:
    lans.policy(lan.master, "off")
    try:
        refused = lan.master.run("piimg-gateway", "on", ok=(1,))
        assert "the gateway's policy is off" in refused.stderr
        refused = lan.worker1.run("with-internet", "true", ok=(69,))
        assert "did not open: refused: the gateway's policy is off" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert not lans.reaches(lan.worker1)
    finally:
        lans.policy(lan.master, "on-demand")


def test_a_stopped_service_closes_and_a_boot_applies_the_policy(lan: Lan) -> None:
    lan.master.run("piimg-gateway", "on", "--for", "1h")
    lans.stop_watcher(lan.master)
    assert not lans.is_open(lan.master)
    lan.master.shell("rm -r /run/piimg-gateway")  # as a reboot does
    with lan.master.running("piimg-gateway", "watch"):
        wait_until(lambda: lan.master.run("test", "-S", "/run/piimg-gateway/socket", ok=None).returncode == 0)
        assert not lans.status(lan)["open"], "on-demand comes back closed, whatever was on before"
        lans.stop_watcher(lan.master)
    lan.master.shell("rm -r /run/piimg-gateway")
    lans.policy(lan.master, "on")
    try:
        with lan.master.running("piimg-gateway", "watch"):
            wait_until(lambda: bool(lans.status(lan)["open"]))
            assert lans.reaches(lan.worker1)
            lan.master.run("piimg-gateway", "off")
            time.sleep(1.2)
            assert not lans.status(lan)["open"], "off holds until the next boot even when the policy is on"
            lans.stop_watcher(lan.master)
    finally:
        lans.policy(lan.master, "on-demand")


def test_many_at_once_end_closed_and_as_found(lan: Lan) -> None:
    before = lans.kernel(lan.master)
    lan.master.shell(
        "for i in 1 2 3 4; do piimg-gateway on >/dev/null & piimg-gateway hold </dev/null >/dev/null &"
        " piimg-gateway off >/dev/null & done; wait; piimg-gateway off"
    )
    assert lans.kernel(lan.master) == before
    assert lans.users(lan) == [] and not lans.is_open(lan.master)


def test_only_root_may_turn_it(lan: Lan) -> None:
    refused = lan.master.run("runuser", "-u", "pi", "--", "piimg-gateway", "on", ok=(1,))
    assert "use sudo piimg-gateway" in refused.stderr
