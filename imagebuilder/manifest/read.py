"""Manifest reader: TOML text to document, document to ``ManifestShape``, shape to ``Cluster``.

pydantic checks the shape of the file, ``checks`` the relations between its parts. The manifest is the only
file that is read here; the caller passes in which layers exist and the architecture of the base image.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from imagebuilder import toml
from imagebuilder.boards import BOARDS
from imagebuilder.manifest import checks
from imagebuilder.manifest.settings import SettingsShape
from imagebuilder.manifest.shape import (
    KEYS,
    NODE_STAND_IN,
    STAND_INS,
    ClusterShape,
    GatewayShape,
    ManifestShape,
    NodeShape,
    WifiNetworkShape,
    WifiShape,
)
from imagebuilder.model import Cluster, Gateway, Node, User, Wifi, WifiNetwork
from imagebuilder.networks import WifiSecurity
from imagebuilder.settings import FIRST_UID, SSH_PORT, Account, Journal, Mount, data_uuid
from imagebuilder.text import did_you_mean
from imagebuilder.toml import Place, Problem

_log = logging.getLogger(__name__)

T = TypeVar("T")


def load(
    path: Path,
    *,
    layers: Collection[str] | None = None,
    architecture: Callable[[str], str | None] = lambda base: None,
) -> Cluster:
    """Read and check the manifest ``path``.

    ``layers`` are the names of the existing layers (None: not checked). ``architecture`` returns the Debian
    architecture of a base image from its name, or None when it is not known without the image. Raises
    UsageError with every error of the file, each with its line and key.
    """
    raw = toml.read(path, "name the manifest with --manifest FILE")
    cluster = parse(raw, path, layers=layers, architecture=architecture)
    _log.info("%s: cluster %s, %d nodes, base %s", path, cluster.name, len(cluster.nodes), cluster.base)
    return cluster


def parse(
    raw: bytes,
    path: Path,
    *,
    layers: Collection[str] | None = None,
    architecture: Callable[[str], str | None] = lambda base: None,
) -> Cluster:
    """Like ``load``, for the bytes of a manifest; ``path`` is used in errors and for relative paths."""
    text = toml.decode(raw, path)
    shape, problems = _shape(toml.parse(text, path))
    if shape is not None:
        # A problem at a replaced value, or around it, may be caused by the stand-in.
        wrong = [place for place, _ in problems]
        contradictions = checks.problems(shape, layers, architecture)
        problems += [problem for problem in contradictions if not _touches(problem[0], wrong)]
    if problems or shape is None:
        raise toml.refusal(path, text, problems, "correct it; docs/manifest.md describes each key")
    return _cluster(shape, path, hashlib.sha256(raw).hexdigest(), architecture(shape.cluster.base))


def _shape(document: dict[str, Any]) -> tuple[ManifestShape | None, list[Problem]]:
    """The shape of the document and its problems.

    Wrong optional values are removed, wrong required values replaced by stand-ins.
    """
    try:
        return ManifestShape.model_validate(document), []
    except ValidationError as error:
        problems = toml.problems(error, document)
    for place, text in problems:
        _fix(document, place, {} if text == toml.UNKNOWN else STAND_INS)
    problems = [
        (place, text + did_you_mean(str(place[-1]), KEYS) if text == toml.UNKNOWN else text)
        for place, text in problems
    ]
    try:
        return ManifestShape.model_validate(document), problems
    except ValidationError:
        return None, problems


def _fix(document: dict[str, Any], place: Place, stand_ins: Mapping[str, object]) -> None:
    """Remove the wrong value at ``place`` from the document, or replace it with a stand-in if required."""
    if not place:
        return
    *outer, last = place
    inner: Any = document
    for part in outer:
        if part not in toml.keys(inner):
            return  # removed already, with the table or list around it
        inner = inner[part]
    if not isinstance(last, int):
        inner.pop(last, None)
        inner |= {last: stand_ins[last]} if last in stand_ins else {}
    elif outer == ["node"]:
        inner[last] = NODE_STAND_IN
    else:
        _fix(document, tuple(outer), stand_ins)  # without one item it would be a different list


def _touches(place: Place, wrong: Sequence[Place]) -> bool:
    return any(place[: len(other)] == other or other[: len(place)] == place for other in wrong)


def _cluster(shape: ManifestShape, path: Path, digest: str, architecture: str | None) -> Cluster:
    cluster = shape.cluster
    return Cluster(
        name=cluster.name,
        domain=cluster.domain or f"{cluster.name.lower()}.internal",
        base=cluster.base,
        release=cluster.release,
        timezone=cluster.timezone,
        locale=cluster.locale,
        keyboard=cluster.keyboard,
        lan=shape.lan.network,
        dns=tuple(shape.lan.dns),
        user=User(
            shape.user.name,
            shape.user.password.get() if shape.user.password else None,
            tuple(shape.user.authorized_keys),
        ),
        gateway=_gateway(shape),
        nodes=tuple(
            _node(
                node,
                cluster,
                checks.levels(shape, node),
                _packages(shape, node),
                checks.node_layers(shape, node),
            )
            for node in shape.node
        ),
        layers=tuple(cluster.layers),
        vars=shape.vars,
        folder=path.resolve().parent,
        digest=digest,
        accounts=tuple(
            Account(one.name, number, tuple(dict.fromkeys(one.groups)), tuple(one.authorized_keys))
            for number, one in enumerate(shape.account, start=FIRST_UID)
        ),
        router=shape.lan.router,
        lan6=shape.lan.ipv6,
        architecture=architecture,
    )


def _gateway(shape: ManifestShape) -> Gateway | None:
    for node in shape.node:
        if node.uplink:
            policy = (shape.gateway or GatewayShape()).policy
            return Gateway(node.name, node.uplink, policy, node.uplink_address, node.uplink_router)
    return None


def _packages(shape: ManifestShape, node: NodeShape) -> dict[str, tuple[str, ...]]:
    """The packages of a node by name, each with the tables that name it."""
    role = shape.role.get(node.role)
    tables = {
        "cluster": shape.cluster.packages,
        f"role.{node.role}": role.packages if role else [],
        f"node {node.name}": node.packages,
    }
    names = sorted({name for listed in tables.values() for name in listed})
    return {name: tuple(table for table, listed in tables.items() if name in listed) for name in names}


def _node(
    shape: NodeShape,
    cluster: ClusterShape,
    levels: Sequence[SettingsShape],
    packages: Mapping[str, tuple[str, ...]],
    layers: tuple[str, ...],
) -> Node:
    return Node(
        name=shape.name,
        role=shape.role,
        board=BOARDS[shape.board],
        address=shape.address,
        interface=shape.interface,
        wifi=_wifi(shape.wifi) if shape.wifi else None,
        layers=layers,
        vars=shape.vars,
        swap=shape.swap or cluster.swap,
        packages=packages,
        config=_config(levels),
        mounts=_mounts(levels, cluster.name, shape.name),
        root_size=_nearest([level.root_size for level in levels], None),
        data=_nearest([level.data for level in levels], None),
        ca_certificates=tuple(dict.fromkeys(file for level in levels for file in level.ca_certificates)),
        ssh_port=_nearest([level.ssh_port for level in levels], SSH_PORT),
        journal=_nearest([level.journal for level in levels], Journal.DEFAULT),
        interfaces=tuple(dict.fromkeys(name for level in levels for name in level.interfaces)),
    )


def _mounts(levels: Sequence[SettingsShape], cluster: str, node: str) -> tuple[Mount, ...]:
    """The mounts of all ``levels``, and that of the data partition."""
    named = [
        Mount(one.source, one.path, one.type, tuple(one.options)) for level in levels for one in level.mount
    ]
    data = _nearest([level.data for level in levels], None)
    if data is not None:
        named.append(Mount(f"UUID={data_uuid(cluster, node)}", data, "ext4", ("noatime",)))
    return tuple(named)


def _nearest(values: Sequence[T | None], default: T) -> T:
    """The last value that is set."""
    return next((value for value in reversed(values) if value is not None), default)


def _config(levels: Sequence[SettingsShape]) -> dict[str, tuple[str, ...]]:
    """The lines of config.txt by filter, those of all ``levels``."""
    joined: dict[str, tuple[str, ...]] = {}
    for level in levels:
        for name, lines in level.config.items():
            joined[name] = (*joined.get(name, ()), *lines)
    return joined


def _wifi(shape: WifiShape) -> Wifi:
    fallback = _wifi_network(shape.fallback) if shape.fallback else None
    first = _wifi_network(shape)
    return Wifi(
        first.ssid,
        shape.country,
        first.passphrase,
        shape.interface,
        fallback,
        first.security,
        first.hidden,
    )


def _wifi_network(shape: WifiNetworkShape) -> WifiNetwork:
    passphrase = shape.passphrase.get() if shape.passphrase else None
    security = shape.security or (WifiSecurity.WPA2 if passphrase else WifiSecurity.OPEN)
    return WifiNetwork(shape.ssid, passphrase, security, shape.hidden)
