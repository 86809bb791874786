"""The checks of a node's network: each function returns what is wrong in one line, or an empty string."""

from collections.abc import Sequence
from ipaddress import IPv4Address

from imagebuilder.boot.expected import Expected
from imagebuilder.boot.facts import Address, Facts, Route
from imagebuilder.text import printable


def _addresses(expected: Expected, facts: Facts) -> list[Address]:
    found = facts.link(expected.node.interface).addr_info
    return [address for address in found if address.scope == "global"]


def hostname(expected: Expected, facts: Facts) -> str:
    name = expected.node.name
    if facts.hostname != name:
        return f"it is called {printable(facts.hostname)}"
    if facts.hostname_file != name:
        return f"/etc/hostname contains {printable(facts.hostname_file)}"
    return ""


def address(expected: Expected, facts: Facts) -> str:
    interface = expected.node.interface
    found = sorted(address.local for address in _addresses(expected, facts))
    if found == [str(expected.node.address)]:
        return ""
    if expected.node.address is None:
        if len(found) == 1 and IPv4Address(found[0]) in expected.cluster.lan:
            return ""
        shown = printable(", ".join(found)) or "no address"
        return f"{interface} has {shown}, not one address of {expected.cluster.lan}"
    return f"{interface} has {printable(', '.join(found)) or 'no address'}, not {expected.node.address}"


def mask(expected: Expected, facts: Facts) -> str:
    wanted = expected.cluster.lan.prefixlen
    own = str(expected.node.address or "")
    found = {one.prefixlen for one in _addresses(expected, facts) if one.local == (own or one.local)}
    return "" if found <= {wanted} else f"/{'/'.join(map(str, sorted(found - {wanted})))}, not /{wanted}"


def static(expected: Expected, facts: Facts) -> str:
    """The address is static: no lease, and no address or default route from DHCP.

    For NetworkManager the active profile is checked, wherever its file is. dhcpcd marks the LAN's own route
    "proto dhcp" for a static address, too (9.4.1, seen on Bullseye).
    """
    interface = expected.node.interface
    if leased := [address.local for address in _addresses(expected, facts) if address.dynamic]:
        return f"{printable(leased[0])} on {interface} has a limited lifetime (DHCP)"
    defaults = [route for route in facts.routes if route.dst == "default" and route.dev == interface]
    if any(route.protocol == "dhcp" for route in defaults):
        return f"the default route on {interface} came from DHCP"
    if facts.leases:
        return f"{interface} has a DHCP lease: {printable(facts.leases[0])}"
    profile = facts.profile
    if profile and profile.method != "manual":
        return f"{interface} is set up by {printable(profile.file)}: method {printable(profile.method)}"
    if profile and expected.profiles and profile.uuid not in expected.profiles:
        return f"{interface} is set up by {printable(profile.file)}, which is not the cluster's"
    return ""


def stored(expected: Expected, facts: Facts) -> str:
    """Where the node's own profile is stored, when it is in netplan's folder."""
    profile = facts.profile
    if not profile or profile.uuid not in expected.profiles or profile.file.startswith("/etc/"):
        return ""
    return f"NetworkManager keeps its profile in netplan's folder, as {printable(profile.file)}"


def route(expected: Expected, facts: Facts) -> str:
    """The only default route leads to the gateway or the LAN's router; the gateway has none into the LAN."""
    defaults = [route for route in facts.routes if route.dst == "default"]
    interface = expected.node.interface
    if expected.is_gateway:
        through_lan = [route for route in defaults if route.dev == interface]
        if through_lan:
            return f"the gateway has {_shown(through_lan[0])}: into its own LAN"
        return _uplink(expected, facts, defaults)
    wanted = (str(expected.cluster.way_out(expected.node)), interface)
    if [(route.gateway, route.dev) for route in defaults] == [wanted]:
        return ""
    shown = ", ".join(_shown(route) for route in defaults) or "no default route"
    return f"{shown}, not via {wanted[0]} on {interface}"


def ipv6(expected: Expected, facts: Facts) -> str:
    """The IPv6 address of the manifest, behind a gateway no other, and the default route to the gateway."""
    interface, wanted = expected.node.interface, str(expected.cluster.address6(expected.node))
    links = [link for link in facts.links6 if link.ifname == interface]
    found = sorted(one.local for link in links for one in link.addr_info if one.scope == "global")
    if wanted not in found or (expected.gateway and len(found) > 1):
        return f"{interface} has {printable(', '.join(found)) or 'no address'}, not {wanted}"
    if expected.gateway is None:
        return ""
    through_lan = [route for route in facts.routes6 if route.dev == interface]
    if expected.is_gateway:
        return f"the gateway has {_shown(through_lan[0])}: into its own LAN" if through_lan else ""
    router = str(expected.cluster.address6(expected.gateway))
    if [route.gateway for route in facts.routes6] == [router]:
        return ""
    shown = ", ".join(_shown(route) for route in facts.routes6) or "no default route"
    return f"{shown}, not via {router} on {interface}"


def _uplink(expected: Expected, facts: Facts, defaults: Sequence[Route]) -> str:
    """The static address and the router of the gateway's uplink, if the manifest has them."""
    gateway = expected.cluster.gateway
    if gateway is None or gateway.address is None:
        return ""
    found = facts.link(gateway.uplink).addr_info
    if [(one.local, one.prefixlen, one.dynamic) for one in found] != [
        (str(gateway.address.ip), gateway.address.network.prefixlen, False)
    ]:
        shown = ", ".join(f"{one.local}/{one.prefixlen}{' (DHCP)' * one.dynamic}" for one in found)
        return f"{gateway.uplink} has {printable(shown) or 'no address'}, not {gateway.address}"
    wanted = (str(gateway.router), gateway.uplink)
    if [(route.gateway, route.dev) for route in defaults] == [wanted]:
        return ""
    shown = ", ".join(_shown(route) for route in defaults) or "no default route"
    return f"{shown}, not via {wanted[0]} on {wanted[1]}"


def _shown(route: Route) -> str:
    return printable(f"default via {route.gateway or 'no gateway'} on {route.dev}")


def dns(expected: Expected, facts: Facts) -> str:
    """Name servers and search domain. On the gateway the uplink may have added name servers."""
    words = [line.split() for line in facts.resolv]
    servers = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    searched = [name for line in words if line and line[0] in ("search", "domain") for name in line[1:]]
    wanted = [str(server) for server in expected.cluster.dns]
    missing = [server for server in wanted if server not in servers]
    if missing or (servers != wanted and not expected.is_gateway):
        return f"it uses {printable(', '.join(servers)) or 'no name server'}, not {', '.join(wanted)}"
    if expected.cluster.domain not in searched:
        return f"{expected.cluster.domain} is not a search domain"
    return ""


def hosts(expected: Expected, facts: Facts) -> str:
    """Each name of every node has only the node's address: in particular, no name resolves to loopback.

    Except the node's own name if its address is from DHCP. The names of other such nodes do not resolve.
    """
    found: dict[str, set[str]] = {}
    for line in facts.hosts:
        number, *names = line.split() or [""]
        for name in names:
            found.setdefault(name, set()).add(number)
    for node in expected.cluster.nodes:
        own = "127.0.1.1" if node.name == expected.node.name else "nothing"
        wanted = str(node.address or own)
        for name in (node.name, f"{node.name}.{expected.cluster.domain}"):
            if found.get(name, {"nothing"}) != {wanted}:
                shown = printable(", ".join(sorted(found.get(name, {"nothing"}))))
                return f"{name} resolves to {shown}, not {wanted}"
    return ""


def time_source(expected: Expected, facts: Facts) -> str:
    """Workers get the time from the gateway; the master serves it once chrony is installed.

    Without a gateway every node has its time from the internet, by the settings of the release.
    """
    if "master" in expected.plan.layers and expected.gateway:
        return _serves(expected, facts)
    if "worker" not in expected.plan.layers and expected.gateway:
        return ""
    server = str(expected.gateway.address) if expected.gateway else ""
    if server and facts.ntp_servers != (server,):
        shown = printable(", ".join(facts.ntp_servers)) or "no configured server"
        return f"systemd-timesyncd uses {shown}, not {server}"
    return "" if facts.ntp == "yes" else "systemd-timesyncd is switched off"


def _serves(expected: Expected, facts: Facts) -> str:
    if "chrony" not in expected.packages and "30-time" not in facts.stamps:
        return ""  # reported by time_waits, and judged with the first-boot scripts
    if facts.root is None or not facts.root.chrony:
        return "chrony is missing"
    if f"allow {expected.cluster.lan}" not in facts.root.chrony:
        return f"chrony does not answer {expected.cluster.lan}"
    return ""


def time_waits(expected: Expected, facts: Facts) -> str:
    """A remark about the time: chrony is not installed yet, or the clock is not synchronized yet."""
    planned = [script.name for script in expected.scripts]
    if "30-time" in planned and "30-time" not in facts.stamps:
        return "chrony is not installed without the internet: systemd-timesyncd until then"
    return "" if facts.ntp_synchronized == "yes" else "not synchronized yet"


def gateway(expected: Expected, facts: Facts) -> str:
    """The gateway follows its policy, its nftables table is there, and no other table drops the traffic."""
    found = facts.root.gateway if facts.root else None
    if found is None:
        return "piimg-gateway does not answer"
    configured = expected.cluster.gateway
    policy, uplink = (configured.policy, configured.uplink) if configured else ("off", "")
    if found.policy != policy:
        return f"its policy is {printable(found.policy)}, not {policy}"
    if (found.lan, found.lan_interface, found.uplink) != (
        str(expected.cluster.lan),
        expected.node.interface,
        uplink,
    ):
        shown = printable(f"{found.lan} on {found.lan_interface} out through {found.uplink}")
        return f"it is for {shown}, not {expected.cluster.lan} through {uplink}"
    if found.open != (policy == "on") and not found.users:
        return f"it is {'open' if found.open else 'closed'}, but its policy is {policy}"
    if facts.root and "table inet piimg_gateway" not in facts.root.tables:
        return "its nftables table is missing: the LAN is not closed"
    if found.problems:
        return f"it reports: {printable(found.problems[0])}"
    if found.open and found.stopped_by:
        stopped = f"table {found.stopped_by.table}, chain {found.stopped_by.chain}"
        return f"it is open, but stopped by {printable(stopped)}"
    return ""


def gateway_users(expected: Expected, facts: Facts) -> str:
    """The users that keep the gateway open."""
    found = facts.root.gateway if facts.root else None
    return f"kept open by {printable(', '.join(found.users))}" if found and found.users else ""
