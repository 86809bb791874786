"""The recipe of a prepared node: a digest of all that it is made of, and its parts, to tell what changed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from imagebuilder.model import Cluster, Entry, Node, NodePlan

FORMAT = 1
"""The version of what piimg makes of the same input: with another number all is prepared again."""

_SHOWN = 3  # changes named in a text
_OWN = "node."
_SHARED = "cluster."
_FILE = "entry."
_TOOL, _BASE, _TIME = "tool", "base", "time"
_DRESSED = "dressed"
_WITH_DIGEST = frozenset({"boot/piimg.json", "root/etc/piimg/node.conf"})
"""What has the digest of the manifest's file in it, and so changes with every change of the manifest."""
_SOFTWARE = {"packages": "packages changed", "scripts": "build scripts changed"}


@dataclass(frozen=True)
class Recipe:
    """``name`` is a sha256 (hex) of all that the node is made of; ``parts`` has a digest for each part.

    Parts of the manifest are only for naming a change: it counts where it changes an entry.
    """

    name: str
    parts: Mapping[str, str]


def recipe_of(cluster: Cluster, plan: NodePlan, base: str, mtime: int, *, made_from: str = "") -> Recipe:
    """The recipe of a node. ``plan`` is fitted to the base image, whose sha256 is ``base``.

    ``mtime`` is the time of all entries, in seconds since 1970. If the base image is dressed, ``made_from``
    is the sha256 of the one that it was made from.
    """
    entries = [
        (f"{_FILE}{entry.layer} {entry.partition}{entry.path}", _entry(entry)) for entry in plan.entries
    ]
    made_of = (FORMAT, base, mtime, [list(each) for each in entries])
    name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    parts = {_TOOL: str(FORMAT), _BASE: made_from or base, _TIME: str(mtime)}
    if made_from:
        scripts = [(one.name, one.content, one.internet, one.timeout) for one in plan.software.scripts]
        software = zip(_SOFTWARE, (sorted(plan.software.packages), scripts), strict=True)
        parts |= {_DRESSED: base} | {label: _short(value) for label, value in software if value}
    parts |= dict(_manifest(cluster, plan.node))
    for label, digest in entries:
        parts[label] = hashlib.sha256((parts.get(label, "") + digest).encode()).hexdigest()
    return Recipe(name, parts)


def _entry(entry: Entry) -> str:
    """The digest of an entry, with a secret content too: recipes are kept as secrets are."""
    shown = replace(entry, content=b"", source="", overrides=())
    return hashlib.sha256(repr(shown).encode() + b"\0" + entry.content).hexdigest()


def _manifest(cluster: Cluster, node: Node) -> Iterator[tuple[str, str]]:
    for each in fields(node):
        if each.name != "packages":  # those of layers count too (_SOFTWARE)
            yield f"{_OWN}{each.name}", _short(getattr(node, each.name))
    for each in fields(cluster):
        if each.name not in ("nodes", "folder", "digest", "base", "release", "architecture"):
            yield f"{_SHARED}{each.name}", _short(getattr(cluster, each.name))
    yield f"{_SHARED}hosts", _short([(other.name, other.address) for other in cluster.nodes])


def _short(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def changes(before: Mapping[str, str], now: Recipe) -> Sequence[str]:
    """What changed since a recipe with the parts ``before``, in words; the fewest that tell it."""
    labels = [label for label in {**now.parts, **before} if before.get(label) != now.parts.get(label)]
    if _TOOL in labels:
        return ["another version of piimg"]
    shared = [label.removeprefix(_SHARED) for label in labels if label.startswith(_SHARED)]
    own = [label.removeprefix(_OWN) for label in labels if label.startswith(_OWN)]
    named = [f"{name} changed" for name in dict.fromkeys([*own, *shared])]
    dressing = [text for label, text in _SOFTWARE.items() if label in labels]
    if _BASE in labels:
        named.insert(0, "another base image")
    elif _DRESSED in labels:
        named = [*(dressing or ["packages installed anew"]), *named]
    if not named and labels and {label.rpartition(" ")[2] for label in labels} <= _WITH_DIGEST:
        named = ["the manifest changed"]  # in a comment, or for another node
    elif not named:
        for label in labels:
            layer, _, path = label.removeprefix(_FILE).rpartition(" ")
            what = "is new" if label not in before else "is gone" if label not in now.parts else "changed"
            named.append(
                f"{path} of the layer {layer} {what}" if label.startswith(_FILE) else "the time changed"
            )
    return named


def reason(before: Mapping[str, str] | None, now: Recipe, *, kept: bool = False) -> str:
    """Why a node is prepared, in words.

    ``before`` are the parts of the last recipe. None: there is none; or it was ``kept``, and cannot be read.
    """
    if before is None:
        return "its record is damaged, or of another version of piimg" if kept else "not prepared yet"
    return in_short(changes(before, now) or ["its files were damaged"])


def in_short(named: Sequence[str]) -> str:
    """The first few of ``named`` changes, and how many more there are."""
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return ", ".join(named[:_SHOWN]) + more
