"""Results of a build: NODE.img, NODE.bmap, and NODE.json, which describes the content of the image."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image.bmap import BlockMap
from imagebuilder.model import ADDING, HOME, Cluster, Entry, Kind, NodePlan
from imagebuilder.reading import LARGE, read_regular
from imagebuilder.system import files
from imagebuilder.version import __version__

if TYPE_CHECKING:
    from imagebuilder.image.base.opening import Base


@dataclass(frozen=True)
class Results:
    """The result files of a node in ``folder``. NODE.json exists only if the set is complete."""

    folder: Path
    node: str

    @property
    def image(self) -> Path:
        """The node image, which any tool can write to a card."""
        return self.folder / f"{self.node}.img"

    @property
    def block_map(self) -> Path:
        """Its block map, bmap 2.0."""
        return self.folder / f"{self.node}.bmap"

    @property
    def json(self) -> Path:
        """The description of the image's content."""
        return self.folder / f"{self.node}.json"

    @property
    def lock(self) -> Path:
        """The lock file, locked during a build of the node."""
        return self.folder / f".{self.node}.lock"

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All of them."""
        return self.image, self.block_map, self.json

    def check(self) -> None:
        """Raise OSError unless each of the files may be created or replaced; a link may lead to a device."""
        for file in self.files:
            files.check(file)

    def clear(self) -> None:
        """Remove an older set, except the image, which is replaced next. Raises OSError.

        NODE.json is removed first, so that it never describes files of two builds.
        """
        for file in (self.json, self.block_map):
            files.remove(file)

    def remove_partials(self) -> None:
        """Remove the partial files of a killed build of this node. The caller must have the lock."""
        for file in (self.image, self.block_map, self.json):
            for partial in self.folder.glob(f".{file.name}.*.partial"):
                if partial.is_dir():
                    shutil.rmtree(partial)  # a root partition that was being grown
                else:
                    partial.unlink(missing_ok=True)


def built_image(folder: Path, node: str) -> Path:
    """The file of a node image. Raises UsageError if the set of results is missing or incomplete."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", node):
        raise UsageError(f"{node!r} is not the name of a node", "list the nodes with: piimg plan")
    results = Results(folder, node)
    for file in (results.json, results.image, results.block_map):
        if not file.is_file():
            raise UsageError(f"{node} is not built: {file} is missing", f"run: piimg build --node {node}")
    return results.image


def built(folder: Path) -> tuple[str, ...]:
    """The nodes with a complete set of results in ``folder``, sorted."""
    return tuple(sorted(file.stem for file in folder.glob("*.json") if file.with_suffix(".img").is_file()))


def read_document(file: Path) -> Mapping[str, Any]:
    """The document of NODE.json. Raises PiimgError when it is missing or invalid."""
    try:
        document = json.loads(read_regular(file, LARGE))
    except FileNotFoundError:
        raise PiimgError(f"{file} is missing", f"run: piimg build --node {file.stem}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PiimgError(f"cannot read {file}: {error}", f"run: piimg build --node {file.stem}") from error
    if not isinstance(document, dict) or not isinstance(document.get("tree_digest"), str):
        raise PiimgError(f"{file} is not the result of a build", f"run: piimg build --node {file.stem}")
    return document


def home_of(document: Mapping[str, Any]) -> str:
    """The home of UID 1000 in the base image, by NODE.json."""
    base = document.get("base")
    home = base.get("home") if isinstance(base, dict) else None
    return home if isinstance(home, str) and home.startswith("/") else HOME


def results_document(
    cluster: Cluster, plan: NodePlan, base: "Base", block_map: BlockMap, tree_digest: str, mtime: int
) -> dict[str, object]:
    """The content of NODE.json, without secrets and their digests."""
    return {
        "piimg": __version__,
        "cluster": cluster.name,
        "node": plan.node.name,
        "manifest_digest": cluster.digest,
        "release": plan.release.value,
        "base": {
            "name": base.name,
            "sha256": base.made_from or base.digest,
            "dressed": base.digest if base.made_from else "",
            "description": base.info.pretty,
            "home": base.home,
            "findings": [finding.name for finding in base.findings],
        },
        "image": {
            "file": f"{plan.node.name}.img",
            "size": block_map.image_size,
            "used": block_map.used,
            "disk_id": base.table.disk_id,
        },
        "tree_digest": tree_digest,
        "source_date_epoch": mtime,
        "packages": [
            {"name": package.name, "version": package.version, "architecture": package.architecture}
            for package in base.packages
        ],
        "layers": list(plan.layers),
        "entries": [entry_document(entry) for entry in plan.entries],
    }


def entry_document(entry: Entry) -> dict[str, object]:
    """An entry as data, for NODE.json and `piimg plan --json`."""
    document: dict[str, object] = {
        "partition": entry.partition.value,
        "path": entry.path,
        "kind": entry.kind.value,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "layer": entry.layer,
        "overrides": list(entry.overrides),
        "secret": entry.secret,
    }
    if entry.target:
        document["target"] = entry.target
    if entry.download:
        document["download"] = {
            "url": entry.download.url,
            "sha256": entry.download.sha256,
            "unpack": entry.download.unpack,
        }
    if entry.digest:
        document |= {"size": len(entry.content), "sha256": entry.digest}
    if entry.kind in ADDING and not entry.secret:
        text = entry.content.decode("utf-8", "surrogateescape")
        if entry.section:
            document["section"] = entry.section
        words = text.splitlines() if entry.kind is Kind.LINES else text.split()
        document["added"] = [] if entry.kind is Kind.NO_WORDS else words
        if entry.kind is Kind.NO_WORDS:
            document["removed"] = words
    if entry.kind is Kind.NETPLAN:
        document["interfaces"] = entry.content.decode().split()
    return document
