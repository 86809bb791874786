"""Text from cards, servers, devices and programs, made safe to display and short enough; and sizes as text.

Escape sequences (ECMA-48) can move the cursor of a terminal, set its title, or simulate typing. Unicode can
also hide or reorder text (bidirectional controls, zero-width characters).
"""

import difflib
import unicodedata
from collections.abc import Collection

SHOWN = 100
"""The default limit of ``printable``, in characters."""

_BROAD = frozenset("mwMW@%&…—")


def printable(text: str, limit: int | None = SHOWN, *, keep: str = "", instead: str = "?") -> str:
    """``text`` with every character that is not printable replaced by ``instead``.

    Replaced are control characters (C0, C1, DEL), format characters (bidirectional controls, zero-width
    characters, tags), line and paragraph separators, blanks other than the space, surrogates, and private or
    unassigned code points: those for which ``str.isprintable`` is False, except the characters in ``keep``.
    The result has at most ``limit`` characters (None: no limit); a shortened text ends in an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else instead for c in text)


def size(count: int) -> str:
    """A number of bytes in decimal units, as card makers use them: 31.9 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if round(value, 1) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def did_you_mean(value: str, known: Collection[str]) -> str:
    """The end of a sentence that suggests a name similar to ``value``; empty if no name is similar.

    A different number is not a misspelling: worker1 is not suggested for worker9.
    """
    names = {
        name.lower(): name
        for name in sorted(known, reverse=True)
        if name.lower() == value.lower() or _letters(name) != _letters(value)
    }
    nearest = difflib.get_close_matches(value.lower(), names, 1, 0.6)
    return f"; is {names[nearest[0]]} meant?" if nearest else ""


def _letters(name: str) -> str:
    return name.lower().rstrip("0123456789")


def shortened(text: str, room: float, mono: bool = False) -> str:
    """``text`` in at most ``room`` em, by a safe estimate; what is left out is in the middle.

    Names often differ at their ends.
    """
    if _ems(text, mono) <= room:
        return text
    kept = len(text) - 1
    while kept > 1:
        head = (kept + 1) // 2
        candidate = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
        if _ems(candidate, mono) <= room:
            return candidate
        kept -= 1
    return "…"


def _ems(text: str, mono: bool) -> float:
    return sum(_em(character, mono) for character in text)


def _em(character: str, mono: bool) -> float:
    """A safe width of a character, in em, for common fonts."""
    if unicodedata.east_asian_width(character) in "WF" or (not character.isascii() and character.isalpha()):
        return 1.05
    if mono:
        return 0.61
    if character in _BROAD:
        return 1.0
    return 0.74 if character.isupper() else 0.6
