"""Exports for the user's own machine: files for ssh, the resolver and Ansible. No I/O.

That machine is on the uplink side of the gateway, which has a name or an address there. The other nodes are
reached through the gateway, by ProxyJump in the ssh configuration, which Ansible uses as well. Without a
gateway it is on the same network as the nodes, and reaches each at its address; a node with an address from
DHCP at its name in multicast DNS.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Node
from imagebuilder.settings import SSH_PORT


@dataclass(frozen=True)
class Via:
    """The address of the gateway's sshd from outside the cluster: a name or an address, and a port."""

    host: str
    port: int = SSH_PORT


def via(text: str, port: int = SSH_PORT) -> Via:
    """Parse ``HOST``, ``HOST:PORT`` or ``[IPV6]:PORT``; ``port`` is that of a text without one.

    Raises UsageError for anything else.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9][A-Za-z0-9._-]*))(?::([0-9]{1,5}))?", text)
    if match and (match[1] is None or _is_ipv6(match[1])) and 0 < int(match[3] or port) < 1 << 16:
        return Via(match[1] or match[2], int(match[3] or port))
    if _is_ipv6(text):
        return Via(text, port)
    raise UsageError(f"{text!r} is not HOST or HOST:PORT", "name the address of the gateway's ssh")


def _is_ipv6(text: str) -> bool:
    try:
        return IPv6Address(text).scope_id is None
    except AddressValueError:
        return False


def default_via(cluster: Cluster) -> Via | None:
    """The gateway's name in multicast DNS, as the home router chooses its address; None without a gateway."""
    return Via(f"{cluster.gateway.node}.local", gateway_port(cluster)) if cluster.gateway else None


def gateway_port(cluster: Cluster) -> int:
    """The port of the gateway's sshd; ssh's own without a gateway."""
    return cluster.gateway_node.ssh_port if cluster.gateway_node else SSH_PORT


def default_known_hosts(cluster: Cluster) -> str:
    """The path of the known-hosts file that ssh-config names by default."""
    return f"~/.ssh/{cluster.name}.known_hosts"


def ssh_config(cluster: Cluster, gateway: Via | None, known_hosts: str, identity: str = "") -> str:
    """An ssh_config(5): each node by its name, workers through the gateway, host keys strictly checked.

    ``gateway`` is None for a cluster without one: then every node is reached directly.
    ``known_hosts`` and ``identity`` are paths, which may begin with ``~``; without ``identity``, ssh tries
    the user's own keys. Raises UsageError for a path that ssh_config cannot contain.
    """
    lines = [
        f"# The cluster {cluster.name}, by piimg export ssh-config. Save it as ~/.ssh/{cluster.name}.conf",
        f"# and begin ~/.ssh/config with: Include {cluster.name}.conf",
    ]
    for node in cluster.nodes:
        lines += ["", f"Host {' '.join(_names(cluster, node))}"]
        if gateway and cluster.is_gateway(node):
            lines += [f"    HostName {gateway.host}", f"    Port {gateway.port}"]
        else:
            lines += [f"    HostName {node.host}", f"    Port {node.ssh_port}"]
            lines += [f"    ProxyJump {_full_name(cluster, jump)}"] if (jump := cluster.gateway_node) else []
        # the host key is looked up by name, whatever the address
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


def known_hosts(cluster: Cluster, host_keys: Mapping[str, str], gateway: Via | None) -> str:
    """A known_hosts file (sshd(8)): the key of each node, by name, full name and address.

    ``host_keys`` are the public keys by node name, each as one line.
    """
    lines = [f"# The host keys of the cluster {cluster.name}, by piimg export known-hosts"]
    for node in cluster.nodes:
        # under a HostKeyAlias ssh looks up the name alone, else NAME or [NAME]:PORT
        plain = [*_names(cluster, node), node.host]
        plain += [str(address)] if (address := cluster.address6(node)) else []
        names = [*plain, *(_at_port(name, node.ssh_port) for name in plain if node.ssh_port != SSH_PORT)]
        if gateway and cluster.is_gateway(node):
            outside = _at_port(gateway.host, gateway.port)
            names += [outside] if outside not in names else []
        lines.append(f"{','.join(names).lower()} {host_keys[node.name]}")
    return _text(lines)


def _at_port(host: str, port: int) -> str:
    """A host in known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return host if port == SSH_PORT else f"[{host}]:{port}"


def hosts(cluster: Cluster) -> str:
    """A hosts(5) file: the addresses of the nodes on their LAN. Those from DHCP are not known: a comment."""
    lines = [f"# The cluster {cluster.name}, by piimg export hosts: its addresses on the LAN {cluster.lan}"]
    for node in cluster.nodes:
        if node.address:
            for address in filter(None, (node.address, cluster.address6(node))):
                lines.append(f"{address} {_full_name(cluster, node)} {node.name}")
        else:
            lines.append(f"# {node.name}: its address is from DHCP and not known; it answers at {node.host}")
    return _text(lines)


def ansible_inventory(cluster: Cluster) -> str:
    """An inventory for Ansible's YAML plugin: a group for the cluster and a group for each role."""
    lines = [
        f"# The cluster {cluster.name}, by piimg export ansible-inventory. Ansible uses ssh:",
        "# install the files of piimg export ssh-config and known-hosts first.",
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
            # quoted, because YAML reads "no" and "1e3" as other types
            name, full = json.dumps(node.name), json.dumps(_full_name(cluster, node))
            lines.append(f"        {name}: {{ansible_host: {full}}}")
    return _text(lines)


def _group(kind: str, name: str) -> str:
    """A valid group name for Ansible, with its kind, because a node may have the same name."""
    return re.sub(r"[^A-Za-z0-9_]", "_", f"{kind}_{name}")


def _names(cluster: Cluster, node: Node) -> tuple[str, str]:
    return node.name, _full_name(cluster, node)


def _full_name(cluster: Cluster, node: Node) -> str:
    return f"{node.name}.{cluster.domain}"


def _quoted(path: str) -> str:
    """A path quoted for ssh_config(5), with "%" doubled. Raises UsageError if it cannot be quoted."""
    if not path.isprintable() or '"' in path or "\\" in path or "${" in path:
        raise UsageError(f"ssh_config cannot contain the path {path!r}", "use another file")
    return f'"{path.replace("%", "%%")}"'


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
