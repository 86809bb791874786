"""A cluster folder: where the manifest, overlays, keys, state and results lie, and what is read from them.

cluster.toml        the manifest; any other name will do
secrets.toml        the secrets that the manifest names, for the command line (0600)
images.toml         base images of the cluster's own, by name
overlays/           layers of the cluster's own
state/CLUSTER/      keys, the history of the cards, and what else must outlive a build (0700)
build/              node images, unless another folder is named
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from imagebuilder import manifest
from imagebuilder.base.catalogue import is_file, lookup
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Cluster, Release
from imagebuilder.overlay.layer import Overlays
from imagebuilder.resources import shipped


def shipped_catalogue() -> Path:
    """The images.toml that comes with piimg."""
    return shipped("manifests") / "images.toml"


@dataclass(frozen=True)
class Workspace:
    """The cluster folder of the manifest ``file``. Nothing is read before it is asked for."""

    file: Path

    @cached_property
    def cluster(self) -> Cluster:
        """The checked manifest. Raises UsageError with every error in it."""
        return manifest.load(self.file, layers=self.overlays.names(), architecture=self._architecture)

    def _architecture(self, base: str) -> str | None:
        """A base image's architecture where a catalogue knows it; files and URLs are examined later."""
        if is_file(base):
            return None
        try:
            return lookup(base, self.catalogues, self.folder).architecture or None
        except PiimgError:
            return None  # fetching it will say what is wrong with the name

    @property
    def release(self) -> Release:
        """The release of the manifest's base image. Raises UsageError when only the image can tell."""
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
                f"which release {cluster.base} is, only the image can tell",
                'name it: --release bookworm, or release = "bookworm" under [cluster] in the manifest',
            )
        return known

    @property
    def folder(self) -> Path:
        """The cluster folder: where the manifest lies."""
        return self.file.resolve().parent

    @property
    def overlays(self) -> Overlays:
        """The shipped layers, and those in overlays/ of the cluster folder."""
        own = self.folder / "overlays"
        return Overlays(shipped("overlays"), own if own.is_dir() else None)

    @property
    def catalogues(self) -> tuple[Path, ...]:
        """The images.toml files that name base images: the shipped one, then the cluster's own."""
        first, own = shipped_catalogue(), self.folder / "images.toml"
        return (first, own) if own.exists() and own != first else (first,)

    @property
    def secrets(self) -> Path:
        """The file with the secrets that the manifest names; it may be missing."""
        return self.cluster.folder / "secrets.toml"

    @property
    def state(self) -> Path:
        """The cluster's state folder (0700); made when something is first kept in it."""
        return self.folder / "state" / self.cluster.name

    def keys(self, keep: bool = True) -> KeyStore:
        """The cluster's keys. With ``keep`` False a missing key is made for this call only, and not kept."""
        return KeyStore(self.state, keep)

    @property
    def images(self) -> Path:
        """Where node images are built, unless another folder is named."""
        return self.folder / "build"
