"""Network profiles that NetworkManager on a booted card has moved to netplan's folder.

Raspberry Pi's NetworkManager on Trixie stores profiles through netplan: a change by nmcli or an upgrade of
the package moves a keyfile to ``/etc/netplan/90-NM-UUID.yaml``. The UUID identifies the keyfile.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from imagebuilder.image import netplan
from imagebuilder.image.netplan import Definition, NotUnderstoodError, Settings
from imagebuilder.image.snapshot import Snapshot
from imagebuilder.model import Partition


@dataclass(frozen=True)
class StoredProfiles:
    """The node's own keyfiles (``own``, by path), and their state on the card.

    ``places`` are their paths in netplan's folder, ``taken`` the settings there. ``files`` are all files of
    the folder, with their definitions or the reason why they cannot be parsed.
    """

    own: Mapping[str, Settings]
    places: Mapping[str, str]
    taken: Mapping[str, Settings]
    files: Mapping[str, tuple[Definition, ...] | str]

    def others(self, interfaces: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Files that set up one of ``interfaces`` and are not the node's own profiles, with the reason."""
        uuids = {settings.uuid for settings in self.own.values()}
        for path, found in self.files.items():
            if isinstance(found, str):
                yield path, f"it {found}, so it may set up {' or '.join(interfaces)}"
                continue
            others = [definition for definition in found if definition.uuid not in uuids]
            names = [name for name in interfaces if any(other.sets_up(name) for other in others)]
            if names:
                yield path, f"it sets up {' and '.join(names)}"


def stored_profiles(card: Snapshot, keyfiles: Mapping[str, bytes]) -> StoredProfiles:
    """Read netplan's folder of ``card`` and find the profiles of ``keyfiles``, which are by path."""
    own: dict[str, Settings] = {}
    for path, content in keyfiles.items():
        try:
            own[path] = netplan.keyfile(content)
        except NotUnderstoodError:
            continue  # a file of the cluster's own layer may be invalid
    files = dict(_files(card))
    places: dict[str, str] = {}
    taken: dict[str, Settings] = {}
    for path, settings in own.items():
        if not settings.uuid:
            continue
        named = f"{netplan.FOLDER}/90-NM-{settings.uuid}.yaml"
        if named in files:
            places[path] = named
        for file, found in files.items():
            for definition in found if not isinstance(found, str) else ():
                if definition.uuid == settings.uuid:
                    places[path], taken[path] = file, definition.settings
    return StoredProfiles(own, places, taken, files)


def _files(card: Snapshot) -> Iterator[tuple[str, tuple[Definition, ...] | str]]:
    names = [name for name in card.names(netplan.FOLDER) if name.endswith(".yaml") and name.isprintable()]
    paths = [f"{netplan.FOLDER}/{name}" for name in sorted(names)[: netplan.COUNT_LIMIT]]
    card.learn(paths)
    there = {path: card.stats[path] for path in paths if path in card.stats}
    sizes = {path: found.size for path, found in there.items() if found.size <= netplan.LIMIT}
    card.read_root({path: size for path, size in sizes.items() if there[path].kind == "regular"})
    for path in there:
        content = card.contents.get((Partition.ROOT, path))
        try:
            yield path, "cannot be read" if content is None else netplan.definitions(content)
        except NotUnderstoodError as error:
            yield path, str(error)
