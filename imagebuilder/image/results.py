"""What a build leaves: NODE.img, NODE.bmap and NODE.json, and the document that says what went in."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image.bmap import BlockMap
from imagebuilder.model import HOME, Cluster, Entry, Kind, NodePlan
from imagebuilder.reading import LARGE, read_regular
from imagebuilder.system import files
from imagebuilder.version import __version__

if TYPE_CHECKING:
    from imagebuilder.image.base.opening import Base


@dataclass(frozen=True)
class Results:
    """The files of one node's build in ``folder``. NODE.json is there only when the set is whole."""

    folder: Path
    node: str

    @property
    def image(self) -> Path:
        """The node image, flashable by any tool."""
        return self.folder / f"{self.node}.img"

    @property
    def block_map(self) -> Path:
        """Its block map, bmap 2.0."""
        return self.folder / f"{self.node}.bmap"

    @property
    def json(self) -> Path:
        """What went in."""
        return self.folder / f"{self.node}.json"

    @property
    def lock(self) -> Path:
        """Locked while the node is built."""
        return self.folder / f".{self.node}.lock"

    def check(self) -> None:
        """Raise OSError unless each of the files may be made or replaced: one may lead to a device."""
        for file in (self.image, self.block_map, self.json):
            files.check(file)

    def clear(self) -> None:
        """Take an older set away, but for the image, which is replaced next. Raises OSError.

        The JSON goes first, so that it never names files of two builds.
        """
        for file in (self.json, self.block_map):
            files.remove(file)

    def remove_partials(self) -> None:
        """Remove what a killed build of this node left unfinished. Call with the lock held."""
        for file in (self.image, self.block_map, self.json):
            for partial in self.folder.glob(f".{file.name}.*.partial"):
                if partial.is_dir():
                    shutil.rmtree(partial)  # a root partition that was being grown
                else:
                    partial.unlink(missing_ok=True)


def built_image(folder: Path, node: str) -> Path:
    """The file of a node image. Raises UsageError when it is not built, or not to the end."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", node):
        raise UsageError(f"{node!r} is no node's name", "see the nodes with: piimg plan")
    results = Results(folder, node)
    for file in (results.json, results.image, results.block_map):
        if not file.is_file():
            raise UsageError(f"{node} is not built: there is no {file}", f"piimg build --node {node}")
    return results.image


def built(folder: Path) -> tuple[str, ...]:
    """The nodes with a whole set of results in ``folder``, sorted."""
    return tuple(sorted(file.stem for file in folder.glob("*.json") if file.with_suffix(".img").is_file()))


def read_document(file: Path) -> Mapping[str, Any]:
    """NODE.json as written by a build. Raises PiimgError when it is missing or not one."""
    try:
        document = json.loads(read_regular(file, LARGE))
    except FileNotFoundError:
        raise PiimgError(f"there is no {file}", f"piimg build --node {file.stem}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PiimgError(f"cannot read {file}: {error}", f"piimg build --node {file.stem}") from error
    if not isinstance(document, dict) or not isinstance(document.get("tree_digest"), str):
        raise PiimgError(f"{file} is not the result of a build", f"piimg build --node {file.stem}")
    return document


def home_of(document: Mapping[str, Any]) -> str:
    """Where NODE.json says that UID 1000 lived in the base image."""
    base = document.get("base")
    home = base.get("home") if isinstance(base, dict) else None
    return home if isinstance(home, str) and home.startswith("/") else HOME


def results_document(
    cluster: Cluster, plan: NodePlan, base: "Base", block_map: BlockMap, tree_digest: str, mtime: int
) -> dict[str, object]:
    """The content of NODE.json. A secret's content is not in it, not even as a digest."""
    return {
        "piimg": __version__,
        "cluster": cluster.name,
        "node": plan.node.name,
        "manifest_digest": cluster.digest,
        "release": plan.release.value,
        "base": {
            "name": base.name,
            "sha256": base.digest,
            "description": base.info.pretty,
            "home": base.home,
            "findings": [one.name for one in base.findings],
        },
        "image": {
            "file": f"{plan.node.name}.img",
            "size": block_map.image_size,
            "used": block_map.used,
            "disk_id": base.table.disk_id,
        },
        "tree_digest": tree_digest,
        "source_date_epoch": mtime,
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
    if entry.digest:
        document |= {"size": len(entry.content), "sha256": entry.digest}
    if entry.kind in (Kind.LINES, Kind.WORDS) and not entry.secret:
        text = entry.content.decode("utf-8", "surrogateescape")
        if entry.section:
            document["section"] = entry.section
        document["added"] = text.splitlines() if entry.kind is Kind.LINES else text.split()
    if entry.kind is Kind.NETPLAN:
        document["interfaces"] = entry.content.decode().split()
    return document
