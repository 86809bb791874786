"""Reading a manifest: text to document, document to shape, shape to ``Cluster``.

The shape of the file is checked by pydantic, what holds between its parts by ``checks``. Nothing is
read here but the manifest itself; what only others know (which layers exist, what a base image's
architecture is) is passed in.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imagebuilder import toml
from imagebuilder.manifest import checks
from imagebuilder.manifest.shape import (
    KEYS,
    NODE_STAND_IN,
    STAND_INS,
    ManifestShape,
    NodeShape,
    WifiShape,
)
from imagebuilder.model import BOARDS, Cluster, Gateway, Node, Swap, User, Wifi
from imagebuilder.text import did_you_mean
from imagebuilder.toml import Place, Problem


def load(
    path: Path,
    *,
    layers: Collection[str] | None = None,
    architecture: Callable[[str], str | None] = lambda base: None,
) -> Cluster:
    """Read and check the manifest ``path``.

    ``layers`` are the names of the layers there are (None: not checked); ``architecture`` tells a base
    image's Debian architecture from its name, or None when only the image itself can tell. Raises
    UsageError with every error of the file, each with its place.
    """
    raw = toml.read(path, "name the manifest with --manifest FILE")
    return parse(raw, path, layers=layers, architecture=architecture)


def parse(
    raw: bytes,
    path: Path,
    *,
    layers: Collection[str] | None = None,
    architecture: Callable[[str], str | None] = lambda base: None,
) -> Cluster:
    """Like ``load``, for a manifest's bytes; ``path`` is where they are from."""
    text = toml.decode(raw, path)
    shape, problems = _shape(toml.parse(text, path))
    if shape is not None:
        # What is said of a wrong value, or of what it stands in, may come of the stand-in.
        wrong = [place for place, _ in problems]
        between = checks.problems(shape, layers, architecture)
        problems += [problem for problem in between if not _touches(problem[0], wrong)]
    if problems or shape is None:
        raise toml.refusal(path, text, problems, "correct it; docs/manifest.md says what each key takes")
    return _cluster(shape, path, hashlib.sha256(raw).hexdigest())


def _shape(document: dict[str, Any]) -> tuple[ManifestShape | None, list[Problem]]:
    """The document's shape and what is wrong with it: wrong optional keys left out, others stood in for."""
    try:
        return ManifestShape.model_validate(document), []
    except ValidationError as error:
        problems = toml.problems(error, document)
    for place, what in problems:
        _fix(document, place, {} if what == toml.UNKNOWN else STAND_INS)
    problems = [
        (place, what + did_you_mean(str(place[-1]), KEYS) if what == toml.UNKNOWN else what)
        for place, what in problems
    ]
    try:
        return ManifestShape.model_validate(document), problems
    except ValidationError:
        return None, problems


def _fix(document: dict[str, Any], place: Place, stand_ins: Mapping[str, object]) -> None:
    """Take the wrong value at ``place`` out of the document, or put a stand-in where one must be."""
    if not place:
        return
    *outer, last = place
    inner: Any = document
    for part in outer:
        if part not in toml.keys(inner):
            return  # taken out already, with what it stood in
        inner = inner[part]
    if not isinstance(last, int):
        inner.pop(last, None)
        inner |= {last: stand_ins[last]} if last in stand_ins else {}
    elif outer == ["node"]:
        inner[last] = NODE_STAND_IN
    else:
        _fix(document, tuple(outer), stand_ins)  # a list without one of its items would be another list


def _touches(place: Place, wrong: Sequence[Place]) -> bool:
    return any(place[: len(other)] == other or other[: len(place)] == place for other in wrong)


def _cluster(shape: ManifestShape, path: Path, digest: str) -> Cluster:
    cluster = shape.cluster
    gateway = next(node for node in shape.node if node.uplink)
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
        gateway=Gateway(gateway.name, str(gateway.uplink), shape.gateway.policy),
        nodes=tuple(_node(node, cluster.swap) for node in shape.node),
        layers=tuple(cluster.layers),
        vars=shape.vars,
        folder=path.resolve().parent,
        digest=digest,
    )


def _node(shape: NodeShape, swap: Swap) -> Node:
    return Node(
        name=shape.name,
        role=shape.role,
        board=BOARDS[shape.board],
        address=shape.address,
        interface=shape.interface,
        wifi=_wifi(shape.wifi) if shape.wifi else None,
        layers=tuple(shape.layers),
        vars=shape.vars,
        swap=shape.swap or swap,
    )


def _wifi(shape: WifiShape) -> Wifi:
    passphrase = shape.passphrase.get() if shape.passphrase else None
    return Wifi(shape.ssid, shape.country, passphrase, shape.interface)
