"""What a node that is right would answer to ``ask``, made from what is expected of it, for tests to spoil."""

import dataclasses
import functools
import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Network

from imagebuilder import manifest
from imagebuilder.boot.expected import PROFILES, Expected, Surroundings, expect
from imagebuilder.keys import ssh
from imagebuilder.model import Credentials, Release
from imagebuilder.overlay.layer import Overlays
from imagebuilder.plan import plan_node
from imagebuilder.resources import shipped
from imagebuilder.settings import Account, Journal, Mount, Swap, SwapKind

PICLUSTER = shipped("manifests") / "picluster.toml"
DISK_ID = "0badcafe"
BASE_ID = "5b0012aa"
SECTORS = 8 << 21  # 8 GiB
START = 1064960


ACCOUNTS = (Account("anna", 1001, ("gpio", "sudo"), ("ssh-ed25519 AAAA anna@desk",)),)


@functools.cache
def _credentials() -> Credentials:
    cluster = manifest.load(PICLUSTER)
    return Credentials(
        host_keys={node.name: ssh.make(f"root@{node.name}") for node in cluster.nodes},
        gateway_key=ssh.make("piimg-gateway@picluster"),
        authorized_keys=(ssh.make("somebody@laptop").public, ssh.make("somebody@desk").public),
        password_hash="*",
        wifi_psks={"master": "0" * 64},
        secrets={"wifi_psk": "0" * 64},
        ca_certificates={"home.pem": ("-----BEGIN CERTIFICATE-----\n",)},
        account_keys={"anna": ("ssh-ed25519 AAAA anna@desk",)},
    )


@functools.cache
def expected(
    node: str = "worker2",
    release: Release = Release.BOOKWORM,
    around: Surroundings = Surroundings(),  # noqa: B008  # frozen
    swap: Swap = Swap(SwapKind.FILE, 512),  # noqa: B008  # frozen
    router: str = "",
    lan6: str = "",
    by_dhcp: tuple[str, ...] = (),
    *,
    dressed: bool = True,
) -> Expected:
    """What is expected of a node of the README's cluster, with ``swap``; with a ``router`` and no gateway.

    ``dressed``: it has packages.
    """
    cluster = manifest.load(PICLUSTER)
    if router:
        cluster = dataclasses.replace(cluster, gateway=None, router=IPv4Address(router))
    if lan6:
        cluster = dataclasses.replace(cluster, lan6=IPv6Network(lan6))
    nodes = (dataclasses.replace(n, address=None) if n.name in by_dhcp else n for n in cluster.nodes)
    cluster = dataclasses.replace(cluster, nodes=tuple(nodes))
    overlays = Overlays(shipped("overlays"))
    cluster = dataclasses.replace(cluster, accounts=ACCOUNTS)
    packages = {"figlet": ("node",), "htop": ("cluster",)} if dressed else {}
    one = dataclasses.replace(
        cluster.node(node),
        swap=swap,
        packages=packages,
        journal=Journal.PERSISTENT,
        ca_certificates=("home.pem",),
        mounts=(Mount("tmpfs", "/srv/scratch", "tmpfs", ("size=16M",)), Mount("nas:/a", "/srv/a", "nfs4")),
    )
    plan = plan_node(cluster, one, release, _credentials(), overlays)
    return expect(cluster, plan, _credentials(), BASE_ID, around)


_SWAPS = {
    SwapKind.DEFAULT: ("/dev/zram0 partition 1918972 /dev/loop0",),
    SwapKind.OFF: (),
    SwapKind.ZRAM: ("/dev/zram0 partition 1918972 none",),
    SwapKind.FILE: ("/var/swap file 524284 none",),
}
Lines = list[tuple[str, str]]
Spoil = Callable[[Lines], Lines]


def right(one: Expected) -> Lines:
    """The lines of an answer, key and value, that is as it should be."""
    cluster, node, own = one.cluster, one.node, DISK_ID
    prefix, router = cluster.lan.prefixlen, cluster.way_out(node)
    lent = {"scope": "global", "valid_life_time": 4294967295}
    links = [
        {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]},
        {
            "ifname": node.interface,
            "addr_info": [{"local": str(node.address or cluster.lan[77]), "prefixlen": prefix, **lent}],
        },
    ]
    routes = [{"dst": str(cluster.lan), "dev": node.interface, "protocol": "kernel", "flags": []}]
    if router:
        routes.append({"dst": "default", "gateway": str(router), "dev": node.interface, "protocol": "static"})
    identity = {"cluster": cluster.name, "node": node.name, "manifest": cluster.digest}
    records = [
        {"name": script.name, "needs": script.needs, "time": "2026-11-24T21:46:43Z"}
        | (
            {"status": "done", "attempts": 1, "exit_status": 0, "seconds": 1, "said": ""}
            if script.name in one.runnable
            else {"status": "waiting", "attempts": 0, "exit_status": None, "seconds": 0, "said": ""}
        )
        for script in one.scripts
    ]
    summary = {"cluster": cluster.name, "node": node.name, "boots": 1, "booted": "", "finished": True}
    every = [(other, f"{other.name}.{cluster.domain}") for other in cluster.nodes]
    ours = "".join(one.profiles)  # one, or none where dhcpcd runs the network
    lines: Lines = [
        ("profile", f"{ours} manual {PROFILES}/piimg-lan.nmconnection" if ours else ""),
        ("hostname", node.name),
        ("hostname-file", node.name),
        ("boot-id", "62271ee8-c7e9-4bec-a4ac-bdec814ceb96"),
        ("machine-id", "4e712807accd45c3a257dbe09871afa2"),
        ("login", cluster.user.name),
        ("passwd", f"{cluster.user.name}:x:1000:1000:,,,:/home/{cluster.user.name}:/bin/bash"),
        ("groups", f"{cluster.user.name} adm sudo video"),
        ("links", json.dumps(links)),
        ("routes", json.dumps(routes)),
        *_ipv6(one),
        *(("resolv", f"nameserver {server}") for server in cluster.dns),
        ("resolv", f"search {cluster.domain}"),
        ("hosts", "127.0.0.1       localhost"),
        *(
            ("hosts", f"{other.address or '127.0.1.1'}        {fqdn} {other.name}")
            for other, fqdn in every
            if other.address or other.name == node.name
        ),
        *(
            ("known-host", f"{other.name},{fqdn},{other.host} {one.host_keys[other.name]} root@x")
            for other, fqdn in every
        ),
        ("presented", f"127.0.0.1 {one.host_keys[node.name]}"),
        ("offered", "pi@127.0.0.1: Permission denied (publickey).\r"),
        *(("authorized", key) for key in one.authorized_keys),
        ("timezone", cluster.timezone),
        ("timezone-file", cluster.timezone),
        ("lang-at-login", cluster.locale),
        ("lang", cluster.locale),
        *(("locale", name) for name in ("C", "C.utf8", "POSIX", cluster.locale.replace("UTF-8", "utf8"))),
        ("keyboard", cluster.keyboard),
        ("keyboard-variant", ""),
        ("ntp", "yes"),
        ("ntp-synchronized", "no"),
        ("ntp-servers", str(one.gateway.address) if one.gateway else ""),
        ("disk", f"{SECTORS} {START} {SECTORS - START}"),
        ("fstab", "proc            /proc           proc    defaults          0       0"),
        ("fstab", f"PARTUUID={own}-01  {one.boot_mount}  vfat    defaults          0       2"),
        ("fstab", f"PARTUUID={own}-02  /               ext4    defaults,noatime  0       1"),
        ("fstab", "tmpfs /srv/scratch tmpfs size=16M,nofail 0 0"),
        ("fstab", "nas:/a /srv/a nfs4 nofail,_netdev,x-systemd.automount 0 0"),
        ("mounted", "/ ext4"),
        ("mounted", "/srv/scratch tmpfs"),
        ("cmdline", f"console=tty1 root=PARTUUID={own}-02 rootfstype=ext4 rootwait"),
        *(("swap", line) for line in _SWAPS[one.node.swap.kind]),
        *(("on-boot", name) for name in ("cmdline.txt", "config.txt", "piimg.json", "piimg-firstboot.json")),
        ("identity", json.dumps(identity)),
        ("summary", json.dumps(summary | {"scripts": records})),
        *(("stamp", name) for name in one.runnable),
        *(line for name in one.runnable for line in _ran(name)),
        ("system", "running"),
        *(line for unit in one.units for line in _unit(unit)),
        *(("package", f"installed {name}") for name in one.packages),
        ("sudo", "yes"),
        ("password", f"{one.password}  -"),
        ("sshd", f"port {node.ssh_port}"),
        ("sshd", "permitrootlogin without-password"),
        ("sshd", "pubkeyauthentication yes"),
        ("sshd", "passwordauthentication no"),
        ("sshd", "kbdinteractiveauthentication no"),
        ("sshd", "permitemptypasswords no"),
        *(("certificate", path) for path in one.ca_certificates),
        ("account", "anna:x:1001:1001::/home/anna:/bin/bash"),
        ("account-groups", "anna anna gpio sudo"),
        ("account-key", "anna ssh-ed25519 AAAA anna@desk"),
        ("journal", "/var/log/journal/4e712807accd45c3a257dbe09871afa2/system.journal"),
        ("disk-id", own),
        ("file-system", f"{(SECTORS - START) // 8} 4096"),
        *(("mode", f"{mode.mode:o} {mode.uid} {mode.gid} {path}") for path, mode in one.modes.items()),
        ("gateway", json.dumps(_status(one)) if one.is_gateway else ""),
        *([("table", "table inet piimg_gateway")] if one.is_gateway else []),
    ]
    if one.is_gateway and ("chrony" in one.packages or "30-time" in one.runnable):
        lines += [("chrony", f"allow {cluster.lan}"), ("chrony", "local stratum 10")]
    return lines


def _ipv6(one: Expected) -> Lines:
    address, way_out = one.cluster.address6(one.node), one.gateway and one.cluster.address6(one.gateway)
    own = [{"local": str(address), "prefixlen": 64, "scope": "global"}] if address else []
    near = {"local": "fe80::ba27:ebff:fe00:2", "prefixlen": 64, "scope": "link"}
    links = [{"ifname": one.node.interface, "addr_info": [*own, near]}]
    route = {"dst": "default", "gateway": str(way_out), "dev": one.node.interface, "protocol": "static"}
    routes = [route] if way_out and not one.is_gateway else []
    return [("links6", json.dumps(links)), ("routes6", json.dumps(routes))]


def _ran(name: str) -> Lines:
    return [
        ("ran", f'2026-11-24T21:46:42Z "{name}": try 1 (needs none)'),
        ("ran", f'2026-11-24T21:46:43Z "{name}": exit status 0'),
    ]


def _unit(name: str) -> Lines:
    said = ["Result=success", f"Id={name}", "LoadState=loaded", "ActiveState=active", "UnitFileState=enabled"]
    return [("unit", line) for line in (*said, "")]


def _status(one: Expected) -> dict[str, object]:
    gateway = one.cluster.gateway
    assert gateway is not None
    return {
        "open": False,
        "passing": None,
        "stopped_by": None,
        "advice": None,
        "reason": None,
        "problems": [],
        "policy": gateway.policy,
        "switched_on": False,
        "seconds_left": None,
        "users": [],
        "reachable": {"ssh": True, "time": True},
        "lan": str(one.cluster.lan),
        "lan_interface": one.node.interface,
        "uplink": gateway.uplink,
    }


def spell(lines: Lines) -> bytes:
    """The answer as the script says it."""
    said = ["piimg-facts 1", *(f"{key} {value}" for key, value in lines), "end facts"]
    return "".join(f"{line}\n" for line in said).encode()


def swap(key: str, old: str, new: str) -> Spoil:
    """In every line of ``key``, ``old`` becomes ``new``; one of them must have it."""

    def spoil(lines: Lines) -> Lines:
        assert any(k == key and old in value for k, value in lines), (key, old)
        return [(k, value.replace(old, new) if k == key else value) for k, value in lines]

    return spoil


def more(key: str, value: str) -> Spoil:
    """One more line."""
    return lambda lines: [*lines, (key, value)]


def less(key: str, part: str) -> Spoil:
    """Without the lines of ``key`` that have ``part``, of which there must be one."""

    def spoil(lines: Lines) -> Lines:
        kept = [(k, value) for k, value in lines if k != key or part not in value]
        assert len(kept) < len(lines), (key, part)
        return kept

    return spoil
