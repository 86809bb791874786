"""What became of a card since it was flashed: never flashed, flashed and never booted, or booted since.

A first boot leaves marks: it draws a new disk id (and names the root by it), grows the root partition, and
piimg's own scripts leave their results. Any one of these that no flipped bit could make is evidence, and is
told. A card is read with bounds, and nothing that it says is shown unless it is known what it may be.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from imagebuilder.device.identity import Carried
from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4, fat
from imagebuilder.image.firstboot import CONSUMED
from imagebuilder.image.inspect import FIRSTBOOT, FIRSTBOOT_LIMIT
from imagebuilder.image.partitions import Slice, Table, read_table

_CMDLINE_LIMIT = 1 << 16  # bytes
_CMDLINE = "/cmdline.txt"
_NEAR = 16 << 20  # bytes; a root partition that ends so close to the card's end was grown to it


class BootState(StrEnum):
    """What became of a card."""

    NEVER_FLASHED = "never flashed"
    NEVER_BOOTED = "flashed and never booted"
    BOOTED = "booted since"


@dataclass(frozen=True)
class CardState:
    """The state, what says so, and what else should be known; all of it printable."""

    state: BootState
    evidence: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Side:
    """The card, or the node image it was flashed from."""

    path: Path
    table: Table
    root: Slice | None
    summary: Mapping[str, str]
    cmdline: bytes


def never_flashed(device: Path, held: Carried, node: str = "", cluster: str = "") -> CardState | None:
    """The state of a card that does not carry ``node`` of ``cluster``; None when it does.

    Without a node, any that piimg put there will do. Raises PiimgError when the card cannot be read.
    """
    if held.node and (held.node, held.cluster) == (node or held.node, cluster or held.cluster):
        return None
    if held.node:
        wanted = f"not {node} of {cluster}" if node else f"not one of {cluster}"
        return CardState(
            BootState.NEVER_FLASHED, (f"it carries {held.node} of {held.cluster or '?'}, {wanted}",)
        )
    try:
        read_table(device)
    except PiimgError as error:
        if isinstance(error.__cause__, OSError):
            raise
        reason = "it has no partition table (MBR); a flash that was interrupted leaves none"
    else:
        reason = "no file piimg.json on a boot partition says which node it carries"
    return CardState(BootState.NEVER_FLASHED, (reason,))


def state_of(device: Path, image: Path, manifest: str, identity: str) -> CardState:
    """Whether a card that was flashed with ``image`` was booted since.

    ``manifest`` is the digest of the manifest the image was built from, ``identity`` what the card says it
    is. Raises PiimgError when the node image cannot be read; what a card does not give is no evidence.
    """
    card, source = _side(device), _side(image)
    evidence = list(_evidence(card, source))
    notes = list(_notes(card, source, evidence))
    if manifest != identity:
        notes.append("it was flashed from another manifest than the node image that is there now")
    if not evidence:
        return CardState(BootState.NEVER_BOOTED, ("there is no sign of a boot",), tuple(notes))
    lost = set(source.cmdline.split()) - set(card.cmdline.split())
    consumed = sorted(word for word in lost if CONSUMED.fullmatch(word))
    if consumed and card.cmdline:
        gone = b", ".join(consumed).decode("ascii", "replace")
        evidence.append(f"cmdline.txt has lost what is for the first boot: {gone}")
    return CardState(BootState.BOOTED, tuple(evidence), tuple(notes))


def _side(path: Path) -> _Side:
    table = read_table(path)
    boot, start = table.boot_start, table.root_start
    root = next((one for one in table.slices if one.start == start), None)
    summary: Mapping[str, str] = {}
    cmdline = b""
    try:
        cmdline = (fat.read_file(path, boot, _CMDLINE, _CMDLINE_LIMIT) if boot is not None else b"") or b""
        summary = ext4.superblock(path, root.start) if root else {}
    except PiimgError:
        pass  # damaged; if it was not booted, the bytes will tell
    return _Side(path, table, root, summary, cmdline)


def _evidence(card: _Side, image: _Side) -> Iterator[str]:
    results = _results(card)
    if results:
        boots = results.get("boots")
        count = f", {boots} boot{'s' * (boots != 1)}" if isinstance(boots, int) and 0 <= boots < 10**6 else ""
        over = ", all done" if results.get("finished") is True and not _failed(results) else ""
        yield f"it has first-boot results{count}{over}"
    if card.table.disk_id != image.table.disk_id and _names_root(card) and not _other_base(card, image):
        yield f"its disk id is {card.table.disk_id}, and was {image.table.disk_id}; cmdline.txt goes with it"
    if card.root and image.root and card.root.start == image.root.start:
        grown = card.root.size - image.root.size
        if grown > 0 and abs(card.table.size - card.root.end) <= _NEAR:
            yield f"its root partition was grown to the end of the card, by {grown} bytes"
    mounted = "Last mounted on"
    if card.summary.get(mounted) == "/" != image.summary.get(mounted):
        yield "its root file system was mounted as / last"


def _results(card: _Side) -> Mapping[str, Any]:
    boot = card.table.boot_start
    try:
        found = fat.read_file(card.path, boot, FIRSTBOOT, FIRSTBOOT_LIMIT) if boot is not None else None
        document = json.loads(found or b"")
    except (PiimgError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and isinstance(document.get("scripts"), list) else {}


def _failed(results: Mapping[str, Any]) -> bool:
    scripts = results["scripts"]
    return any(not isinstance(one, dict) or one.get("status") != "done" for one in scripts)


def _names_root(card: _Side) -> bool:
    """Whether cmdline.txt names the root by this disk id: a flipped bit changes only one of the two."""
    return f"partuuid={card.table.disk_id}-".encode() in card.cmdline.lower()


def _other_base(card: _Side, image: _Side) -> bool:
    """Whether the card was flashed from another base image: its file system has another UUID."""
    ids = [side.summary.get("Filesystem UUID", "") for side in (card, image)]
    return all(ids) and ids[0] != ids[1]


def _notes(card: _Side, image: _Side, evidence: list[str]) -> Iterator[str]:
    if _other_base(card, image):
        yield "it was flashed from another base image than the node image that is there now"
    if not evidence:
        return
    if "needs_recovery" in card.summary.get("Filesystem features", "").split():
        yield "it was not shut down cleanly: what only its journal holds is not seen"
    if card.cmdline and not _names_root(card):
        yield "cmdline.txt does not name the root by the card's disk id: it may not start"
