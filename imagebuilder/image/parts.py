"""What a node has at each path, by its plan, by the document of an image, or by a card; and how two differ.

No I/O, and nothing here prints: a content with a secret is compared, and marked.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from imagebuilder.image.base.findings import LAYER
from imagebuilder.image.drift import ExpectedEntry
from imagebuilder.image.inject import with_lines, with_words
from imagebuilder.model import Entry, Kind, Partition

PACKAGES = "packages"
"""The layer, in NODE.json, of an entry that belongs to packages of the node (dressing/secrets.py)."""

ADDING = (Kind.LINES, Kind.WORDS)
WITH_RIGHTS = (Kind.FILE, Kind.DIRECTORY)
"""The kinds of entries that set a mode."""

_TEXT = 256 << 10  # bytes of a text that is kept with a prepared node, to show later what changed in it
_TEXTS = 8 << 20  # bytes of all texts of a node

Place = tuple[Partition, str]
Key = tuple[Partition, str, str]
"""A partition, a path, and "added" for what is only added to a file of the base image, else ""."""


@dataclass(frozen=True)
class Part:
    """What one side has at a path.

    ``content`` is the bytes of a file, or what is added to it; None if only ``digest`` is known, or nothing:
    then two contents cannot be compared. ``size`` is in bytes, -1 if it is not known. ``secret``: neither the
    content nor its digest may be shown. ``other`` says what it is, if no plan can give it: "fifo". On the
    boot partition there are no modes and owners.
    """

    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: str = ""
    content: bytes | None = field(default=None, repr=False)
    digest: str = field(default="", repr=False)
    size: int = -1
    secret: bool = False
    layer: str = ""
    other: str = ""

    @property
    def rights(self) -> tuple[int, int, int]:
        """Mode, owner and group of what has them."""
        return (self.mode, self.uid, self.gid) if self.kind in WITH_RIGHTS else (0, 0, 0)


Parts = Mapping[Key, Part]


@dataclass(frozen=True)
class Difference:
    """A path at which two sides differ; one of them may have nothing there."""

    key: Key
    old: Part | None
    new: Part | None


def differences(old: Parts, new: Parts) -> list[Difference]:
    """The paths at which the sides differ, in order. What cannot be compared does not count as different."""
    return [
        Difference(key, old.get(key), new.get(key))
        for key in sorted({**old, **new})
        if not _same(old.get(key), new.get(key))
    ]


def _same(old: Part | None, new: Part | None) -> bool:
    if old is None or new is None:
        return old is new
    if (old.kind, old.other, old.target, old.rights) != (new.kind, new.other, new.target, new.rights):
        return False
    return same_content(old, new)


def same_content(old: Part, new: Part) -> bool:
    """Whether the contents of two parts are the same, as far as they can be compared."""
    if old.content is not None and new.content is not None:
        return old.content == new.content
    return not (old.digest and new.digest) or old.digest == new.digest


def planned_parts(entries: Sequence[Entry], secrets: Mapping[str, str] | None = None) -> dict[Key, Part]:
    """The parts of a plan.

    ``secrets`` are the digests of entries in a recipe: they stand for contents with a secret, which are left
    out. Without them all contents may be shown, as secrets are masked.
    """
    found: dict[Key, Part] = {}
    for entry in entries:
        path = path_text(entry.partition, entry.path)
        secret = entry.secret and secrets is not None
        digest = (secrets or {}).get(_label(entry.layer, path), "") if secret else entry.digest
        unknown = secret or entry.download is not None  # a download has its content when it is fetched
        content = None if unknown or not _has_content(entry.kind) else _text_of(entry)
        part = Part(
            entry.kind,
            *_rights(entry.partition, entry.mode, entry.uid, entry.gid),
            target=entry.target,
            content=content,
            digest=digest,
            size=len(entry.content) if entry.download is None else -1,
            secret=secret,
            layer=entry.layer,
        )
        _put(found, (entry.partition, entry.path, "added" if entry.kind in ADDING else ""), part)
    return found


def documented_parts(
    wanted: Sequence[ExpectedEntry], texts: Mapping[str, str], secrets: Mapping[str, str]
) -> dict[Key, Part]:
    """The parts of NODE.json, without those that no plan has: of corrections of the base image, of packages.

    ``texts`` are the texts of files, as far as they are kept, by ``path_text``; ``secrets`` as above.
    """
    found: dict[Key, Part] = {}
    for entry in wanted:
        if entry.layer in (LAYER, PACKAGES):
            continue
        path = path_text(entry.partition, entry.path)
        content: bytes | None = None
        if entry.added is not None:
            content = _added_text(entry.section, entry.added)
        elif entry.kind is Kind.NETPLAN:
            content = "\n".join(entry.interfaces).encode()
        elif path in texts and not entry.secret:
            content = texts[path].encode()
        part = Part(
            entry.kind,
            *_rights(entry.partition, int(entry.mode, 8), entry.uid, entry.gid),
            target=entry.target,
            content=content,
            digest=secrets.get(_label(entry.layer, path), "") if entry.secret else entry.sha256,
            size=entry.size,
            secret=entry.secret,
            layer=entry.layer,
        )
        _put(found, (entry.partition, entry.path, "added" if entry.kind in ADDING else ""), part)
    return found


def without_unpacked(old: Parts, new: Parts, entries: Sequence[Entry]) -> dict[Key, Part]:
    """The parts ``old`` without what is in archives that ``entries`` unpack: a plan has the folders."""
    folders = tuple(f"{entry.path}/" for entry in entries if entry.download and entry.download.unpack)
    inside = {
        key for key in old if key[0] is Partition.ROOT and key[1].startswith(folders) and key not in new
    }
    return {key: part for key, part in old.items() if not folders or key not in inside}


def kept_texts(entries: Sequence[Entry]) -> dict[str, str]:
    """The texts of the files of a plan, by ``path_text``: none with a secret, and no large or binary ones."""
    found, room = {}, _TEXTS
    for entry in entries:
        if entry.kind is Kind.FILE and not entry.secret and len(entry.content) <= min(_TEXT, room):
            text = text_in(entry.content)
            if text is not None:
                found[path_text(entry.partition, entry.path)] = text
                room -= len(entry.content)
    return found


def text_in(content: bytes) -> str | None:
    """The text in ``content``; None if it is binary: not UTF-8, or with a NUL."""
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _label(layer: str, path: str) -> str:
    """The label of an entry in the parts of a recipe (image/recipe.py)."""
    return f"entry.{layer} {path}"


def path_text(partition: Partition, path: str) -> str:
    """A path with its partition: root/etc/hosts."""
    return f"{partition.value}{path}"


def with_additions(content: bytes, entries: Sequence[Entry]) -> bytes:
    """``content`` with what LINES and WORDS of ``entries`` add to it. Raises PiimgError."""
    for entry in entries:
        if entry.kind is Kind.LINES:
            content = with_lines(content, entry)
        elif entry.kind is Kind.WORDS:
            content = with_words(content, entry.content)
    return content


def _put(found: dict[Key, Part], key: Key, part: Part) -> None:
    """Add a part. What several layers add to one file is one part."""
    before = found.get(key)
    if before is None or part.kind not in ADDING:
        found[key] = part
        return
    known = before.content is not None and part.content is not None
    content = (before.content or b"") + (part.content or b"") if known else None
    digest = hashlib.sha256(f"{before.digest} {part.digest}".encode()).hexdigest()
    secret = before.secret or part.secret
    found[key] = Part(part.kind, content=content, digest=digest, secret=secret, layer=part.layer)


def _has_content(kind: Kind) -> bool:
    return kind in (Kind.FILE, Kind.NETPLAN, *ADDING)


def _text_of(entry: Entry) -> bytes:
    if entry.kind is Kind.NETPLAN:
        return b"\n".join(entry.content.split())
    if entry.kind not in ADDING:
        return entry.content
    text = entry.content.decode("utf-8", "surrogateescape")
    return _added_text(entry.section, text.splitlines() if entry.kind is Kind.LINES else text.split())


def _added_text(section: str, added: Sequence[str]) -> bytes:
    lines = [*([section] if section else []), *added]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _rights(partition: Partition, mode: int, uid: int, gid: int) -> tuple[int, int, int]:
    return (mode, uid, gid) if partition is Partition.ROOT else (0, 0, 0)


def stacks(entries: Sequence[Entry]) -> Iterator[tuple[Place, list[Entry]]]:
    """The entries by their path, in order: a file and what is added to it belong together."""
    found: dict[Place, list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.partition, entry.path), []).append(entry)
    yield from found.items()
