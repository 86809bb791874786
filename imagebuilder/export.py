"""What a person's own machine needs to reach the cluster: files for ssh, the resolver and Ansible. Pure.

That machine is on the gateway's uplink side, from where nobody gets into the nodes' own network: the gateway
has a name or an address there, and the others are reached through it. ssh's file says so; Ansible uses ssh.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Node

SSH_PORT = 22


@dataclass(frozen=True)
class Via:
    """Where the gateway's sshd is reached from outside the cluster: a name or an address, and a port."""

    host: str
    port: int = SSH_PORT


def via(text: str) -> Via:
    """``HOST``, ``HOST:PORT`` or ``[IPV6]:PORT``. Raises UsageError for anything else."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9][A-Za-z0-9._-]*))(?::([0-9]{1,5}))?", text)
    if found and (found[1] is None or _is_ipv6(found[1])) and 0 < int(found[3] or SSH_PORT) < 1 << 16:
        return Via(found[1] or found[2], int(found[3] or SSH_PORT))
    if _is_ipv6(text):
        return Via(text)
    raise UsageError(f"{text!r} is no HOST or HOST:PORT", "name where the gateway's ssh is reached")


def _is_ipv6(text: str) -> bool:
    try:
        return IPv6Address(text).scope_id is None
    except AddressValueError:
        return False


def default_via(cluster: Cluster) -> Via:
    """The gateway's name by multicast DNS: its address there is the home router's to choose."""
    return Via(f"{cluster.gateway.node}.local")


def default_known_hosts(cluster: Cluster) -> str:
    """Where ssh-config says the file of known-hosts is."""
    return f"~/.ssh/{cluster.name}.known_hosts"


def ssh_config(cluster: Cluster, gateway: Via, known_hosts: str, identity: str = "") -> str:
    """ssh_config(5): each node by its name, the others through the gateway, no host key but the right one.

    ``known_hosts`` and ``identity`` are paths, which may begin with ``~``; without ``identity``, ssh tries
    the user's own keys. Raises UsageError for a path that ssh's file cannot hold.
    """
    lines = [
        f"# The cluster {cluster.name}, by piimg export ssh-config: as ~/.ssh/{cluster.name}.conf it is read",
        f"# when ~/.ssh/config begins with: Include {cluster.name}.conf",
    ]
    for node in cluster.nodes:
        lines += ["", f"Host {' '.join(_names(cluster, node))}"]
        if node.name == cluster.gateway.node:
            lines += [f"    HostName {gateway.host}", f"    Port {gateway.port}"]
        else:
            lines += [f"    HostName {node.address}", f"    Port {SSH_PORT}"]
            lines += [f"    ProxyJump {_full_name(cluster, cluster.node(cluster.gateway.node))}"]
        # the key belongs to the name, whatever address it is found at
        lines += [f"    HostKeyAlias {_full_name(cluster, node).lower()}"]
    lines += [
        "",
        f"Host {' '.join(name for node in cluster.nodes for name in _names(cluster, node))}",
        f"    User {cluster.user.name}",
        f"    UserKnownHostsFile {_quoted(known_hosts)}",
        "    StrictHostKeyChecking yes",
        "    CheckHostIP no",
    ]
    if identity:
        lines += [f"    IdentityFile {_quoted(identity)}", "    IdentitiesOnly yes"]
    return _text(lines)


def known_hosts(cluster: Cluster, host_keys: Mapping[str, str], gateway: Via) -> str:
    """The known hosts (sshd(8)): the key of each node, by name, full name and address.

    ``host_keys`` are the public halves by the node's name, each as one line.
    """
    lines = [f"# The host keys of the cluster {cluster.name}, by piimg export known-hosts"]
    for node in cluster.nodes:
        names = [*_names(cluster, node), str(node.address)]
        if node.name == cluster.gateway.node:
            outside = gateway.host if gateway.port == SSH_PORT else f"[{gateway.host}]:{gateway.port}"
            names += [outside] if outside not in names else []
        lines.append(f"{','.join(names).lower()} {host_keys[node.name]}")
    return _text(lines)


def hosts(cluster: Cluster) -> str:
    """hosts(5): the nodes' addresses on their LAN."""
    lines = [f"# The cluster {cluster.name}, by piimg export hosts: its addresses on the LAN {cluster.lan}"]
    lines += [
        f"{node.address} {_full_name(cluster, node)} {_names(cluster, node)[0]}" for node in cluster.nodes
    ]
    return _text(lines)


def ansible_inventory(cluster: Cluster) -> str:
    """An inventory for Ansible's YAML plugin: a group for the cluster, and one for each role."""
    lines = [
        f"# The cluster {cluster.name}, by piimg export ansible-inventory. Ansible reaches the nodes as ssh",
        "# does: put the files of piimg export ssh-config and known-hosts in place first.",
        f"{_group('cluster', cluster.name)}:",
        "  vars:",
        f"    ansible_user: {json.dumps(cluster.user.name)}",
        '    ansible_python_interpreter: "/usr/bin/python3"',
        "  children:",
    ]
    roles: dict[str, list[Node]] = {}
    for node in cluster.nodes:
        roles.setdefault(_group("role", node.role), []).append(node)
    for role, nodes in roles.items():
        lines += [f"    {role}:", "      hosts:"]
        for node in nodes:
            # quoted, for to YAML "no" and "1e3" are not text
            name, full = json.dumps(node.name), json.dumps(_full_name(cluster, node))
            lines.append(f"        {name}: {{ansible_host: {full}}}")
    return _text(lines)


def _group(kind: str, name: str) -> str:
    """A group's name as Ansible wants it; with its kind, for a node may have the same name."""
    return re.sub(r"[^A-Za-z0-9_]", "_", f"{kind}_{name}")


def _names(cluster: Cluster, node: Node) -> tuple[str, str]:
    return node.name, _full_name(cluster, node)


def _full_name(cluster: Cluster, node: Node) -> str:
    return f"{node.name}.{cluster.domain}"


def _quoted(path: str) -> str:
    """A path as ssh_config(5) reads it: quoted, "%" doubled. Raises UsageError for one it cannot hold."""
    if not path.isprintable() or '"' in path or "\\" in path or "${" in path:
        raise UsageError(f"ssh's configuration cannot hold the path {path!r}", "use another file")
    return f'"{path.replace("%", "%%")}"'


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
