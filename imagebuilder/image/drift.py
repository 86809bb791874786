"""Drift: the differences between a booted card and its overlay.

A booted card cannot be compared byte by byte, because its first boot grew it and wrote to it. So each entry
of NODE.json is read from the card, without mounting it, and compared with its description there; secrets,
which NODE.json does not describe, and files that the first boot edits (see ``firstboot``) are compared with
the copy in the node image. A secret is never shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4, fat
from imagebuilder.image.firstboot import Change, Rule, account, rule_for
from imagebuilder.image.profiles import StoredProfiles, stored_profiles
from imagebuilder.image.snapshot import Snapshot, snapshot
from imagebuilder.image.tree import READ_LIMIT
from imagebuilder.image.untrusted import Damaged
from imagebuilder.model import ADDING, HOME, Kind, Partition
from imagebuilder.overlay import sections
from imagebuilder.text import printable

_LINKS = 8  # symbolic links followed at most
_FAST_LINK = 60  # bytes; a longer target is stored in a separate block
_BOOT_LIMIT = 1 << 20  # bytes; the least limit for reading a file of the boot partition
_SHOWN = 64  # characters of text from a card
_KINDS = {Kind.FILE: "regular", Kind.DIRECTORY: "directory", Kind.LINK: "symlink"}


@dataclass(frozen=True)
class ExpectedEntry:
    """An entry of NODE.json. ``added`` are the lines or words that it adds, ``removed`` the words that it
    removes; ``interfaces`` are those that no netplan file may set up."""

    partition: Partition
    path: str
    kind: Kind
    mode: Annotated[str, Field(pattern="^[0-7]{4}$")]
    uid: int
    gid: int
    layer: str
    secret: bool
    target: str = ""
    size: int = 0
    sha256: str = ""
    added: tuple[str, ...] | None = None
    removed: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    section: str = ""


@dataclass(frozen=True)
class Drift:
    """A difference from the overlay.

    ``what`` is missing, kind, content, lines, words, mode, owner, target, back (removed, but present), or
    unreadable (a whole partition); ``wanted`` and ``found`` are printable texts, empty for a secret.
    """

    partition: Partition
    path: str
    layer: str
    what: str
    wanted: str = ""
    found: str = ""


@dataclass(frozen=True)
class ExpectedChange:
    """A change that the first boot makes on purpose, and its reason."""

    partition: Partition
    path: str
    change: Change
    reason: str


@dataclass(frozen=True)
class Comparison:
    """The result: the number of compared entries, the drift, and the expected changes of the first boot."""

    compared: int
    drift: tuple[Drift, ...]
    expected_changes: tuple[ExpectedChange, ...]


@dataclass(frozen=True)
class _Item:
    """An entry to compare, its path on the card, and the rule of the first boot for it.

    ``by_copy``: it is compared with the copy in the node image, as NODE.json does not have its final content.
    """

    wanted: ExpectedEntry
    place: str
    rule: Rule | None
    by_copy: bool

    @property
    def same(self) -> Callable[[bytes], bytes]:
        """The function that returns the part of a content that must not change."""
        return self.rule.same if self.rule else bytes

    @property
    def change(self) -> Change | None:
        """The change that the first boot may make."""
        return self.rule.change if self.rule else None

    @property
    def on_root(self) -> bool:
        """Whether it is on the root partition."""
        return self.wanted.partition is Partition.ROOT

    def expected(self, rule: Rule, where: str = "") -> ExpectedChange:
        """The expected change of this entry; ``where`` is its new place, if the rule does not give it."""
        reason = f"{rule.reason}: now {where}" if where else rule.reason
        return ExpectedChange(self.wanted.partition, self.wanted.path, rule.change, reason)

    def drift(self, what: str, wanted: str = "", found: str = "") -> Drift:
        """A drift of this entry."""
        return Drift(self.wanted.partition, self.place, self.wanted.layer, what, wanted, found)


def wanted_of(document: Mapping[str, Any]) -> tuple[ExpectedEntry, ...]:
    """The entries of NODE.json. Raises PiimgError when they cannot be compared."""
    try:
        wanted = TypeAdapter(tuple[ExpectedEntry, ...]).validate_python(document["entries"])
    except (KeyError, ValidationError) as error:
        raise _too_old(document) from error
    if any(entry.kind in ADDING and entry.added is None and not entry.secret for entry in wanted):
        raise _too_old(document)
    return wanted


def _too_old(document: Mapping[str, Any]) -> PiimgError:
    node = document.get("node", "NODE")
    return PiimgError(
        f"{node}.json does not describe its entries completely", f"build it again: piimg build --node {node}"
    )


def compare(card: Path, image: Path, wanted: Sequence[ExpectedEntry], base_home: str = HOME) -> Comparison:
    """Compare a booted card with its node image. Raises PiimgError when the image cannot be read.

    ``base_home`` is the home of UID 1000 in the base image. If the card cannot be read, the drift is a whole
    partition.
    """
    try:
        return _compare(card, image, wanted, base_home)
    except Damaged as damaged:
        if damaged.image != card:
            raise
        whole = Drift(
            damaged.which, "/", "", "unreadable", "a file system", printable(damaged.message, _SHOWN)
        )
        return Comparison(0, (whole,), ())


def _compare(card: Path, image: Path, wanted: Sequence[ExpectedEntry], base_home: str) -> Comparison:
    on_card, in_image = snapshot(card), snapshot(image)
    home = f"/home/{account(fat.read_file(image, in_image.boot, '/userconf.txt', 4096))}"
    items, expected = [], []
    for item in _items(wanted, base_home):
        if item.rule and item.rule.change is Change.OWN:
            expected.append(item.expected(item.rule))
        else:
            items.append(item)
    in_image.learn([item.place for item in items if item.on_root])
    items = _placed(on_card, in_image, items, base_home, home)
    _read(on_card, in_image, items)
    profiles = stored_profiles(on_card, _keyfiles(items, in_image))
    drift: list[Drift] = []
    for item in items:
        if item.wanted.kind is Kind.NETPLAN:
            drift += _from_others(item.wanted, profiles)
            continue
        if item.rule and item.change is Change.STORED and item.place not in on_card.stats:
            now = _as_stored(item, item.rule, profiles)
            if isinstance(now, ExpectedChange):
                expected.append(now)
            else:
                drift.append(now)
            continue
        gone = item.change is Change.GONE and on_card.contents[item.wanted.partition, item.place] is None
        if item.rule and (gone or item.place != item.wanted.path):
            expected.append(item.expected(item.rule))
        if not gone:
            drift += (_on_root if item.on_root else _on_boot)(item, on_card, in_image)
    return Comparison(len(items), tuple(drift), tuple(expected))


def _items(wanted: Sequence[ExpectedEntry], home: str) -> Iterator[_Item]:
    """The items to compare, at their original paths. Lines added to a file of the overlay are part of it."""
    files = {(entry.partition, entry.path) for entry in wanted if entry.kind is Kind.FILE}
    added_to = {(entry.partition, entry.path) for entry in wanted if entry.kind in ADDING} & files
    for entry in wanted:
        rule = rule_for(entry.partition, entry.path, home)
        if entry.kind is Kind.REMOVE and rule and rule.change is Change.STORED:
            rule = None  # a profile of the base image, which was removed and so cannot move
        edited = rule is not None and rule.change in (Change.EDITED, Change.STORED)
        stacked = (entry.partition, entry.path) in added_to
        if not (stacked and entry.kind in ADDING):
            yield _Item(entry, entry.path, rule, entry.secret or edited or stacked)


# --- where to look, and what to read -----------------------------------------------------------------------


def _placed(card: Snapshot, image: Snapshot, items: Sequence[_Item], old: str, home: str) -> list[_Item]:
    """The items with their paths on the card: the home may have moved, links are followed."""
    moves = {item.place: home + item.place.removeprefix(old) for item in items if item.change is Change.MOVED}
    card.learn([*(item.place for item in items if item.on_root), *moves.values()])
    moved = {old: new for old, new in moves.items() if new in card.stats}
    placed = [
        replace(item, place=moved.get(item.place, item.place)) if item.on_root else item for item in items
    ]
    for _ in range(_LINKS):
        targets = {item.wanted: _target(card, item.place) for item in placed if _is_link(item, card, image)}
        if not targets:
            break
        card.learn(list(targets.values()))
        placed = [replace(item, place=targets.get(item.wanted, item.place)) for item in placed]
    return placed


def _is_link(item: _Item, card: Snapshot, image: Snapshot) -> bool:
    """Whether the entry was written through a link of the base image that is still on the card."""
    follows = item.on_root and item.wanted.kind in (*ADDING, Kind.DIRECTORY)
    return follows and all(
        path in side.stats and side.stats[path].kind == "symlink"
        for side, path in ((image, item.wanted.path), (card, item.place))
    )


def _target(side: Snapshot, path: str) -> str:
    target = side.stats[path].target.decode("utf-8", "replace")
    if not target.isprintable():
        return f"{path}?"  # debugfs cannot quote it
    return target if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"


def _read(card: Snapshot, image: Snapshot, items: Sequence[_Item]) -> None:
    """Read the contents to compare from both; a file of the wrong size is not read."""
    copies: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for item in items:
        path, kind = item.wanted.path, item.wanted.kind
        if not item.on_root:
            if item.by_copy:
                image.read_boot(path, READ_LIMIT)
            if kind is not Kind.DIRECTORY:
                size = len(image.contents.get((Partition.BOOT, path)) or b"")
                card.read_boot(item.place, max(item.wanted.size, size, _BOOT_LIMIT))
            continue
        copy = image.stats.get(path) if item.by_copy else None
        if copy and copy.kind == "regular":
            copies[path] = copy.size
        found = card.stats.get(item.place)
        if found and _worth_reading(item, found, copy):
            sizes[item.place] = found.size
    image.read_root(copies)
    card.read_root(sizes)


def _worth_reading(item: _Item, found: ext4.FileStatus, copy: ext4.FileStatus | None) -> bool:
    kind = item.wanted.kind
    if kind is Kind.LINK:
        return found.kind == "symlink" and _FAST_LINK <= found.size <= 4096
    if found.kind != "regular" or kind is Kind.REMOVE:
        return False
    if kind in ADDING or item.change is Change.EDITED:
        return found.size <= READ_LIMIT
    return found.size == (copy.size if copy else item.wanted.size)


# --- judging an entry --------------------------------------------------------------------------------------


def _on_boot(item: _Item, card: Snapshot, image: Snapshot) -> Iterator[Drift]:
    """The drift of an item on the boot partition: content only, as FAT stores neither modes nor owners."""
    kind = item.wanted.kind
    if kind is Kind.DIRECTORY:
        if not fat.is_folder(card.image, card.boot, item.place):
            yield item.drift("missing")
        return
    content = card.contents[Partition.BOOT, item.place]
    if kind is Kind.REMOVE:
        if content is not None:
            yield item.drift("back")
    elif content is None:
        if kind not in ADDING or fat.read_file(image.image, image.boot, item.wanted.path, READ_LIMIT):
            yield item.drift("missing")
    elif item.place in card.oversize:
        yield item.drift("content", f"{item.wanted.size} bytes" if item.wanted.size else "", "far too large")
    else:
        yield from _content(item, content, len(content), image)


def _on_root(item: _Item, card: Snapshot, image: Snapshot) -> Iterator[Drift]:
    wanted, found = item.wanted, card.stats.get(item.place)
    if wanted.kind is Kind.REMOVE:
        if found:
            yield item.drift("back")
        return
    if found is None:
        if wanted.kind not in ADDING or wanted.path in image.stats:  # a base need not have what is added to
            yield item.drift("missing")
        return
    kind = _KINDS.get(wanted.kind, "regular")
    if found.kind != kind:
        yield item.drift("kind", kind, found.kind)
        return
    content = card.contents.get((Partition.ROOT, item.place))
    if wanted.kind is Kind.LINK:
        target = found.target if found.size < _FAST_LINK else content or b""
        if item.same(target) != item.same(wanted.target.encode()):
            yield item.drift("target", wanted.target, printable(target.decode("utf-8", "replace"), _SHOWN))
    elif wanted.kind is not Kind.DIRECTORY:
        yield from _content(item, content, found.size, image)
    if wanted.kind in ADDING:
        return  # its mode and owner are the base image's
    if wanted.kind is not Kind.LINK and found.mode != int(wanted.mode, 8):
        yield item.drift("mode", wanted.mode, f"{found.mode:04o}")
    if (found.uid, found.gid) != (wanted.uid, wanted.gid):
        yield item.drift("owner", f"{wanted.uid}:{wanted.gid}", f"{found.uid}:{found.gid}")


# --- network profiles that NetworkManager keeps elsewhere -------------------------------------------------


def _keyfiles(items: Sequence[_Item], image: Snapshot) -> dict[str, bytes]:
    """The keyfiles in the node image, by path."""
    paths = [item.wanted.path for item in items if item.change is Change.STORED]
    contents = {path: image.contents.get((Partition.ROOT, path)) for path in paths}
    return {path: content for path, content in contents.items() if content is not None}


def _as_stored(item: _Item, rule: Rule, profiles: StoredProfiles) -> ExpectedChange | Drift:
    """The state of a keyfile that is not at its original path."""
    path = item.wanted.path
    own, stored, where = profiles.own.get(path), profiles.taken.get(path), profiles.places.get(path, "")
    if own is None or stored is None:
        return item.drift("missing", "", f"{where} does not contain it" if where else "")
    if stored == own:
        return item.expected(rule, where)
    shown = ("", "") if item.wanted.secret else (own.words, printable(f"{stored.words} ({where})", _SHOWN))
    return item.drift("content", *shown)


def _from_others(wanted: ExpectedEntry, profiles: StoredProfiles) -> Iterator[Drift]:
    """The drift by netplan files that set up an interface of the node and are not its own profiles."""
    for path, why in profiles.others(wanted.interfaces):
        yield Drift(wanted.partition, path, wanted.layer, "back", "", printable(why))


def _content(item: _Item, content: bytes | None, size: int, image: Snapshot) -> Iterator[Drift]:
    """The drift of a content of ``size`` bytes; None if it was not read, because its size is wrong."""
    copy = image.contents.get((item.wanted.partition, item.wanted.path))
    if item.by_copy and copy is None:
        raise PiimgError(f"{image.image} does not contain {item.wanted.path}", "build it again")
    if item.wanted.kind in ADDING:
        yield from _added(item, content or b"", copy or b"")
        return
    wanted = sha256(item.same(copy)).hexdigest() if item.by_copy and copy is not None else item.wanted.sha256
    found = sha256(item.same(content)).hexdigest() if content is not None else ""
    if wanted == found:
        return
    if item.wanted.secret:
        yield item.drift("content")
        return
    long = len(copy) if item.by_copy and copy is not None else item.wanted.size
    is_so = f"{size} bytes" + (f", sha256 {found[:12]}…" if found else "")
    yield item.drift("content", f"{long} bytes, sha256 {wanted[:12]}…", is_so)


def _added(item: _Item, content: bytes, copy: bytes) -> Iterator[Drift]:
    """The drift by lines or words that are missing, or back. For secret ones, all of the node image count."""
    if back := [word for word in item.wanted.removed if word.encode() in content.split()]:
        yield item.drift("back", "", printable(" ".join(back), _SHOWN))
    cut: Callable[[bytes], list[bytes]] = bytes.splitlines if item.wanted.kind is Kind.LINES else bytes.split
    if item.wanted.added is None:
        added = cut(copy)
    else:
        added = [text.encode("utf-8", "surrogateescape") for text in item.wanted.added]
    like = sections.known_heading(item.wanted.partition, item.wanted.path) or item.wanted.section
    in_sections = like and item.wanted.kind is Kind.LINES and item.wanted.added is not None
    if in_sections and not any(sections.is_heading(text.decode("utf-8", "replace"), like) for text in added):
        there = set(sections.lines_under(content, item.wanted.section, like))
    else:
        there = {item.same(text) for text in cut(content)}
    missing = [text for text in added if item.same(text) and item.same(text) not in there]
    if missing:
        lacking = b" | ".join(missing).decode("utf-8", "replace")
        shown = "" if item.wanted.secret else printable(lacking, _SHOWN)
        yield item.drift(item.wanted.kind.value, shown, "" if item.wanted.secret else "not in it")
