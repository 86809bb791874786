"""Applying a node's entries to the trees of its image."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from imagebuilder.errors import PiimgError
from imagebuilder.image.tree import Tree
from imagebuilder.model import Entry, Kind


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
    after = (
        with_lines(before, entry.content) if entry.kind is Kind.LINES else with_words(before, entry.content)
    )
    if after != before:
        tree.rewrite(entry.path, after, mtime)


def _missing(entry: Entry) -> PiimgError:
    return PiimgError(
        f"{entry.partition.value}{entry.path} is not in the base image",
        f"{entry.source} wants it; list it under may_be_missing there if it may be absent",
    )


def with_lines(before: bytes, lines: bytes) -> bytes:
    """``before`` with each of ``lines`` appended that does not stand in it yet."""
    there = set(before.splitlines())
    added = [line for line in lines.splitlines() if line not in there]
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
