"""Jinja2 templates over the cluster, strict: an unknown name is an error with file and line.

Templates run in a sandbox: a layer from a stranger can compute text, nothing else.
"""

import re
import traceback
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from jinja2 import TemplateSyntaxError

from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Credentials, Node, Release, Secret, Value, Wifi
from imagebuilder.overlay.sandbox import Sandbox
from imagebuilder.reading import LARGE, read_regular

_NAMESPACE = uuid.UUID("5e6ccb29-9b52-4f0e-a5ad-4ba5c6bdbfb1")  # fixed, so that a name always gives one UUID

_VIEW = re.compile(r"'[\w.]+\.(\w+?)(?:View)? object'")  # how Jinja2 calls what is not Python's own


class Secrets(Mapping[str, str]):
    """The secrets a template may use; remembers whether one was used, so that its output is kept back."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.used = False

    def __getitem__(self, name: str) -> str:
        value = self._values[name]
        self.used = True
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "<secrets>"


class Vars(Mapping[str, str | int | bool]):
    """A node's or the cluster's ``vars``; one that names a secret is looked up as that secret."""

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
    """A node as templates see it."""

    name: str
    address: IPv4Address
    interface: str
    role: str
    board: str
    wifi: Wifi | None
    vars: Vars
    is_gateway: bool
    host_public_key: str


@dataclass(frozen=True)
class UserView:
    """The cluster's account as templates see it."""

    name: str


@dataclass(frozen=True)
class ClusterView:
    """The cluster as templates see it."""

    name: str
    domain: str
    timezone: str
    locale: str
    keyboard: str
    lan: IPv4Network
    dns: tuple[IPv4Address, ...]
    user: UserView
    release: str
    boot_mount: str
    authorized_keys: tuple[str, ...]
    manifest_digest: str
    vars: Vars


@dataclass(frozen=True)
class GatewayView:
    """The gateway as templates see it; ``public_key`` is the workers' key for opening it."""

    name: str
    address: IPv4Address
    uplink: str
    policy: str
    public_key: str


class Renderer:
    """Renders the templates and conditions of one node."""

    def __init__(self, cluster: Cluster, node: Node, release: Release, credentials: Credentials) -> None:
        self._secrets = Secrets(_secrets(node, credentials))
        self._sandbox = Sandbox()
        self._sandbox.filters["uuid"] = lambda text: str(uuid.uuid5(_NAMESPACE, text))
        nodes = [_node_view(cluster, other, credentials, self._secrets) for other in cluster.nodes]
        self._names: dict[str, object] = {
            "node": next(view for view in nodes if view.name == node.name),
            "nodes": nodes,
            "cluster": _cluster_view(cluster, release, credentials, self._secrets),
            "gateway": _gateway_view(cluster, credentials),
            "secrets": self._secrets,
        }

    def render(self, text: str, place: str) -> tuple[str, bool]:
        """The rendered text, and whether a secret went into it. ``place`` names the text in an error."""
        self._secrets.used = False
        try:
            return self._sandbox.text(text, place, self._names), self._secrets.used
        except Exception as error:  # a template can raise whatever Python can
            raise self._refusal(error, place) from error

    def holds(self, expression: str | None, place: str) -> bool:
        """Whether a ``when`` condition holds (None: always)."""
        if expression is None:
            return True
        self._secrets.used = False
        try:
            return bool(self._sandbox.value(expression, self._names))
        except Exception as error:
            raise self._refusal(error, place) from error

    def _refusal(self, error: Exception, place: str) -> UsageError:
        line = error.lineno if isinstance(error, TemplateSyntaxError) else _line(error, place)
        where = f"{place}:{line}" if line else place
        what = f"{type(error).__name__}, told no further: a secret was in use"
        if not self._secrets.used:
            what = " ".join(_VIEW.sub(r"\1", str(error)).split()) or type(error).__name__
            what = what if len(what) <= 200 else f"{what[:199]}…"
        return UsageError(f"{where}: {what}", "docs/overlays.md lists the names a template may use")


def _line(error: Exception, place: str) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place]
    return lines[-1] if lines else None


def _secrets(node: Node, credentials: Credentials) -> dict[str, str]:
    return {
        **credentials.secrets,
        "host_key": credentials.host_keys[node.name].private,
        "gateway_key": credentials.gateway_key.private,
        "password_hash": credentials.password_hash,
        "wifi_psk": credentials.wifi_psks.get(node.name, ""),
    }


def _node_view(cluster: Cluster, node: Node, credentials: Credentials, secrets: Secrets) -> NodeView:
    return NodeView(
        name=node.name,
        address=node.address,
        interface=node.interface,
        role=node.role,
        board=node.board.name,
        wifi=node.wifi,
        vars=Vars(node.vars, secrets),
        is_gateway=node.name == cluster.gateway.node,
        host_public_key=credentials.host_keys[node.name].public,
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
        dns=cluster.dns,
        user=UserView(cluster.user.name),
        release=release.value,
        boot_mount=release.boot_mount,
        authorized_keys=credentials.authorized_keys,
        manifest_digest=cluster.digest,
        vars=Vars(cluster.vars, secrets),
    )


def _gateway_view(cluster: Cluster, credentials: Credentials) -> GatewayView:
    gateway = cluster.gateway
    return GatewayView(
        name=gateway.node,
        address=cluster.node(gateway.node).address,
        uplink=gateway.uplink,
        policy=gateway.policy.value,
        public_key=credentials.gateway_key.public,
    )


def read_bytes(source: Path) -> bytes:
    """A layer's file. Raises UsageError when it cannot be read."""
    try:
        return read_regular(source, LARGE)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from error


def as_text(source: Path) -> str:
    """A template file's text. Raises UsageError when it is not UTF-8."""
    try:
        return read_bytes(source).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: a template must be UTF-8 text (byte {error.start})") from error
