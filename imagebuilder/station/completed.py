"""The file of a station's completed nodes, each with its card, in the cluster's state folder.

A station that is started again reads it. A node counts as completed while its node image is the one that was
written; a node that was built again must be written again.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.device.reference import DiskRef
from imagebuilder.errors import PiimgError
from imagebuilder.history.store import Time, key_of, now, plain_reference
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.system import files

FILE = "station.json"
_LOCK = "station.lock"
_FORMAT = 1


@dataclass(frozen=True)
class CompletedNode(DiskRef):
    """The card of a node: ``image`` is the tree digest of the written image, ``key`` as in history.store.

    The other fields identify the card and its slot; ``size`` in bytes.
    """

    size: Annotated[int, Field(ge=0)]
    time: Time
    image: str
    verdict: Verdict
    key: str


@dataclass(frozen=True)
class _Document:
    format: Annotated[int, Field(ge=_FORMAT, le=_FORMAT)]
    nodes: dict[str, CompletedNode]


_FORM = TypeAdapter(_Document)


def completed_node(disk: Disk, report: CardReport, image: str) -> CompletedNode:
    """The record of a completed card; ``image`` is the tree digest of the written image."""
    return CompletedNode(
        time=now(),
        image=image,
        verdict=report.verdict,
        key=key_of(disk),
        **vars(plain_reference(disk)),
    )


def still_complete(
    nodes: Mapping[str, CompletedNode], digests: Mapping[str, str]
) -> dict[str, CompletedNode]:
    """The ``nodes`` with a card of what is written for them now: ``digests`` are the tree digests by node."""
    return {node: record for node, record in nodes.items() if record.image == digests.get(node)}


@dataclass(frozen=True)
class CompletedNodes:
    """The file of the completed nodes in the folder ``state``; it belongs to the owner of ``home``."""

    state: Path
    home: Path

    @property
    def file(self) -> Path:
        """The path of the file."""
        return self.state / FILE

    def locked(self, cluster: str) -> AbstractContextManager[Any]:
        """Lock out a second station of the cluster, which would write the same nodes. Raises PiimgError."""
        try:
            files.make_private(self.state, self.home)
        except OSError as error:
            raise PiimgError(
                f"cannot make {self.state}: {error.strerror}", "the cluster's folder must be writable"
            ) from error
        return files.locked(self.state / _LOCK, f"another station of {cluster} is running")

    def read(self) -> dict[str, CompletedNode]:
        """The records by node; empty without a file. Raises PiimgError when the file is not valid."""
        try:
            return _FORM.validate_json(read_regular(self.file, SMALL)).nodes
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            reason = (
                error.strerror if isinstance(error, OSError) else "it is not a valid file of piimg station"
            )
            raise PiimgError(
                f"{self.file} cannot be used: {reason}",
                "remove it, or write all nodes again with: piimg station --again",
            ) from error

    def kept(self, rewrite: Collection[str]) -> dict[str, CompletedNode]:
        """The nodes in the file except those in ``rewrite``, which will be written again.

        Raises PiimgError when the file is not valid; with any node in ``rewrite`` it counts as empty instead.
        """
        try:
            nodes = self.read()
        except PiimgError:
            if not rewrite:
                raise
            nodes = {}
        return {node: record for node, record in nodes.items() if node not in rewrite}

    def write(self, nodes: Mapping[str, CompletedNode]) -> None:
        """Replace the content of the file by ``nodes``. Raises OSError."""
        files.make_private(self.state, self.home)
        files.write(self.file, _FORM.dump_json(_Document(_FORMAT, dict(nodes)), indent=2) + b"\n", 0o600)
        files.hand_over(self.file, self.home)
