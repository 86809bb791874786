"""Jinja2 templates with the data of the cluster. An unknown name is an error with file and line.

Templates run in a sandbox, so that a layer that is not trusted can only compute text. They also run in a
separate process with limits (child.py), because a sandbox cannot limit the size of every result.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network

from jinja2 import TemplateSyntaxError
from jinja2.nodes import Node as Part

from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Credentials, Node, Programs, Release, Secret, Value, Wifi, WifiNetwork
from imagebuilder.overlay import bounds
from imagebuilder.overlay.bounds import Bounds, OutOfTime
from imagebuilder.overlay.sandbox import Sandbox
from imagebuilder.settings import Swap, data_uuid, uuid_of

_VIEW = re.compile(r"'[\w.]+\.(\w+?)(?:View)? object'")  # the name of our classes in Jinja2's messages


class Secrets(Mapping[str, str]):
    """The secrets of templates; ``used`` records whether one was read, so that its output is not shown.

    ``read`` are the names of all that were ever read.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.used = False
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        value = self._values[name]
        self.used = True
        self.read.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "<secrets>"


class Vars(Mapping[str, str | int | bool]):
    """The ``vars`` of a node or the cluster; a variable that names a secret has the secret's value."""

    def __init__(self, values: Mapping[str, Value], secrets: Secrets) -> None:
        self._values = values
        self._secrets = secrets

    def __getitem__(self, name: str) -> str | int | bool:
        value = self._values[name]
        return self._secrets[value.name] if isinstance(value, Secret) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class NodeView:
    """A node, for templates.

    ``address`` is None if it is from DHCP, ``host`` what it is then reached at. ``router`` is where its
    default route leads on the LAN, None on the gateway; ``router6`` the same for IPv6, None without a
    gateway. ``lan_wifi``: it is on the LAN by Wi-Fi. ``vlans`` are its interfaces that are VLANs,
    ``idle_ports`` the ports that only carry them. ``layers`` are those that the manifest names for it.
    ``packages`` are those that its base image gets, known of the node itself only.
    """

    name: str
    address: IPv4Address | None
    address6: IPv6Address | None
    host: str
    interface: str
    role: str
    board: str
    layers: tuple[str, ...]
    wifi: Wifi | None
    vars: Vars
    is_gateway: bool
    router: IPv4Address | None
    router6: IPv6Address | None
    lan_wifi: bool
    vlans: tuple[str, ...]
    idle_ports: tuple[str, ...]
    host_public_key: str
    swap: Swap
    interfaces: tuple[str, ...]
    ssh_port: int
    root_size: int | None
    data: str | None
    data_uuid: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class UserView:
    """The cluster's account, for templates."""

    name: str


@dataclass(frozen=True)
class AccountView:
    """An account besides the cluster's, for templates."""

    name: str
    uid: int
    groups: tuple[str, ...]
    authorized_keys: tuple[str, ...]


@dataclass(frozen=True)
class ClusterView:
    """The cluster, for templates."""

    name: str
    domain: str
    timezone: str
    locale: str
    keyboard: str
    lan: IPv4Network
    lan6: IPv6Network | None
    dns: tuple[IPv4Address, ...]
    user: UserView
    accounts: tuple[AccountView, ...]
    release: str
    boot_mount: str
    programs: Programs
    authorized_keys: tuple[str, ...]
    manifest_digest: str
    vars: Vars


@dataclass(frozen=True)
class GatewayView:
    """The gateway, for templates; ``public_key`` is the workers' key for opening it."""

    name: str
    address: IPv4Address | None
    uplink: str
    policy: str
    public_key: str
    ssh_port: int
    uplink_address: IPv4Interface | None
    uplink_router: IPv4Address | None


class Templates:
    """Renders the templates and conditions of one node, in this process.

    ``packages`` are those that its base image gets; other nodes have the view of none.
    ``sandbox`` may be shared by the nodes of a run: it compiles a template only once.
    """

    def __init__(
        self,
        cluster: Cluster,
        node: Node,
        release: Release,
        credentials: Credentials,
        packages: tuple[str, ...],
        limits: Bounds,
        sandbox: Sandbox,
    ) -> None:
        self._bounds = limits
        self._secrets = Secrets(_secrets(node, credentials))
        self._sandbox = sandbox
        self._sandbox.filters["uuid"] = uuid_of
        nodes = [_node_view(cluster, other, credentials, self._secrets) for other in cluster.nodes]
        self._names: dict[str, object] = {
            "node": dataclasses.replace(
                next(view for view in nodes if view.name == node.name), packages=packages
            ),
            "nodes": nodes,
            "cluster": _cluster_view(cluster, release, credentials, self._secrets),
            "gateway": _gateway_view(cluster, credentials),
            "secrets": self._secrets,
        }

    def render(self, text: str, place: str) -> tuple[bytes, bool]:
        """The rendered text in UTF-8, and whether it contains a secret. ``place`` names it in an error."""
        self._secrets.used = False
        try:
            with self._bounds.enforced():
                return self._sandbox.text(text, place, self._names).encode(), self._secrets.used
        except (Exception, OutOfTime) as error:  # a template can raise any exception
            raise self._refusal(error, place) from None

    def holds(self, expression: str | None, place: str) -> bool:
        """Whether a ``when`` condition is true (None: always)."""
        if expression is None:
            return True
        self._secrets.used = False
        try:
            with self._bounds.enforced():
                return bool(self._sandbox.value(expression, self._names))
        except (Exception, OutOfTime) as error:
            raise self._refusal(error, place) from None

    @property
    def secrets_read(self) -> list[str]:
        """The names of the secrets that were read so far, sorted; those of derived ones too."""
        return sorted(self._secrets.read)

    def _refusal(self, error: BaseException, place: str) -> UsageError:
        line = error.lineno if isinstance(error, TemplateSyntaxError) else _line(error, place)
        where = f"{place}:{line}" if line else place
        if isinstance(error, OutOfTime | MemoryError):
            return UsageError(
                f"{where}: {bounds.TOO_LONG if isinstance(error, OutOfTime) else bounds.TOO_MUCH}",
                bounds.HINT,
            )
        problem = f"{type(error).__name__}; details are not shown, because a secret was in use"
        if not self._secrets.used:
            problem = " ".join(_VIEW.sub(r"\1", str(error)).split()) or type(error).__name__
            problem = problem if len(problem) <= 200 else f"{problem[:199]}…"
        return UsageError(f"{where}: {problem}", bounds.HINT)


def _line(error: BaseException, place: str) -> int | None:
    """The line of the template at which ``error`` was raised; Jinja2 maps Python's lines to its own."""
    line, trace = None, error.__traceback__
    while trace is not None:
        code, template = trace.tb_frame.f_code, trace.tb_frame.f_globals.get("__jinja_template__")
        if code.co_filename == place:
            # OutOfTime can be raised at an instruction without a line: then use the line before it.
            before = [number for start, _, number in code.co_lines() if number and start <= trace.tb_lasti]
            number = trace.tb_lineno or before[-1]
            line = template.get_corresponding_lineno(number) if template is not None else number
        elif isinstance(part := trace.tb_frame.f_locals.get("self"), Part):
            line = part.lineno  # Jinja2 computes constants while it compiles a template
        trace = trace.tb_next
    return line


def _secrets(node: Node, credentials: Credentials) -> dict[str, str]:
    networks = node.wifi.networks if node.wifi else ()
    sae = [
        credentials.secrets[each.passphrase.name] if each.security.has_sae and each.passphrase else ""
        for each in (*networks, WifiNetwork(""), WifiNetwork(""))
    ]
    return {
        **credentials.secrets,
        "host_key": credentials.host_keys[node.name].private,
        "gateway_key": credentials.gateway_key.private,
        "password_hash": credentials.password_hash,
        "wifi_psk": credentials.wifi_psks.get(node.name, ""),
        "wifi_passphrase": sae[0],
        "wifi_fallback_psk": credentials.wifi_fallback_psks.get(node.name, ""),
        "wifi_fallback_passphrase": sae[1],
    }


def _node_view(cluster: Cluster, node: Node, credentials: Credentials, secrets: Secrets) -> NodeView:
    gateway = cluster.gateway_node
    return NodeView(
        name=node.name,
        address=node.address,
        address6=cluster.address6(node),
        host=node.host,
        interface=node.interface,
        role=node.role,
        board=node.board.name,
        layers=(*cluster.layers, *node.layers),
        wifi=node.wifi,
        vars=Vars(node.vars, secrets),
        is_gateway=cluster.is_gateway(node),
        router=cluster.way_out(node),
        router6=cluster.address6(gateway) if gateway and gateway.name != node.name else None,
        lan_wifi=node.lan_wifi is not None,
        vlans=tuple(name for name in cluster.wired(node) if "." in name),
        idle_ports=cluster.idle_ports(node),
        host_public_key=credentials.host_keys[node.name].public,
        swap=node.swap,
        ssh_port=node.ssh_port,
        root_size=node.root_size,
        data=node.data,
        data_uuid=data_uuid(cluster.name, node.name) if node.data else "",
        interfaces=tuple(each.value for each in node.interfaces),
    )


def _cluster_view(
    cluster: Cluster, release: Release, credentials: Credentials, secrets: Secrets
) -> ClusterView:
    return ClusterView(
        name=cluster.name,
        domain=cluster.domain,
        timezone=cluster.timezone,
        locale=cluster.locale,
        keyboard=cluster.keyboard,
        lan=cluster.lan,
        lan6=cluster.lan6,
        dns=cluster.dns,
        user=UserView(cluster.user.name),
        accounts=tuple(
            AccountView(account.name, account.uid, account.groups, credentials.account_keys[account.name])
            for account in cluster.accounts
        ),
        release=release.value,
        boot_mount=release.facts.boot_mount,
        programs=release.facts.programs,
        authorized_keys=credentials.authorized_keys,
        manifest_digest=cluster.digest,
        vars=Vars(cluster.vars, secrets),
    )


def _gateway_view(cluster: Cluster, credentials: Credentials) -> GatewayView | None:
    gateway = cluster.gateway
    if gateway is None:
        return None
    return GatewayView(
        name=gateway.node,
        address=cluster.node(gateway.node).address,
        uplink=gateway.uplink,
        policy=gateway.policy.value,
        public_key=credentials.gateway_key.public,
        ssh_port=cluster.node(gateway.node).ssh_port,
        uplink_address=gateway.address,
        uplink_router=gateway.router,
    )
