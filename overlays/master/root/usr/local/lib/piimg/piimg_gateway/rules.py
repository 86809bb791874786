"""The gateway's own table in nftables. It always exists: closed from boot on, open only while it is needed.

A drop is final, whatever other tables contain: it also applies to existing connections, to IPv6, and when the
kernel forwards for another program. Interfaces are matched by name, because they may come and go.
"""

from __future__ import annotations

import subprocess

from piimg_gateway.conf import Conf
from piimg_gateway.failure import Failure

TABLE = "piimg_gateway"
# A probe is recognized by its source address, this port and this identification field of IPv4.
PROBE_PORT = 64911
PROBE_ID = 28777
_PATIENCE = 30  # seconds; a booting board is slow


def text(conf: Conf, is_open: bool) -> str:
    """The whole table, for ``nft -f``. nft 0.9.8 (Bullseye) rejects some words as names ("left")."""
    lan, uplink, net, probe = conf.lan_interface, conf.uplink, conf.lan, conf.probe_address()
    nets = [("ip", str(net)), *([("ip6", str(conf.lan6))] if conf.lan6 else [])]

    def inside(direction: str) -> list[str]:
        return [f'{direction}ifname "{name}" return' for name in conf.inside if name != uplink]

    out = back = leaving = []
    if is_open:
        out = [f'oifname "{uplink}" {ip} saddr {one} ct direction original accept' for ip, one in nets]
        back = [
            f'iifname "{uplink}" {ip} daddr {one} ct {state} accept'
            for ip, one in nets
            for state in ("direction reply ct state established", "state related")
        ]
        leaving = [
            "type nat hook postrouting priority 100; policy accept;",
            *(f'{ip} saddr {one} oifname "{uplink}" masquerade' for ip, one in nets),
        ]
    chains = {
        # from elsewhere, nobody reaches an address of the LAN, nor has one; first of all, so that it sees all
        "arriving": [
            "type filter hook prerouting priority -1000; policy accept;",
            f'iifname "{lan}" ip saddr {probe} ip id {PROBE_ID} meta nftrace set 1',
            f'iifname "{uplink}" tcp dport {PROBE_PORT} meta nftrace set 1',
            f'iifname {{ "lo", "{lan}" }} return',
            *inside("i"),
            *(f"{ip} {end} {one} drop" for ip, one in nets for end in ("daddr", "saddr")),
        ],
        "from_lan": [f'oifname "{lan}" return', *inside("o"), *out, "drop"],
        "to_lan": [*inside("i"), *back, "drop"],
        "through": [
            "type filter hook forward priority -300; policy accept;",
            f'iifname "{lan}" jump from_lan',
            f'iifname != "{lan}" oifname "{lan}" jump to_lan',
        ],
        # packets that reach this chain were accepted by all other tables
        "received": [
            "type filter hook input priority 300; policy accept;",
            f'iifname "{lan}" ip saddr {probe} ip id {PROBE_ID} drop',
        ],
        "leaving": leaving,
        # after all network address translation: no address of the LAN is visible outside
        "outgoing": [
            "type filter hook postrouting priority 300; policy accept;",
            f'oifname "{lan}" ip daddr {probe} tcp dport {PROBE_PORT} drop',
            *(f'oifname "{uplink}" {ip} saddr {one} drop' for ip, one in nets),
        ],
    }
    lines = [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for name, body in chains.items():
        if body:
            lines += [f"chain {name} {{", *body, "}"]
    return "\n".join([*lines, "}", ""])


def write(conf: Conf, is_open: bool) -> str:
    """Replace the table in one transaction; return it as nft lists it.

    Raises Failure when nft cannot.
    """
    nft(["-f", "-"], text(conf, is_open))
    return listed()


def listed() -> str:
    """The table as nft lists it; empty when there is none."""
    try:
        return nft(["list", "table", "inet", TABLE])
    except Failure:
        return ""


def nft(words: list[str], given: str = "") -> str:
    """Run nft; its output. Raises Failure with its message."""
    return command(["nft", *words], given)


def command(words: list[str], given: str = "") -> str:
    """Run a program; its output. Raises Failure with the first line of its message."""
    try:
        done = subprocess.run(
            words,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        raise Failure(f"{words[0]} is missing: sudo apt-get install {_PACKAGES[words[0]]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{words[0]}: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[0]
        raise Failure(f"{words[0]}: {said}")
    return done.stdout


_PACKAGES = {"nft": "nftables", "tc": "iproute2", "iptables-nft": "iptables", "iptables-legacy": "iptables"}
