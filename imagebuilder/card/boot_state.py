"""The state of a card: never flashed, flashed and never booted, or booted since.

A first boot leaves traces: a new random disk id (by which cmdline.txt then names the root), a larger root
partition, and the results of piimg's own scripts. Only traces that no flipped bit could produce count as
evidence, and all of them are reported. Reads from a card are bounded, and its content is shown only after it
was checked.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from imagebuilder.device.existing import unfinished_on
from imagebuilder.device.identity import Carried
from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4, fat
from imagebuilder.image.firstboot import CONSUMED
from imagebuilder.image.inspect import FIRSTBOOT, FIRSTBOOT_LIMIT
from imagebuilder.image.partitions import Slice, Table, read_table

_CMDLINE_LIMIT = 1 << 16  # bytes
_CMDLINE = "/cmdline.txt"
_NEAR = 16 << 20  # bytes; a root partition that ends this close to the end of the card was grown to it


class BootState(StrEnum):
    """The state of a card since it was flashed."""

    NEVER_FLASHED = "never flashed"
    NEVER_BOOTED = "flashed and never booted"
    BOOTED = "booted since"


@dataclass(frozen=True)
class CardState:
    """The state, the evidence for it, and further notes; all of it printable."""

    state: BootState
    evidence: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """One side of the comparison: the card, or the node image it was flashed from."""

    path: Path
    table: Table
    root: Slice | None
    summary: Mapping[str, str]
    cmdline: bytes


def never_flashed(device: Path, carried: Carried, node: str = "", cluster: str = "") -> CardState | None:
    """The state of a card that does not carry ``node`` of ``cluster``; None when it does.

    Without ``node``, any node that piimg wrote is accepted. Raises PiimgError when the card cannot be read.
    """
    if carried.node and (carried.node, carried.cluster) == (node or carried.node, cluster or carried.cluster):
        return None
    if carried.node:
        wanted = f"not {node} of {cluster}" if node else f"not one of {cluster}"
        return CardState(
            BootState.NEVER_FLASHED, (f"it carries {carried.node} of {carried.cluster or '?'}, {wanted}",)
        )
    try:
        read_table(device)
    except PiimgError as error:
        if isinstance(error.__cause__, OSError):
            raise
        unfinished = unfinished_on(device)
        reason = "it has no partition table (MBR); a flash that was interrupted leaves none"
        if unfinished is not None:
            reason = f"the writing of {unfinished.named() or 'an image'} to it was interrupted"
    else:
        reason = "no file piimg.json on a boot partition says which node it carries"
    return CardState(BootState.NEVER_FLASHED, (reason,))


def state_of(device: Path, image: Path, manifest: str, identity: str) -> CardState:
    """Whether a card that was flashed with ``image`` was booted since.

    ``manifest`` is the digest of the manifest that the image was built from, ``identity`` the digest that the
    card states. Raises PiimgError when the node image cannot be read; data missing on a card is no evidence.
    """
    card, source = _read_source(device), _read_source(image)
    evidence = list(_evidence(card, source))
    notes = list(_notes(card, source, evidence))
    if manifest != identity:
        notes.append("it was flashed from another manifest than the present node image")
    if not evidence:
        return CardState(BootState.NEVER_BOOTED, ("there is no sign of a boot",), tuple(notes))
    removed = set(source.cmdline.split()) - set(card.cmdline.split())
    consumed = sorted(word for word in removed if CONSUMED.fullmatch(word))
    if consumed and card.cmdline:
        words = b", ".join(consumed).decode("ascii", "replace")
        evidence.append(f"cmdline.txt no longer has the words for the first boot: {words}")
    return CardState(BootState.BOOTED, tuple(evidence), tuple(notes))


def _read_source(path: Path) -> _Source:
    table = read_table(path)
    boot, start = table.boot_start, table.root_start
    root = next((part for part in table.slices if part.start == start), None)
    summary: Mapping[str, str] = {}
    cmdline = b""
    try:
        cmdline = (fat.read_file(path, boot, _CMDLINE, _CMDLINE_LIMIT) if boot is not None else b"") or b""
        summary = ext4.superblock(path, root.start) if root else {}
    except PiimgError:
        pass  # damaged; if it was not booted, the comparison of all bytes finds it
    return _Source(path, table, root, summary, cmdline)


def _evidence(card: _Source, image: _Source) -> Iterator[str]:
    results = _results(card)
    if results:
        boots = results.get("boots")
        count = f", {boots} boot{'s' * (boots != 1)}" if isinstance(boots, int) and 0 <= boots < 10**6 else ""
        finished = ", all done" if results.get("finished") is True and not _failed(results) else ""
        yield f"it has first-boot results{count}{finished}"
    if card.table.disk_id != image.table.disk_id and _names_root(card) and not _other_base(card, image):
        yield f"its disk id is {card.table.disk_id} (it was {image.table.disk_id}), and cmdline.txt uses it"
    if card.root and image.root and card.root.start == image.root.start:
        grown = card.root.size - image.root.size
        if grown > 0 and abs(card.table.size - card.root.end) <= _NEAR:
            yield f"its root partition was grown to the end of the card, by {grown} bytes"
    mounted = "Last mounted on"
    if card.summary.get(mounted) == "/" != image.summary.get(mounted):
        yield "its root file system was last mounted as /"


def _results(card: _Source) -> Mapping[str, Any]:
    boot = card.table.boot_start
    try:
        content = fat.read_file(card.path, boot, FIRSTBOOT, FIRSTBOOT_LIMIT) if boot is not None else None
        document = json.loads(content or b"")
    except (PiimgError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and isinstance(document.get("scripts"), list) else {}


def _failed(results: Mapping[str, Any]) -> bool:
    scripts = results["scripts"]
    return any(not isinstance(script, dict) or script.get("status") != "done" for script in scripts)


def _names_root(card: _Source) -> bool:
    """Whether cmdline.txt names the root by this disk id. A flipped bit would change only one of the two."""
    return f"partuuid={card.table.disk_id}-".encode() in card.cmdline.lower()


def _other_base(card: _Source, image: _Source) -> bool:
    """Whether the card was flashed from another base image: its file system has another UUID."""
    ids = [source.summary.get("Filesystem UUID", "") for source in (card, image)]
    return all(ids) and ids[0] != ids[1]


def _notes(card: _Source, image: _Source, evidence: list[str]) -> Iterator[str]:
    if _other_base(card, image):
        yield "it was flashed from another base image than the present node image"
    if not evidence:
        return
    if "needs_recovery" in card.summary.get("Filesystem features", "").split():
        yield "it was not shut down cleanly: changes that are only in its journal are not seen"
    if card.cmdline and not _names_root(card):
        yield "cmdline.txt does not name the root by the card's disk id: the card may not boot"
