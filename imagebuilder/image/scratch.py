"""A scratch copy of a base image, with only what a preparation may change: little data, and no data of files.

The *template* is a sparse file as large as the base image, with its partition table and boot partition, and
the metadata of its root file system (e2image(8), raw format), a few ten MiB. Each node gets a copy of it, is
written into, and is thrown away: so nothing of one node can reach another, and the base is only read.

A block of a node comes from its scratch copy if it was written there, else from the base:

- A block that differs from the template was written.
- A block that is not in use in the base was written, or is free.
- The blocks of the files that the overlay wrote were written, also with zeros only, as the template has.

Where this cannot work, the template is a complete copy, and every block in use comes from the scratch copy: a
file system with blocks of another size than 4096 bytes, and one that has to grow, since that moves data.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4
from imagebuilder.image.allocation import GRAIN, Span, joined, left_out
from imagebuilder.image.base.opening import Base
from imagebuilder.image.grow import recount
from imagebuilder.image.untrusted import tool_output
from imagebuilder.system import files
from imagebuilder.system.extents import shared_ranges
from imagebuilder.system.process import ToolError

_STEP = 128 << 10  # bytes; a few of them stay in a processor's cache while they are compared
_SECONDS = 600.0  # for e2image, which reads all metadata
_MESSAGES = 1 << 20  # bytes that e2image may print


@dataclass(frozen=True)
class Template:
    """What the scratch copies are made from: ``complete`` if it has all data of the base image."""

    file: Path
    complete: bool


def make_template(base: Base, file: Path, *, complete: bool = False) -> Template:
    """Make the template of ``base`` as ``file``, which must not exist. Raises PiimgError."""
    complete = complete or not _only_metadata(base, file)
    if complete:
        files.copy_sparse(base.file, file)
    if base.recount:
        recount(file, base.root)
    return Template(file, complete)


def template_size(base: Base) -> int:
    """About the bytes of disk that the template of ``base`` takes."""
    with base.file.open("rb") as whole:
        parts = (
            part
            for start, end in _always_copied(base)
            for part in files.data_ranges(whole.fileno(), start, end)
        )
        return sum(high - low for low, high in parts)


def _only_metadata(base: Base, file: Path) -> bool:
    """Make a template without the data of files; False, and no file, where that is not possible."""
    if base.root.start % GRAIN or ext4.superblock(base.file, base.root.start).get("Block size") != str(GRAIN):
        return False
    offset = str(base.root.start)
    try:
        argv: list[str | Path] = ["e2image", "-r", "-o", offset, "-O", offset, "{}", file]
        tool_output(argv, base.file, _MESSAGES, _SECONDS, largest=base.table.size)
        with base.file.open("rb") as whole, file.open("r+b") as made:
            made.truncate(base.table.size)
            for start, end in _always_copied(base):
                files.copy_range(whole, made, start, start, end - start)
        if not base.recount:
            ext4.check(file, base.root.start)
    except ToolError:  # e2image does not know the file system well enough
        file.unlink(missing_ok=True)
        return False
    except OSError as error:
        raise PiimgError(
            f"cannot copy the metadata of {base.name}: {error.strerror}", "free some space there"
        ) from error
    return True


def _always_copied(base: Base) -> Iterator[Span]:
    """What the template has for sure: all but the root partition, and there the bitmaps and inode tables.

    e2image leaves out those of groups that are not in use yet. They may have any content until the kernel
    begins to use the group.
    """
    root = base.root
    yield 0, root.start
    yield root.end, base.table.size
    for first, last in ext4.fixed_metadata(base.file, root.start):
        yield root.start + first * GRAIN, min(root.start + last * GRAIN, root.end)


def changed_spans(
    base: Base,
    template: Template,
    work: Path,
    *,
    used_before: Sequence[Span],
    used: Sequence[Span],
    written: Sequence[Span],
) -> tuple[Span, ...]:
    """The ranges, in whole blocks, in which the node's image differs from the base image.

    ``work`` is the node's scratch copy. ``used_before`` are the ranges in use in the base image, ``used``
    those in the copy, ``written`` those of the files that the overlay wrote. All in bytes, in order.
    Raises PiimgError when a file cannot be read.
    """
    try:
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(path.open("rb")) for path in (base.file, template.file, work)]
            if template.complete:
                return tuple(joined(_complete(opened, used)))
            return tuple(joined(_partial(opened, used_before, used, written)))
    except OSError as error:
        raise PiimgError(
            f"cannot read the scratch copy of {base.name}: {error.strerror}", "run the same command again"
        ) from error


def _complete(opened: Sequence[BinaryIO], used: Sequence[Span]) -> Iterator[Span]:
    """The blocks of a complete scratch copy that differ from the base."""
    base, _, work = opened
    yield from _differing(work, base, left_out(used, shared_ranges(work.fileno(), base.fileno())))


def _partial(
    opened: Sequence[BinaryIO], used_before: Sequence[Span], used: Sequence[Span], written: Sequence[Span]
) -> Iterator[Span]:
    """The blocks of a scratch copy without data that were written and differ from the base, unordered parts
    in order of their kind."""
    original, template, work = opened
    size = os.fstat(work.fileno()).st_size
    data = _union(
        [*files.data_ranges(work.fileno(), 0, size), *files.data_ranges(template.fileno(), 0, size)]
    )
    for start, end in _differing(work, template, _common(used, data)):
        yield from _differing(work, original, [(start, end)])
    new = left_out(used, used_before)
    for spans in (new, _common(used, _union(written))):
        yield from _differing(work, original, spans)


def _differing(first: BinaryIO, second: BinaryIO, spans: Iterator[Span] | Sequence[Span]) -> Iterator[Span]:
    """The blocks of ``spans`` in which two files differ; beyond its end a file has zeros."""
    for low, high in spans:
        for start in range(low, high, _STEP):
            count = min(_STEP, high - start)
            one, other = _bytes(first, start, count), _bytes(second, start, count)
            if one != other:
                for at in range(0, count, GRAIN):
                    if one[at : at + GRAIN] != other[at : at + GRAIN]:
                        yield start + at, start + min(at + GRAIN, count)


def _bytes(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count).ljust(count, b"\0")


def _common(spans: Sequence[Span], others: Sequence[Span]) -> Iterator[Span]:
    """The parts of ``spans`` that ``others`` cover too; both are in order and do not overlap."""
    gaps = left_out(spans, others)
    return left_out(spans, gaps)


def _union(spans: Sequence[Span]) -> list[Span]:
    """``spans`` widened to whole blocks, in order, joined where they touch."""
    return list(joined((start // GRAIN * GRAIN, -(-end // GRAIN) * GRAIN) for start, end in spans))
