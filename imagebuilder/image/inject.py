"""Injection of a node's entries into the file trees of its image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from imagebuilder.errors import PiimgError
from imagebuilder.image import netplan
from imagebuilder.image.tree import RootTree, Tree
from imagebuilder.image.untrusted import DAMAGED_BASE
from imagebuilder.model import Entry, Kind
from imagebuilder.overlay import sections


def inject(tree: Tree, entries: Sequence[Entry], mtime: int) -> None:
    """Apply ``entries`` (of one partition, in order) to ``tree`` with ``mtime`` as modification time.

    Raises PiimgError, naming the entry's path and source, when an entry cannot be applied.
    """
    for entry in entries:
        try:
            _apply(tree, entry, mtime)
        except OSError as error:
            raise PiimgError(
                f"cannot put {entry.partition.value}{entry.path} into the image: {error.strerror}",
                f"check {entry.source}",
            ) from error
    for folder in {str(parent) for entry in entries for parent in PurePosixPath(entry.path).parents}:
        tree.stamp(folder, mtime)


@dataclass(frozen=True)
class Cleared:
    """A netplan file that was removed from the image, and the reason in words."""

    path: str
    why: str


def clear_netplan(tree: RootTree, entries: Sequence[Entry], mtime: int) -> tuple[Cleared, ...]:
    """Remove the netplan files that may set up an interface of a NETPLAN entry of ``entries``.

    A file that cannot be parsed may do so. Raises PiimgError when there are too many files.
    """
    cleared: list[Cleared] = []
    for entry in entries:
        if entry.kind is Kind.NETPLAN:
            cleared += _cleared(tree, entry.content.decode().split())
    if cleared:
        tree.stamp(netplan.FOLDER, mtime)
    return tuple(cleared)


def _cleared(tree: RootTree, interfaces: Sequence[str]) -> Iterator[Cleared]:
    names = tree.names(netplan.FOLDER)
    if len(names) > netplan.COUNT_LIMIT:
        raise PiimgError(
            f"{netplan.FOLDER} in the image contains more than {netplan.COUNT_LIMIT} files",
            DAMAGED_BASE,
        )
    for path in (f"{netplan.FOLDER}/{name}" for name in names if name.endswith(".yaml")):
        try:
            names_set_up = netplan.sets_up(tree.read(path) or b"", interfaces)
            why = f"it would set up {' and '.join(names_set_up)}" if names_set_up else ""
        except netplan.NotUnderstoodError as error:
            why = f"it {error}, so it may set up {' or '.join(interfaces)}"
        except (PiimgError, OSError):  # not a regular file, too large, or a broken link
            why = f"it cannot be read, so it may set up {' or '.join(interfaces)}"
        if why and tree.remove(path):
            yield Cleared(path, why)


def _apply(tree: Tree, entry: Entry, mtime: int) -> None:
    match entry.kind:
        case Kind.FILE:
            tree.write_file(entry, entry.content, mtime)
        case Kind.DIRECTORY:
            tree.make_folder(entry, mtime)
        case Kind.LINK:
            tree.make_link(entry, mtime)
        case Kind.REMOVE:
            if not tree.remove(entry.path) and not entry.optional:
                raise _missing(entry)
        case Kind.LINES | Kind.WORDS | Kind.NO_WORDS:
            _add(tree, entry, mtime)


def _add(tree: Tree, entry: Entry, mtime: int) -> None:
    before = tree.read(entry.path)
    if before is None:
        if entry.optional:
            return
        raise _missing(entry)
    match entry.kind:
        case Kind.LINES:
            after = with_lines(before, entry)
        case Kind.WORDS:
            after = with_words(before, entry.content)
        case _:
            after = without_words(before, entry.content)
    if after != before:
        tree.rewrite(entry.path, after, mtime)


def _missing(entry: Entry) -> PiimgError:
    return PiimgError(
        f"{entry.partition.value}{entry.path} is not in the base image",
        f"{entry.source} needs it; list it under may_be_missing there if it may be missing",
    )


def with_lines(before: bytes, entry: Entry) -> bytes:
    """``before`` with the missing lines of ``entry`` added, in their section or at the end."""
    like = sections.known_heading(entry.partition, entry.path) or entry.section
    if like:
        return sections.with_lines(before, entry.content, entry.section, like)
    existing = set(before.splitlines())
    added = [line for line in entry.content.splitlines() if line not in existing]
    if not added:
        return before
    gap = b"" if before.endswith(b"\n") or not before else b"\n"
    return before + gap + b"\n".join(added) + b"\n"


def with_words(before: bytes, words: bytes) -> bytes:
    """The single line of ``before`` with the missing ones of ``words`` appended.

    Raises PiimgError when the file has more than one line.
    """
    line = _single_line(before)
    existing = line.split()
    added = [word for word in words.split() if word not in existing]
    return b" ".join([line, *added]) + b"\n" if added else before


def without_words(before: bytes, words: bytes) -> bytes:
    """The single line of ``before`` without ``words``. Raises PiimgError as ``with_words`` does."""
    existing, removed = _single_line(before).split(), words.split()
    kept = [word for word in existing if word not in removed]
    return b" ".join(kept) + b"\n" if len(kept) < len(existing) else before


def _single_line(content: bytes) -> bytes:
    """The line of a one-line file: the firmware reads only the first of cmdline.txt (Raspberry Pi
    documentation, "Kernel command line")."""
    line = content.rstrip(b"\r\n")
    if b"\n" in line:
        raise PiimgError("cmdline.txt of the base image has more than one line", DAMAGED_BASE)
    return line
