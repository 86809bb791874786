"""How a card, or a node image, differs from the plan of its node. It is read without mounting it.

It is not trusted, and may be failing: what is read is bounded in bytes and seconds (image/untrusted.py). Only
the paths of the plan are looked at. What the first boot changes is no difference (image/firstboot.py).
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.image import fat
from imagebuilder.image.ext4 import FileStatus
from imagebuilder.image.firstboot import Change, Rule, rule_for
from imagebuilder.image.parts import ADDING, WITH_RIGHTS, Difference, Part, Place, stacks, with_additions
from imagebuilder.image.profiles import StoredProfiles, stored_profiles
from imagebuilder.image.snapshot import Snapshot, snapshot
from imagebuilder.model import HOME, Entry, Kind, Partition

_KINDS = {Kind.FILE: "regular", Kind.DIRECTORY: "directory", Kind.LINK: "symlink"}
_OF_DEBUGFS = {word: kind for kind, word in _KINDS.items()}
_LEAST = 1 << 20  # bytes; a file of the card is read up to this, or up to four times what it should have
_FAST_LINK = 60  # bytes; a longer target is not in the inode
_LONGEST_LINK = 4096  # bytes (PATH_MAX)
_LINKS = 8  # symbolic links followed at most
_PASSWD = "/etc/passwd"
_PASSWD_LIMIT = 1 << 20  # bytes
_USER = b"1000"


@dataclass(frozen=True)
class _Item:
    """The entries at a path of the plan, where they are on the card, and the rule of the first boot."""

    place: Place
    entries: Sequence[Entry]
    path: str
    rule: Rule | None

    @property
    def main(self) -> Entry:
        return self.entries[0]

    @property
    def on_root(self) -> bool:
        return self.place[0] is Partition.ROOT

    @property
    def only_added(self) -> bool:
        """Whether the file itself is the base image's."""
        return self.main.kind in ADDING

    @property
    def secret(self) -> bool:
        return any(entry.secret for entry in self.entries)

    @property
    def limit(self) -> int:
        return max(_LEAST, 4 * sum(len(entry.content) for entry in self.entries))

    def same(self, content: bytes) -> bytes:
        """The part of a content that must not change."""
        return self.rule.same(content) if self.rule else content


def card_differences(card: Path, entries: Sequence[Entry]) -> list[Difference]:
    """How ``card`` differs from the ``entries`` of a plan: old is the card, new the plan.

    Raises PiimgError when it has no partitions of a node, or cannot be read.
    """
    seen = snapshot(card)
    home = _home(seen)
    items = [item for item in _items(entries, home) if not (item.rule and item.rule.change is Change.OWN)]
    paths = [item.path for item in items if item.on_root]
    seen.learn(paths)
    items = _behind_links(seen, items)
    _read(seen, items)
    keyfiles = {
        item.path: item.main.content for item in items if item.rule and item.rule.change is Change.STORED
    }
    missing = {path: content for path, content in keyfiles.items() if path not in seen.stats}
    profiles = stored_profiles(seen, missing) if missing else None
    found = (_difference(item, seen, profiles) for item in items)
    return [difference for difference in found if difference is not None]


def contents_on(card: Path, places: Sequence[Place]) -> Mapping[Place, bytes]:
    """The contents of files of a card or an image, as far as they are there and not too large."""
    seen = snapshot(card)
    seen.learn([path for partition, path in places if partition is Partition.ROOT])
    there = {path: status for path, status in seen.stats.items() if status.kind == "regular"}
    seen.read_root({path: status.size for path, status in there.items() if status.size <= _LEAST})
    for partition, path in places:
        if partition is Partition.BOOT:
            seen.read_boot(path, _LEAST)
    return {
        place: content
        for place, content in seen.contents.items()
        if content is not None and not (place[0] is Partition.BOOT and place[1] in seen.oversize)
    }


def _items(entries: Sequence[Entry], home: str) -> Iterator[_Item]:
    for place, stack in stacks(entries):
        partition, path = place
        if stack[0].kind is not Kind.NETPLAN:
            moved = partition is Partition.ROOT and f"{path}/".startswith(f"{HOME}/")
            now = home + path.removeprefix(HOME) if moved else path
            yield _Item(place, stack, now, rule_for(partition, path))


def _home(seen: Snapshot) -> str:
    """The home of UID 1000 by the card's own /etc/passwd: a first boot renames it."""
    seen.learn([_PASSWD])
    status = seen.stats.get(_PASSWD)
    if status is None or status.kind != "regular" or status.size > _PASSWD_LIMIT:
        return HOME
    seen.read_root({_PASSWD: status.size})
    for line in (seen.contents[Partition.ROOT, _PASSWD] or b"").splitlines():
        fields = line.split(b":")
        if len(fields) > 5 and fields[2] == _USER:
            home = fields[5].decode("utf-8", "replace")
            return home if re.fullmatch(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+", home) else HOME
    return HOME


def _behind_links(seen: Snapshot, items: Sequence[_Item]) -> list[_Item]:
    """The items; those written through a link of the base image are at its target."""
    placed = list(items)
    for _ in range(_LINKS):
        moved = {
            number: _target(seen, item.path) for number, item in enumerate(placed) if _is_link(seen, item)
        }
        if not moved:
            break
        seen.learn(list(moved.values()))
        for number, path in moved.items():
            item = placed[number]
            placed[number] = _Item(item.place, item.entries, path, item.rule)
    return placed


def _is_link(seen: Snapshot, item: _Item) -> bool:
    status = seen.stats.get(item.path) if item.on_root else None
    follows = item.only_added or item.main.kind is Kind.DIRECTORY
    return follows and status is not None and status.kind == "symlink"


def _target(seen: Snapshot, path: str) -> str:
    target = seen.stats[path].target.decode("utf-8", "replace")
    if not target.isprintable():
        return f"{path}?"  # debugfs cannot quote it
    return target if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"


def _read(seen: Snapshot, items: Sequence[_Item]) -> None:
    sizes: dict[str, int] = {}
    for item in items:
        if not item.on_root:
            if item.main.kind is not Kind.DIRECTORY:
                seen.read_boot(item.path, item.limit)
            continue
        status = seen.stats.get(item.path)
        if status is None or item.main.kind is Kind.REMOVE:
            continue
        is_file, is_link = status.kind == "regular", status.kind == "symlink"
        if (is_file and status.size <= item.limit) or (
            is_link and _FAST_LINK <= status.size <= _LONGEST_LINK
        ):
            sizes[item.path] = status.size
    seen.read_root(sizes)


def _difference(item: _Item, seen: Snapshot, profiles: StoredProfiles | None) -> Difference | None:
    old = _on_root(item, seen) if item.on_root else _on_boot(item, seen)
    key = (item.place[0], item.path, "")
    if item.main.kind is Kind.REMOVE:
        return Difference(key, old, _planned(item, b"")) if old else None
    if old is None:
        gone = item.rule is not None and item.rule.change is Change.GONE
        if gone or _stored(item, profiles) or (item.only_added and item.main.optional):
            return None
        return Difference(key, None, _planned(item, b""))
    new = _planned(item, old.content or b"")
    same = (old.kind, old.other, old.rights) == (new.kind, new.other, new.rights)
    if new.kind is Kind.LINK:
        same = same and item.same(old.target.encode()) == item.same(new.target.encode())
    elif item.main.download is not None:
        # A large one is not read from the card, and counts as the same.
        same = same and (old.content is None or hashlib.sha256(old.content).hexdigest() == new.digest)
    elif new.kind is Kind.FILE:
        same = same and old.content is not None and item.same(old.content) == item.same(new.content or b"")
    return None if same else Difference(key, old, new)


def _planned(item: _Item, found: bytes) -> Part:
    """What the plan gives: of a file of the base image, what is ``found`` with the additions.

    Its mode and owner are the base image's, and not compared.
    """
    main = item.main
    kind = Kind.FILE if item.only_added else main.kind
    content = None
    if kind is Kind.FILE and main.download is None:
        try:
            content = with_additions(found if item.only_added else main.content, item.entries)
        except PiimgError:  # the card's file cannot be added to
            content = b"".join(entry.content for entry in item.entries)
    has_rights = item.on_root and kind in WITH_RIGHTS and not item.only_added
    rights = (main.mode, main.uid, main.gid) if has_rights else (0, 0, 0)
    size = len(content) if content is not None else -1
    return Part(
        kind,
        *rights,
        target=main.target,
        content=content,
        digest=main.digest if main.download is not None else "",
        size=size,
        secret=item.secret,
        layer=main.layer,
    )


def _on_boot(item: _Item, seen: Snapshot) -> Part | None:
    if item.main.kind is Kind.DIRECTORY:
        there = fat.is_folder(seen.image, seen.boot, item.path)
        return Part(Kind.DIRECTORY) if there else None
    content = seen.contents[Partition.BOOT, item.path]
    if content is None:
        return None
    if item.path in seen.oversize:
        return Part(Kind.FILE, size=item.limit, secret=item.secret)
    return Part(Kind.FILE, content=content, size=len(content), secret=item.secret)


def _on_root(item: _Item, seen: Snapshot) -> Part | None:
    status: FileStatus | None = seen.stats.get(item.path)
    if status is None:
        return None
    kind = _OF_DEBUGFS.get(status.kind)
    if kind is None:  # a device, a pipe: whatever it is, it is not what the plan gives
        return Part(Kind.FILE, status.mode, status.uid, status.gid, secret=item.secret, other=status.kind)
    rights = (
        (status.mode, status.uid, status.gid) if kind in WITH_RIGHTS and not item.only_added else (0, 0, 0)
    )
    content = seen.contents.get((Partition.ROOT, item.path))
    target = ""
    if kind is Kind.LINK:
        raw = status.target if status.size < _FAST_LINK else content or b""
        target, content = raw.decode("utf-8", "replace"), None
    return Part(kind, *rights, target=target, content=content, size=status.size, secret=item.secret)


def _stored(item: _Item, profiles: StoredProfiles | None) -> bool:
    """Whether NetworkManager has moved a keyfile, and its settings are those of the plan."""
    if profiles is None or not item.rule or item.rule.change is not Change.STORED:
        return False
    own, taken = profiles.own.get(item.path), profiles.taken.get(item.path)
    return own is not None and own == taken
