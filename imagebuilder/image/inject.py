"""Applying a node's entries to the trees of its image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from imagebuilder.errors import PiimgError
from imagebuilder.image import netplan
from imagebuilder.image.tree import RootTree, Tree
from imagebuilder.model import Entry, Kind
from imagebuilder.overlay import sections


def inject(tree: Tree, entries: Sequence[Entry], mtime: int) -> None:
    """Apply ``entries`` (of one partition, in order) to ``tree``; what is written gets ``mtime``.

    Raises PiimgError, naming the entry's path and source, when the image does not take one.
    """
    for entry in entries:
        try:
            _apply(tree, entry, mtime)
        except OSError as error:
            raise PiimgError(
                f"cannot put {entry.partition.value}{entry.path} into the image: {error.strerror}",
                f"it comes from {entry.source}",
            ) from error
    for folder in {str(parent) for entry in entries for parent in PurePosixPath(entry.path).parents}:
        tree.stamp(folder, mtime)


@dataclass(frozen=True)
class Cleared:
    """A netplan file that was removed from the image, and why in words."""

    path: str
    why: str


def clear_netplan(tree: RootTree, entries: Sequence[Entry], mtime: int) -> tuple[Cleared, ...]:
    """Remove the netplan files that set up an interface which a NETPLAN entry of ``entries`` names, or may.

    What cannot be understood may. Raises PiimgError when there are more files than anybody has.
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
            f"{netplan.FOLDER} in the image holds more than {netplan.COUNT_LIMIT} files",
            "is this base image whole?",
        )
    for path in (f"{netplan.FOLDER}/{name}" for name in names if name.endswith(".yaml")):
        try:
            found = netplan.sets_up(tree.read(path) or b"", interfaces)
            why = f"it would set up {' and '.join(found)}" if found else ""
        except netplan.NotUnderstoodError as error:
            why = f"it {error}, so it may set up {' or '.join(interfaces)}"
        except (PiimgError, OSError):  # not a regular file, or far too large, or a link that leads nowhere
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
        case Kind.LINES | Kind.WORDS:
            _add(tree, entry, mtime)


def _add(tree: Tree, entry: Entry, mtime: int) -> None:
    before = tree.read(entry.path)
    if before is None:
        if entry.optional:
            return
        raise _missing(entry)
    after = with_lines(before, entry) if entry.kind is Kind.LINES else with_words(before, entry.content)
    if after != before:
        tree.rewrite(entry.path, after, mtime)


def _missing(entry: Entry) -> PiimgError:
    return PiimgError(
        f"{entry.partition.value}{entry.path} is not in the base image",
        f"{entry.source} wants it; list it under may_be_missing there if it may be absent",
    )


def with_lines(before: bytes, entry: Entry) -> bytes:
    """``before`` with each line of ``entry`` added that does not stand in it yet, in the section it is for.

    In a file without sections they are appended.
    """
    like = sections.known_heading(entry.partition, entry.path) or entry.section
    if like:
        return sections.with_lines(before, entry.content, entry.section, like)
    there = set(before.splitlines())
    added = [line for line in entry.content.splitlines() if line not in there]
    if not added:
        return before
    gap = b"" if before.endswith(b"\n") or not before else b"\n"
    return before + gap + b"\n".join(added) + b"\n"


def with_words(before: bytes, words: bytes) -> bytes:
    """The one line of ``before`` with each of ``words`` appended that does not stand in it yet.

    Raises PiimgError when the file has more than one line: the firmware reads only the first
    (Raspberry Pi documentation, "Kernel command line").
    """
    line = before.rstrip(b"\r\n")
    if b"\n" in line:
        raise PiimgError("cmdline.txt of the base image has more than one line", "is this base image whole?")
    there = line.split()
    added = [word for word in words.split() if word not in there]
    return b" ".join([line, *added]) + b"\n" if added else before
