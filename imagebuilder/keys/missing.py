"""Whether a cluster had keys that are missing now: new ones must not be made silently then.

The names of the keys that a manifest's cluster has are noted beside the manifest, outside of state/. The note
contains no secret, so it can be committed. Where it is missing too, other traces count: node images, prepared
nodes and a history of the cluster, and keys in the state folder of a cluster that no manifest here has.
"""

import contextlib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import UsageError
from imagebuilder.reading import LARGE, SMALL, read_regular
from imagebuilder.system import files

NOTE = ".piimg-keys.json"
GATEWAY_KEY = "gateway-key"
MUNGE_KEY = "munge-key"
HOST_KEYS = "host-keys"
_SHOWN = 4  # names in a message
_MOST = 100  # files that are looked at


class KeysMissing(UsageError):
    """A cluster had keys, and they are missing."""


@dataclass(frozen=True)
class KeyPlace:
    """Where the keys of a cluster are: ``state`` is its state folder, ``manifest`` the file of its manifest.

    ``nodes`` are the names of its nodes.
    """

    state: Path
    manifest: Path
    nodes: tuple[str, ...]

    @property
    def cluster(self) -> str:
        """The name of the cluster."""
        return self.state.name

    @property
    def folder(self) -> Path:
        """The cluster folder."""
        return self.state.parent.parent

    @property
    def note(self) -> Path:
        """The file of the note."""
        return self.folder / NOTE

    @property
    def has_keys(self) -> bool:
        """Whether there are keys of this cluster."""
        return (self.state / GATEWAY_KEY).exists() or any((self.state / HOST_KEYS).glob("*"))

    def remember(self, keys: Sequence[str]) -> None:
        """Note the names of the cluster's keys. Raises OSError."""
        notes = _notes(self.note)
        now = {"cluster": self.cluster, "keys": sorted(keys)}
        if notes.get(self.manifest.name) != now:
            files.write_json(self.note, notes | {self.manifest.name: now})
            files.hand_over(self.note, self.folder)


def missing_keys(place: KeyPlace, *, on_a_card: bool = False) -> KeysMissing | None:
    """The error that says which keys are missing and what that means; None if none are known to be.

    ``on_a_card``: a card of this cluster is at hand. Nothing is written.
    """
    cluster, had = _noted(place)
    wanted = {GATEWAY_KEY, MUNGE_KEY, "user-key", *(f"{HOST_KEYS}/{node}" for node in place.nodes)}
    missing = [name for name in had if name in wanted and not (place.state / name).exists()]
    if place.has_keys:
        if not missing:
            return None
        return _error(place, f"{_few(missing)} {_are(missing)} missing in {place.state}")
    elsewhere = [cluster] if cluster not in ("", place.cluster) else list(_orphans(place))
    for name in elsewhere:
        if (place.folder / "state" / name / GATEWAY_KEY).exists():
            return _error(place, f"its keys are those of {name} in {place.folder / 'state' / name}", name)
    trace = "it had keys before" if missing else "a card of it is here" if on_a_card else _trace(place)
    return _error(place, f"{trace}, and {place.state} has none") if trace else None


def _error(place: KeyPlace, what: str, renamed_from: str = "") -> KeysMissing:
    state = place.folder / "state"
    way = f"restore {place.state} from a backup"
    if renamed_from:
        way = f"if the cluster was renamed: mv {state / renamed_from} {place.state}"
        if place.state.exists():
            way += f" (first move {place.state} away)"
    return KeysMissing(
        f"the keys of the cluster {place.cluster} are missing: {what}",
        f"{way}\n"
        "or have new ones made: add --new-keys to piimg build, flash, station or boot. Then the known hosts\n"
        "change, and cards that were flashed before have the old keys: flash every node again",
    )


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _few(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _noted(place: KeyPlace) -> tuple[str, list[str]]:
    """The cluster that the manifest had, and the names of its keys; empty if that was not noted."""
    note = _notes(place.note).get(place.manifest.name)
    if not isinstance(note, dict):
        return "", []
    cluster, keys = note.get("cluster"), note.get("keys")
    names = [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
    is_name = isinstance(cluster, str) and cluster not in (".", "..") and "/" not in cluster
    return (str(cluster) if is_name else ""), names


def _notes(file: Path) -> dict[str, object]:
    try:
        notes = json.loads(read_regular(file, LARGE))
    except (OSError, ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _trace(place: KeyPlace) -> str:
    """What says that this cluster was built or flashed before; empty if nothing does."""
    if any((place.state / "prepared").glob("*.json")):
        return "nodes of it were prepared"
    if (place.state / "cards.jsonl").exists():
        return "cards of it were written"
    for node in place.nodes[:_MOST]:
        if _document(place.folder / "build" / f"{node}.json").get("cluster") == place.cluster:
            return f"build/{node}.json is of it"
    return ""


def _document(file: Path) -> Mapping[str, object]:
    try:
        document = json.loads(read_regular(file, LARGE))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _orphans(place: KeyPlace) -> Iterator[str]:
    """The other clusters with keys for a node of this name, of which there is no manifest in the folder."""
    with contextlib.suppress(OSError):
        names = sorted(file.name for file in (place.folder / "state").iterdir() if file != place.state)[
            :_MOST
        ]
        claimed = _clusters_here(place) if names else ()
        for name in names:
            keys = place.folder / "state" / name / HOST_KEYS
            if name not in claimed and any((keys / node).exists() for node in place.nodes):
                yield name


def _clusters_here(place: KeyPlace) -> Collection[str]:
    """The names of the clusters of all manifests in the cluster folder."""
    found = set()
    for file in sorted(place.folder.glob("*.toml"))[:_MOST]:
        with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
            found.add(tomllib.loads(read_regular(file, SMALL).decode())["cluster"]["name"])
    notes = (note for name, note in _notes(place.note).items() if (place.folder / name).exists())
    found |= {note.get("cluster") for note in notes if isinstance(note, dict)}
    return found
