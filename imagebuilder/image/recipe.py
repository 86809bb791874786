"""The recipe of a prepared node: a digest of all that it is made of, and its parts, to tell what changed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum

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
_SOFTWARE = {"packages": "packages", "scripts": "build scripts"}


class ChangeKind(StrEnum):
    """The kind of a change of what a node is made of."""

    SETTING = "setting"  # of the manifest, by its name
    SOFTWARE = "software"  # the packages or the build scripts
    REINSTALLED = "reinstalled"  # the same packages, installed again
    MANIFEST = "manifest"  # in a comment, or for another node
    PATH = "path"  # of a card, which differs from what the manifest gives
    PIIMG = "piimg"
    BASE = "base"
    TIME = "time"
    ENTRY = "entry"  # of a layer
    NEW_ENTRY = "new entry"
    REMOVED_ENTRY = "removed entry"
    FILES = "files"  # of the prepared node
    DAMAGED = "damaged"
    IMAGE = "image"


_NAMES: Mapping[ChangeKind, str] = {
    ChangeKind.REINSTALLED: "packages installed anew",
    ChangeKind.MANIFEST: "the manifest",
    ChangeKind.PIIMG: "another version of piimg",
    ChangeKind.BASE: "another base image",
    ChangeKind.TIME: "the time",
    ChangeKind.NEW_ENTRY: "{} is new",
    ChangeKind.REMOVED_ENTRY: "{} is gone",
    ChangeKind.FILES: "its files",
    ChangeKind.DAMAGED: "its files were damaged",
    ChangeKind.IMAGE: "another image",
}
"""The names of changes; {} stands for the subject, which is the name of all other kinds."""
_CHANGED = frozenset(
    {
        ChangeKind.SETTING, ChangeKind.SOFTWARE, ChangeKind.MANIFEST, ChangeKind.TIME, ChangeKind.ENTRY,
        ChangeKind.FILES,
    }
)  # fmt: skip
_BY_MANIFEST = frozenset(
    {
        ChangeKind.SETTING, ChangeKind.SOFTWARE, ChangeKind.REINSTALLED, ChangeKind.MANIFEST,
        ChangeKind.PATH,
    }
)  # fmt: skip


@dataclass(frozen=True)
class RecipeChange:
    """A change of what a node is made of. ``subject`` is what changed, "" if the kind says it all."""

    kind: ChangeKind
    subject: str = ""

    @property
    def name(self) -> str:
        """What changed, for a text that says itself that it changed."""
        return _NAMES.get(self.kind, "{}").format(self.subject)

    @property
    def text(self) -> str:
        """The change in words."""
        return f"{self.name} changed" if self.kind in _CHANGED else self.name

    @property
    def by_manifest(self) -> bool:
        """Whether the manifest is what changed: not piimg, a layer or the base image."""
        return self.kind in _BY_MANIFEST


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
        scripts = [
            (script.name, script.content, script.internet, script.timeout) for script in plan.software.scripts
        ]
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


def changes(before: Mapping[str, str], now: Recipe) -> Sequence[RecipeChange]:
    """What changed since a recipe with the parts ``before``: the fewest changes that explain it."""
    labels = [label for label in {**now.parts, **before} if before.get(label) != now.parts.get(label)]
    if _TOOL in labels:
        return [RecipeChange(ChangeKind.PIIMG)]
    shared = [label.removeprefix(_SHARED) for label in labels if label.startswith(_SHARED)]
    own = [label.removeprefix(_OWN) for label in labels if label.startswith(_OWN)]
    named = [RecipeChange(ChangeKind.SETTING, name) for name in dict.fromkeys([*own, *shared])]
    software = [
        RecipeChange(ChangeKind.SOFTWARE, name) for label, name in _SOFTWARE.items() if label in labels
    ]
    if _BASE in labels:
        named.insert(0, RecipeChange(ChangeKind.BASE))
    elif _DRESSED in labels:
        named = [*(software or [RecipeChange(ChangeKind.REINSTALLED)]), *named]
    if named:
        return named
    if labels and {label.rpartition(" ")[2] for label in labels} <= _WITH_DIGEST:
        return [RecipeChange(ChangeKind.MANIFEST)]
    return [_changed_entry(label, before, now) for label in labels]


def _changed_entry(label: str, before: Mapping[str, str], now: Recipe) -> RecipeChange:
    """The change of an entry, or of the time of all entries."""
    if not label.startswith(_FILE):
        return RecipeChange(ChangeKind.TIME)
    layer, _, path = label.removeprefix(_FILE).rpartition(" ")
    kind = ChangeKind.ENTRY
    if label not in before:
        kind = ChangeKind.NEW_ENTRY
    elif label not in now.parts:
        kind = ChangeKind.REMOVED_ENTRY
    return RecipeChange(kind, f"{path} of the layer {layer}")


def reason(before: Mapping[str, str] | None, now: Recipe, *, kept: bool = False) -> str:
    """Why a node is prepared, in words.

    ``before`` are the parts of the last recipe. None: there is none; or it was ``kept``, and cannot be read.
    """
    if before is None:
        return "its record is damaged, or of another version of piimg" if kept else "not prepared yet"
    return in_words(changes(before, now) or [RecipeChange(ChangeKind.DAMAGED)])


def in_words(found: Sequence[RecipeChange]) -> str:
    """The first few changes in words, and how many more there are."""
    return in_short([change.text for change in found])


def in_short(named: Sequence[str]) -> str:
    """The first few of ``named``, and how many more there are."""
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return ", ".join(named[:_SHOWN]) + more
