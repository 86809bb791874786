"""Judging a node's network: each function says in one line what is wrong, or nothing."""

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
        return f"/etc/hostname says {printable(facts.hostname_file)}"
    return ""


def address(expected: Expected, facts: Facts) -> str:
    interface = expected.node.interface
    found = sorted(one.local for one in _addresses(expected, facts))
    if found == [str(expected.node.address)]:
        return ""
    return f"{interface} has {printable(', '.join(found)) or 'no address'}, not {expected.node.address}"


def mask(expected: Expected, facts: Facts) -> str:
    wanted = expected.cluster.lan.prefixlen
    found = {one.prefixlen for one in _addresses(expected, facts) if one.local == str(expected.node.address)}
    return "" if found <= {wanted} else f"/{'/'.join(map(str, sorted(found - {wanted})))}, not /{wanted}"


def static(expected: Expected, facts: Facts) -> str:
    """The address is the node's own and not lent: no lease, no address or way out that came from DHCP.

    Of NetworkManager's profiles the one in force counts, wherever it is kept. dhcpcd calls the LAN's own
    route "proto dhcp" for a static address too (9.4.1, seen on Bullseye).
    """
    interface = expected.node.interface
    if lent := [one.local for one in _addresses(expected, facts) if one.dynamic]:
        return f"{printable(lent[0])} on {interface} is lent for a time (DHCP)"
    ways_out = [one for one in facts.routes if one.dst == "default" and one.dev == interface]
    if any(one.protocol == "dhcp" for one in ways_out):
        return f"the way out on {interface} came from DHCP"
    if facts.leases:
        return f"{interface} has a DHCP lease: {printable(facts.leases[0])}"
    profile = facts.profile
    if profile and profile.method != "manual":
        return f"{interface} is set up by {printable(profile.file)}: method {printable(profile.method)}"
    if profile and expected.profiles and profile.uuid not in expected.profiles:
        return f"{interface} is set up by {printable(profile.file)}, which is not ours"
    return ""


def stored(expected: Expected, facts: Facts) -> str:
    """Where the node's own profile is kept, if netplan has it."""
    profile = facts.profile
    if not profile or profile.uuid not in expected.profiles or profile.file.startswith("/etc/"):
        return ""
    return f"NetworkManager keeps its profile in netplan's folder, as {printable(profile.file)}"


def route(expected: Expected, facts: Facts) -> str:
    """Workers go out through the gateway; the gateway itself never through the LAN."""
    defaults = [one for one in facts.routes if one.dst == "default"]
    interface = expected.node.interface
    if expected.is_gateway:
        through = [one for one in defaults if one.dev == interface]
        return f"the gateway has {_shown(through[0])}: into its own LAN" if through else ""
    wanted = (str(expected.gateway.address), interface)
    if [(one.gateway, one.dev) for one in defaults] == [wanted]:
        return ""
    shown = ", ".join(_shown(one) for one in defaults) or "no default route"
    return f"{shown}, not via {wanted[0]} on {interface}"


def _shown(one: Route) -> str:
    return printable(f"default via {one.gateway or 'nobody'} on {one.dev}")


def dns(expected: Expected, facts: Facts) -> str:
    """On the gateway the uplink may have added name servers of its own."""
    words = [line.split() for line in facts.resolv]
    servers = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    searched = [name for line in words if line and line[0] in ("search", "domain") for name in line[1:]]
    wanted = [str(server) for server in expected.cluster.dns]
    missing = [server for server in wanted if server not in servers]
    if missing or (servers != wanted and not expected.is_gateway):
        return f"it asks {printable(', '.join(servers)) or 'nobody'}, not {', '.join(wanted)}"
    if expected.cluster.domain not in searched:
        return f"{expected.cluster.domain} is not searched"
    return ""


def hosts(expected: Expected, facts: Facts) -> str:
    """Every node by both its names, and at no other address: nothing may lead a name to loopback."""
    found: dict[str, set[str]] = {}
    for line in facts.hosts:
        number, *names = line.split() or [""]
        for name in names:
            found.setdefault(name, set()).add(number)
    for node in expected.cluster.nodes:
        for name in (node.name, f"{node.name}.{expected.cluster.domain}"):
            if found.get(name) != {str(node.address)}:
                shown = printable(", ".join(sorted(found.get(name, {"nothing"}))))
                return f"{name} leads to {shown}, not {node.address}"
    return ""


def time_source(expected: Expected, facts: Facts) -> str:
    """Workers take the time from the gateway; the master serves it once chrony could be installed."""
    if "master" in expected.plan.layers:
        return _serves(expected, facts)
    if "worker" not in expected.plan.layers:
        return ""
    if facts.ntp_servers != (str(expected.gateway.address),):
        shown = printable(", ".join(facts.ntp_servers)) or "no server of ours"
        return f"systemd-timesyncd asks {shown}, not {expected.gateway.address}"
    return "" if facts.ntp == "yes" else "systemd-timesyncd is switched off"


def _serves(expected: Expected, facts: Facts) -> str:
    if "30-time" not in facts.stamps:
        return ""  # said by time_waits, and judged with the first-boot scripts
    if facts.root is None or not facts.root.chrony:
        return "chrony is not there, though 30-time is done"
    if f"allow {expected.cluster.lan}" not in facts.root.chrony:
        return f"chrony does not answer {expected.cluster.lan}"
    return ""


def time_waits(expected: Expected, facts: Facts) -> str:
    """What is to be said of the time beside the verdict."""
    planned = [script.name for script in expected.scripts]
    if "30-time" in planned and "30-time" not in facts.stamps:
        return "chrony waits for the internet: systemd-timesyncd until then"
    return "" if facts.ntp_synchronized == "yes" else "not synchronized yet"


def gateway(expected: Expected, facts: Facts) -> str:
    """It lets the LAN out as its policy says, its table stands, and nobody else's table is in the way."""
    found = facts.root.gateway if facts.root else None
    if found is None:
        return "piimg-gateway does not answer"
    policy, uplink = expected.cluster.gateway.policy, expected.cluster.gateway.uplink
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
        return f"it is {'open' if found.open else 'closed'}, its policy {policy}"
    if facts.root and "table inet piimg_gateway" not in facts.root.tables:
        return "its table is missing: nothing closes the way"
    if found.problems:
        return f"it says: {printable(found.problems[0])}"
    if found.open and found.stopped_by:
        stopped = f"table {found.stopped_by.table}, chain {found.stopped_by.chain}"
        return f"it is open, but stopped by {printable(stopped)}"
    return ""


def gateway_users(expected: Expected, facts: Facts) -> str:
    """Who holds the gateway open just now."""
    found = facts.root.gateway if facts.root else None
    return f"held open by {printable(', '.join(found.users))}" if found and found.users else ""
