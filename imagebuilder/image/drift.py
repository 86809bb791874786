"""Drift: what differs, on a card that was in its machine, from what its overlay put there; nothing else.

A booted card cannot be compared byte by byte: its first boot grew it and wrote to it. So each entry of
NODE.json is looked for on the card, without mounting it, and compared with what went in; where NODE.json says
nothing (a secret) or the first boot edits (see ``firstboot``), with the node image's own copy. A secret is
never shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4, fat
from imagebuilder.image.firstboot import Change, Rule, account, rule_for
from imagebuilder.image.profiles import StoredProfiles, stored_profiles
from imagebuilder.image.snapshot import Snapshot, snapshot
from imagebuilder.image.tree import READ_LIMIT
from imagebuilder.image.untrusted import Damaged
from imagebuilder.model import HOME, Kind, Partition
from imagebuilder.overlay import sections
from imagebuilder.text import printable

_LINKS = 8  # symbolic links followed at most
_FAST_LINK = 60  # bytes; a longer target stands in a block of its own
_BOOT_LIMIT = 1 << 20  # bytes of a file on the boot partition that is to be smaller
_SHOWN = 64  # characters of what a card says
_KINDS = {Kind.FILE: "regular", Kind.DIRECTORY: "directory", Kind.LINK: "symlink"}
_ADDING = (Kind.LINES, Kind.WORDS)


@dataclass(frozen=True)
class ExpectedEntry:
    """An entry of NODE.json: what went in. ``added`` are the lines or words of one that adds them;
    ``interfaces`` those that no netplan file may set up."""

    partition: Partition
    path: str
    kind: Kind
    mode: str
    uid: int
    gid: int
    layer: str
    secret: bool
    target: str = ""
    size: int = 0
    sha256: str = ""
    added: tuple[str, ...] | None = None
    interfaces: tuple[str, ...] = ()
    section: str = ""


@dataclass(frozen=True)
class Drift:
    """One thing that is not as the overlay put it there.

    ``what`` is missing, kind, content, lines, words, mode, owner, target, back (removed, and there again), or
    unreadable (a whole partition); ``wanted`` and ``found`` are in words, printable, and empty where a secret
    is at stake.
    """

    partition: Partition
    path: str
    layer: str
    what: str
    wanted: str = ""
    found: str = ""


@dataclass(frozen=True)
class ExpectedChange:
    """One thing that the first boot changed on purpose, and why it does."""

    partition: Partition
    path: str
    change: Change
    reason: str


@dataclass(frozen=True)
class Comparison:
    """The outcome: how many entries were compared, what drifted, and what is as a first boot leaves it."""

    compared: int
    drift: tuple[Drift, ...]
    expected_changes: tuple[ExpectedChange, ...]


@dataclass(frozen=True)
class _Item:
    """An entry to compare: where to look for it on the card, and what the first boot has to do with it.

    ``by_copy``: NODE.json does not say what its content is in the end, so the node image's own copy does.
    """

    wanted: ExpectedEntry
    place: str
    rule: Rule | None
    by_copy: bool

    @property
    def same(self) -> Callable[[bytes], bytes]:
        """Leaves of a content what must not have changed."""
        return self.rule.same if self.rule else bytes

    @property
    def change(self) -> Change | None:
        """What the first boot may have done to it."""
        return self.rule.change if self.rule else None

    @property
    def on_root(self) -> bool:
        """Whether it is on the root partition."""
        return self.wanted.partition is Partition.ROOT

    def expected(self, rule: Rule, where: str = "") -> ExpectedChange:
        """It is as the first boot leaves it; ``where`` it is now, if that is not known by the rule."""
        reason = f"{rule.reason}: now {where}" if where else rule.reason
        return ExpectedChange(self.wanted.partition, self.wanted.path, rule.change, reason)

    def drift(self, what: str, wanted: str = "", found: str = "") -> Drift:
        """It is not as it should be."""
        return Drift(self.wanted.partition, self.place, self.wanted.layer, what, wanted, found)


def wanted_of(document: Mapping[str, Any]) -> tuple[ExpectedEntry, ...]:
    """The entries of NODE.json. Raises PiimgError when it holds none that can be compared."""
    try:
        wanted = TypeAdapter(tuple[ExpectedEntry, ...]).validate_python(document["entries"])
    except (KeyError, ValidationError) as error:
        raise _too_old(document) from error
    if any(one.kind in _ADDING and one.added is None and not one.secret for one in wanted):
        raise _too_old(document)
    return wanted


def _too_old(document: Mapping[str, Any]) -> PiimgError:
    node = document.get("node", "NODE")
    return PiimgError(
        f"{node}.json does not say well enough what went in", f"build it again: piimg build --node {node}"
    )


def compare(card: Path, image: Path, wanted: Sequence[ExpectedEntry], base_home: str = HOME) -> Comparison:
    """Compare a booted card with what went into its node image. Raises PiimgError when that cannot be read.

    ``base_home`` is where UID 1000 lived in the base image. A card that cannot be read has drifted as a
    whole.
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
    for one in _items(wanted, base_home):
        if one.rule and one.rule.change is Change.OWN:
            expected.append(one.expected(one.rule))
        else:
            items.append(one)
    in_image.learn([one.place for one in items if one.on_root])
    items = _placed(on_card, in_image, items, base_home, home)
    _read(on_card, in_image, items)
    profiles = stored_profiles(on_card, _keyfiles(items, in_image))
    drift: list[Drift] = []
    for one in items:
        if one.wanted.kind is Kind.NETPLAN:
            drift += _from_others(one.wanted, profiles)
            continue
        if one.rule and one.change is Change.STORED and one.place not in on_card.stats:
            now = _as_stored(one, one.rule, profiles)
            if isinstance(now, ExpectedChange):
                expected.append(now)
            else:
                drift.append(now)
            continue
        gone = one.change is Change.GONE and on_card.contents[one.wanted.partition, one.place] is None
        if one.rule and (gone or one.place != one.wanted.path):
            expected.append(one.expected(one.rule))
        if not gone:
            drift += (_on_root if one.on_root else _on_boot)(one, on_card, in_image)
    return Comparison(len(items), tuple(drift), tuple(expected))


def _items(wanted: Sequence[ExpectedEntry], home: str) -> Iterator[_Item]:
    """What to compare, each at its own path so far. Lines added to an overlay's own file are part of that."""
    files = {(one.partition, one.path) for one in wanted if one.kind is Kind.FILE}
    added_to = {(one.partition, one.path) for one in wanted if one.kind in _ADDING} & files
    for one in wanted:
        rule = rule_for(one.partition, one.path, home)
        if one.kind is Kind.REMOVE and rule and rule.change is Change.STORED:
            rule = None  # somebody else's profile: nobody moves what is not there
        edited = rule is not None and rule.change in (Change.EDITED, Change.STORED)
        stacked = (one.partition, one.path) in added_to
        if not (stacked and one.kind in _ADDING):
            yield _Item(one, one.path, rule, one.secret or edited or stacked)


# --- where to look, and what to read -----------------------------------------------------------------------


def _placed(card: Snapshot, image: Snapshot, items: Sequence[_Item], old: str, home: str) -> list[_Item]:
    """The items with the places they have on the card: a home may have moved, a link may lead elsewhere."""
    moves = {one.place: home + one.place.removeprefix(old) for one in items if one.change is Change.MOVED}
    card.learn([*(one.place for one in items if one.on_root), *moves.values()])
    there = {old: new for old, new in moves.items() if new in card.stats}
    placed = [replace(one, place=there.get(one.place, one.place)) if one.on_root else one for one in items]
    for _ in range(_LINKS):
        led = {one.wanted: _led_to(card, one.place) for one in placed if _leads_on(one, card, image)}
        if not led:
            break
        card.learn(list(led.values()))
        placed = [replace(one, place=led.get(one.wanted, one.place)) for one in placed]
    return placed


def _leads_on(one: _Item, card: Snapshot, image: Snapshot) -> bool:
    """Whether a link of the base image led to where it was put, and that link is still there."""
    through = one.on_root and one.wanted.kind in (*_ADDING, Kind.DIRECTORY)
    return through and all(
        path in side.stats and side.stats[path].kind == "symlink"
        for side, path in ((image, one.wanted.path), (card, one.place))
    )


def _led_to(side: Snapshot, path: str) -> str:
    target = side.stats[path].target.decode("utf-8", "replace")
    if not target.isprintable():
        return f"{path}?"  # debugfs could not be asked for it
    return target if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"


def _read(card: Snapshot, image: Snapshot, items: Sequence[_Item]) -> None:
    """Read from both what has to be compared; a file of another size than it should have is not read."""
    copies: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for one in items:
        path, kind = one.wanted.path, one.wanted.kind
        if not one.on_root:
            if one.by_copy:
                image.read_boot(path, READ_LIMIT)
            if kind is not Kind.DIRECTORY:
                size = len(image.contents.get((Partition.BOOT, path)) or b"")
                card.read_boot(one.place, max(one.wanted.size, size, _BOOT_LIMIT))
            continue
        copy = image.stats.get(path) if one.by_copy else None
        if copy and copy.kind == "regular":
            copies[path] = copy.size
        found = card.stats.get(one.place)
        if found and _worth_reading(one, found, copy):
            sizes[one.place] = found.size
    image.read_root(copies)
    card.read_root(sizes)


def _worth_reading(one: _Item, found: ext4.FileStatus, copy: ext4.FileStatus | None) -> bool:
    kind = one.wanted.kind
    if kind is Kind.LINK:
        return found.kind == "symlink" and _FAST_LINK <= found.size <= 4096
    if found.kind != "regular" or kind is Kind.REMOVE:
        return False
    if kind in _ADDING or one.change is Change.EDITED:
        return found.size <= READ_LIMIT
    return found.size == (copy.size if copy else one.wanted.size)


# --- judging an entry --------------------------------------------------------------------------------------


def _on_boot(one: _Item, card: Snapshot, image: Snapshot) -> Iterator[Drift]:
    """FAT keeps no modes and no owners: there is only content."""
    kind = one.wanted.kind
    if kind is Kind.DIRECTORY:
        if not fat.is_folder(card.image, card.boot, one.place):
            yield one.drift("missing")
        return
    content = card.contents[Partition.BOOT, one.place]
    if kind is Kind.REMOVE:
        if content is not None:
            yield one.drift("back")
    elif content is None:
        if kind not in _ADDING or fat.read_file(image.image, image.boot, one.wanted.path, READ_LIMIT):
            yield one.drift("missing")
    elif one.place in card.oversize:
        yield one.drift("content", f"{one.wanted.size} bytes" if one.wanted.size else "", "far too large")
    else:
        yield from _content(one, content, len(content), image)


def _on_root(one: _Item, card: Snapshot, image: Snapshot) -> Iterator[Drift]:
    wanted, found = one.wanted, card.stats.get(one.place)
    if wanted.kind is Kind.REMOVE:
        if found:
            yield one.drift("back")
        return
    if found is None:
        if wanted.kind not in _ADDING or wanted.path in image.stats:  # a base need not have what is added to
            yield one.drift("missing")
        return
    kind = _KINDS.get(wanted.kind, "regular")
    if found.kind != kind:
        yield one.drift("kind", kind, found.kind)
        return
    content = card.contents.get((Partition.ROOT, one.place))
    if wanted.kind is Kind.LINK:
        target = found.target if found.size < _FAST_LINK else content or b""
        if one.same(target) != one.same(wanted.target.encode()):
            yield one.drift("target", wanted.target, printable(target.decode("utf-8", "replace"), _SHOWN))
    elif wanted.kind is not Kind.DIRECTORY:
        yield from _content(one, content, found.size, image)
    if wanted.kind in _ADDING:
        return  # its mode and owner are the base image's
    if wanted.kind is not Kind.LINK and found.mode != int(wanted.mode, 8):
        yield one.drift("mode", wanted.mode, f"{found.mode:04o}")
    if (found.uid, found.gid) != (wanted.uid, wanted.gid):
        yield one.drift("owner", f"{wanted.uid}:{wanted.gid}", f"{found.uid}:{found.gid}")


# --- network profiles that NetworkManager keeps elsewhere -------------------------------------------------


def _keyfiles(items: Sequence[_Item], image: Snapshot) -> dict[str, bytes]:
    """The keyfiles that went in, by path."""
    paths = [one.wanted.path for one in items if one.change is Change.STORED]
    found = {path: image.contents.get((Partition.ROOT, path)) for path in paths}
    return {path: content for path, content in found.items() if content is not None}


def _as_stored(one: _Item, rule: Rule, profiles: StoredProfiles) -> ExpectedChange | Drift:
    """What became of a keyfile that is not where it was put."""
    path = one.wanted.path
    ours, theirs, where = profiles.ours.get(path), profiles.taken.get(path), profiles.places.get(path, "")
    if ours is None or theirs is None:
        return one.drift("missing", "", f"{where} does not hold it" if where else "")
    if theirs == ours:
        return one.expected(rule, where)
    shown = ("", "") if one.wanted.secret else (ours.words, printable(f"{theirs.words} ({where})", _SHOWN))
    return one.drift("content", *shown)


def _from_others(wanted: ExpectedEntry, profiles: StoredProfiles) -> Iterator[Drift]:
    """netplan files that set up an interface of the node, and are not its own profiles."""
    for path, why in profiles.others(wanted.interfaces):
        yield Drift(wanted.partition, path, wanted.layer, "back", "", printable(why))


def _content(one: _Item, content: bytes | None, size: int, image: Snapshot) -> Iterator[Drift]:
    """Judge a content of ``size`` bytes; None was not read, because its size alone is wrong."""
    copy = image.contents.get((one.wanted.partition, one.wanted.path))
    if one.by_copy and copy is None:
        raise PiimgError(f"{image.image} does not hold {one.wanted.path}", "build it again")
    if one.wanted.kind in _ADDING:
        yield from _added(one, content or b"", copy or b"")
        return
    wanted = sha256(one.same(copy)).hexdigest() if one.by_copy and copy is not None else one.wanted.sha256
    found = sha256(one.same(content)).hexdigest() if content is not None else ""
    if wanted == found:
        return
    if one.wanted.secret:
        yield one.drift("content")
        return
    long = len(copy) if one.by_copy and copy is not None else one.wanted.size
    is_so = f"{size} bytes" + (f", sha256 {found[:12]}…" if found else "")
    yield one.drift("content", f"{long} bytes, sha256 {wanted[:12]}…", is_so)


def _added(one: _Item, content: bytes, copy: bytes) -> Iterator[Drift]:
    """Are the lines or words still there? Of secret ones it is not known which they are: then all of them."""
    cut: Callable[[bytes], list[bytes]] = bytes.splitlines if one.wanted.kind is Kind.LINES else bytes.split
    if one.wanted.added is None:
        added = cut(copy)
    else:
        added = [text.encode("utf-8", "surrogateescape") for text in one.wanted.added]
    like = sections.known_heading(one.wanted.partition, one.wanted.path) or one.wanted.section
    in_sections = like and one.wanted.kind is Kind.LINES and one.wanted.added is not None
    if in_sections and not any(sections.is_heading(text.decode("utf-8", "replace"), like) for text in added):
        there = set(sections.lines_under(content, one.wanted.section, like))
    else:
        there = {one.same(text) for text in cut(content)}
    missing = [text for text in added if one.same(text) and one.same(text) not in there]
    if missing:
        lacking = b" | ".join(missing).decode("utf-8", "replace")
        shown = "" if one.wanted.secret else printable(lacking, _SHOWN)
        yield one.drift(one.wanted.kind.value, shown, "" if one.wanted.secret else "not in it")
