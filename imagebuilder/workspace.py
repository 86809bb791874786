"""The cluster folder: paths of manifest, overlays, keys, state and results.

cluster.toml        the manifest; the name is free
secrets.toml        the values of the secrets that the manifest names, for the command line (0600)
images.toml         the cluster's own base images, by name
overlays/           the cluster's own layers
.piimg-keys.json    the names of the keys that the cluster has, to notice when they are missing
state/CLUSTER/      keys, the history of the cards, and all other state that outlives a build (0700)
build/              node images, unless another folder is chosen
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from imagebuilder import manifest, toml
from imagebuilder.base.catalogue import is_file, lookup
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.keys.missing import KeyPlace, KeysMissing, missing_keys
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Cluster, Release
from imagebuilder.overlay.layer import Overlays
from imagebuilder.resources import shipped
from imagebuilder.system import files


def made_folder(folder: Path, home: Path) -> Path:
    """``folder``, created for the owner of ``home`` if it is missing; an existing folder keeps its owner.

    Raises PiimgError when it cannot be created.
    """
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            files.hand_over(folder, home)
    except OSError as error:
        raise PiimgError(
            f"cannot create {folder}: {error.strerror}", "choose another folder, or free some space"
        ) from error
    return folder


def shipped_catalogue() -> Path:
    """The images.toml that comes with piimg."""
    return shipped("manifests") / "images.toml"


@dataclass(frozen=True)
class Workspace:
    """The cluster folder of the manifest ``file``. Files are read on first use."""

    file: Path

    @cached_property
    def cluster(self) -> Cluster:
        """The checked manifest. Raises UsageError with all its errors."""
        return manifest.load(self.file, layers=self.overlays.names(), architecture=self._architecture)

    def check(self, name: Path) -> None:
        """Check the manifest, called ``name`` in errors. Raises UsageError with all its errors."""
        raw = toml.read(self.file)
        manifest.parse(raw, name, layers=self.overlays.names(), architecture=self._architecture)

    def _architecture(self, base: str) -> str | None:
        """The architecture of a base image, if a catalogue has it; files and URLs are examined later."""
        if is_file(base):
            return None
        try:
            return lookup(base, self.catalogues, self.folder).architecture or None
        except PiimgError:
            return None  # fetching it reports what is wrong with the name

    @property
    def release(self) -> Release:
        """The release of the manifest's base image. Raises UsageError if it is unknown without the image."""
        cluster, known = self.cluster, None
        if cluster.release:
            return cluster.release
        if not is_file(cluster.base):
            try:
                known = lookup(cluster.base, self.catalogues, self.folder).release
            except PiimgError as error:
                raise UsageError(error.message, error.hint) from error
        if known is None:
            raise UsageError(
                f"the release of {cluster.base} is not known",
                'get the image: piimg fetch; or set it: --release NAME, or release = "NAME" under [cluster]',
            )
        return known

    @property
    def folder(self) -> Path:
        """The cluster folder, which contains the manifest."""
        return self.file.resolve().parent

    @property
    def overlays(self) -> Overlays:
        """The shipped layers, and those in the cluster's own overlays/."""
        own = self.folder / "overlays"
        return Overlays(shipped("overlays"), own if own.is_dir() else None)

    @property
    def catalogues(self) -> tuple[Path, ...]:
        """The images.toml files that list base images: the shipped one, then the cluster's own."""
        first, own = shipped_catalogue(), self.folder / "images.toml"
        return (first, own) if own.exists() and own != first else (first,)

    @property
    def secrets(self) -> Path:
        """The file with the values of the manifest's secrets; it may be missing."""
        return self.cluster.folder / "secrets.toml"

    @property
    def state(self) -> Path:
        """The cluster's state folder (0700), created on first use."""
        return self.folder / "state" / self.cluster.name

    def keys(self, keep: bool = True, *, new: bool = False, on_a_card: bool = False) -> KeyStore:
        """The cluster's keys. With ``keep`` False a missing key is generated for this call and not stored.

        Otherwise raises KeysMissing when the cluster had keys that are missing, unless ``new``: then new ones
        are generated. ``on_a_card``: a card of this cluster is at hand, so it had keys.
        """
        missing = self.missing_keys(on_a_card=on_a_card) if keep and not new else None
        if missing is not None:
            raise missing
        return KeyStore(self.state, keep, self._key_place)

    def missing_keys(self, *, on_a_card: bool = False) -> KeysMissing | None:
        """The error of ``keys``, if the cluster had keys that are missing. Nothing is written."""
        return missing_keys(self._key_place, on_a_card=on_a_card)

    @property
    def has_keys(self) -> bool:
        """Whether there are keys of the cluster."""
        return self._key_place.has_keys

    @property
    def _key_place(self) -> KeyPlace:
        nodes = tuple(node.name for node in self.cluster.nodes)
        return KeyPlace(self.state, self.file, nodes)

    @property
    def images(self) -> Path:
        """The folder of node images, unless another one is chosen."""
        return self.folder / "build"
