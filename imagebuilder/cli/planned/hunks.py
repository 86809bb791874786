"""Differences as lines: as `git diff` shows them. A content with a secret is never shown."""

import difflib
import hashlib
from collections.abc import Iterator, Sequence

from imagebuilder.cli.output import Line, Style
from imagebuilder.cli.planned.wording import owner_text
from imagebuilder.image.parts import WITH_RIGHTS, Difference, Part, path_text, same_content, text_in
from imagebuilder.model import Kind, Partition

_CONTEXT = 3  # lines around a change
_MOST = 4 << 20  # pairs of lines that are compared: difflib's time grows with them
_SHOWN = 5000  # lines of a difference
_LONGEST = 1 << 20  # bytes of a text that is compared by lines

_WORDS = {
    Kind.FILE: "file",
    Kind.DIRECTORY: "folder",
    Kind.LINK: "link",
    Kind.REMOVE: "removal",
    Kind.LINES: "added lines",
    Kind.WORDS: "added words",
    Kind.NETPLAN: "cleared netplan files",
}


def title(difference: Difference) -> str:
    """The path of a difference, and whether it is about additions to a file of the base image."""
    partition, path, added = difference.key
    return f"{path_text(partition, path)}{' (additions)' if added else ''}"


def difference_lines(difference: Difference, before: str, now: str) -> Iterator[Line]:
    """What differs at a path. ``before`` and ``now`` name the two sides."""
    old, new = difference.old, difference.new
    if old is None and new is not None:
        yield Line(f"only {now}: {_about(new, difference)}", Style.ADDED)
        yield from _content(None, new, before, now)
    elif new is None and old is not None:
        yield Line(f"only {before}: {_about(old, difference)}", Style.REMOVED)
        yield from _content(old, None, before, now)
    elif old is not None and new is not None:
        yield from _changed(old, new, before, now)


def _changed(old: Part, new: Part, before: str, now: str) -> Iterator[Line]:
    if (old.kind, old.other) != (new.kind, new.other):
        yield from _pair(f"kind {_kind(old)}", f"kind {_kind(new)}")
    both_have_rights = old.kind in WITH_RIGHTS and new.kind in WITH_RIGHTS
    if both_have_rights and old.mode != new.mode:
        yield from _pair(f"mode {old.mode:04o}", f"mode {new.mode:04o}")
    if both_have_rights and (old.uid, old.gid) != (new.uid, new.gid):
        yield from _pair(f"owner {owner_text(old.uid, old.gid)}", f"owner {owner_text(new.uid, new.gid)}")
    if old.target != new.target:
        yield from _pair(*(f"link to {part.target}" if part.target else "no link" for part in (old, new)))
    if (old.kind, old.other) != (new.kind, new.other) or not _content_shown_same(old, new):
        yield from _content(old, new, before, now)


def _content_shown_same(old: Part, new: Part) -> bool:
    known = all(part.content is not None or part.digest or part.kind is not Kind.FILE for part in (old, new))
    return known and same_content(old, new)


def _pair(old: str, new: str) -> Iterator[Line]:
    yield Line(f"-{old}", Style.REMOVED)
    yield Line(f"+{new}", Style.ADDED)


def _kind(part: Part) -> str:
    return part.other or _WORDS[part.kind]


def _about(part: Part, difference: Difference) -> str:
    """A part in words: "file 0644 root, layer base"."""
    rights = ""
    if part.kind in WITH_RIGHTS and difference.key[0] is Partition.ROOT and part.mode:
        rights = f" {part.mode:04o} {owner_text(part.uid, part.gid)}"
    target = f" to {part.target}" if part.target else ""
    return f"{_kind(part)}{rights}{target}{f', layer {part.layer}' if part.layer else ''}"


def _content(old: Part | None, new: Part | None, before: str, now: str) -> Iterator[Line]:
    parts = [part for part in (old, new) if part is not None and part.kind is not Kind.DIRECTORY]
    parts = [part for part in parts if part.kind not in (Kind.LINK, Kind.REMOVE) and not part.other]
    if not parts:
        return
    if any(part.secret for part in parts):
        yield Line("the content has a secret and is not shown" if len(parts) < 2 else _SECRET)
        return
    texts = [_lines(part) for part in parts]
    if any(text is None for text in texts):
        yield from (_described(part, name) for part, name in _named(old, new, before, now) if part in parts)
        return
    a = _lines(old) if old in parts and old is not None else []
    b = _lines(new) if new in parts and new is not None else []
    yield from unified(a or [], b or [], before, now)


_SECRET = "the contents differ; they have a secret and are not shown"


def _named(
    old: Part | None, new: Part | None, before: str, now: str
) -> Iterator[tuple[Part, tuple[str, Style]]]:
    if old is not None:
        yield old, (f"-{before}", Style.REMOVED)
    if new is not None:
        yield new, (f"+{now}", Style.ADDED)


def _described(part: Part, name: tuple[str, Style]) -> Line:
    """A content that is not shown as text, in words."""
    label, style = name
    if part.content is None:
        size = f"{part.size} bytes" if part.size >= 0 else "a content"
        why = f", sha256 {part.digest[:16]}…, not kept" if part.digest else ", not shown: too large"
        return Line(f"{label}: {size}{why}", style)
    kind = "binary" if text_in(part.content) is None else "a text"
    digest = hashlib.sha256(part.content).hexdigest()
    return Line(f"{label}: {kind}, {len(part.content)} bytes, sha256 {digest[:16]}…", style)


def _lines(part: Part) -> list[str] | None:
    """The lines of a text; None if it is not known, binary, or too long."""
    if part.content is None or len(part.content) > _LONGEST:
        return None
    text = text_in(part.content)
    if text is None:
        return None
    lines = text.split("\n")
    if lines[-1] == "":
        return lines[:-1]
    return [*lines[:-1], f"{lines[-1]}\n\\ no line end at the end of the file"]


def unified(a: Sequence[str], b: Sequence[str], before: str, now: str) -> Iterator[Line]:
    """A unified diff of two texts by lines; only their lengths, if comparing them could take long."""
    head = _common(a, b)
    tail = _common(a[head:][::-1], b[head:][::-1])
    if (len(a) - head - tail) * (len(b) - head - tail) > _MOST:
        yield Line(f"-{before}: {len(a)} lines", Style.REMOVED)
        yield Line(f"+{now}: {len(b)} lines", Style.ADDED)
        return
    # What both begin and end with is compared by difflib only as far as it is shown.
    start, end = max(0, head - _CONTEXT), max(0, tail - _CONTEXT)
    diff = difflib.unified_diff(a[start : len(a) - end], b[start : len(b) - end], n=_CONTEXT, lineterm="")
    for number, line in enumerate(diff):
        if number < 2:
            yield Line(f"--- {before}" if number == 0 else f"+++ {now}", Style.HEAD)
        elif number > _SHOWN:
            yield Line(f"… more than {_SHOWN} lines", Style.PLACE)
            return
        elif line.startswith("@@"):
            yield Line(_moved(line, start), Style.PLACE)
        else:
            style = {"+": Style.ADDED, "-": Style.REMOVED}.get(line[0], Style.PLAIN)
            yield from (Line(part, style) for part in line.split("\n"))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many first lines of both are the same."""
    for number, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return number
    return min(len(a), len(b))


def _moved(hunk: str, by: int) -> str:
    """The heading of a hunk whose lines are counted ``by`` lines too low."""
    words = hunk.split(" ")
    for at in (1, 2):
        sign, (start, *count) = words[at][0], words[at][1:].split(",")
        words[at] = sign + ",".join([str(int(start) + by), *count])
    return " ".join(words)
