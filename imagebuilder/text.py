"""Text from outside, made fit to be shown: a card, a server, a device or a program may say anything.

A terminal obeys what it is sent (ECMA-48): an escape sequence moves the cursor, sets the title, or types
for the user. Unicode can also hide text or turn it around (bidirectional controls, zero-width characters).
"""

import difflib
from collections.abc import Collection

SHOWN = 100
"""Characters that are shown of one text, where nothing else is said."""


def printable(text: str, limit: int | None = SHOWN, *, keep: str = "", instead: str = "?") -> str:
    """``text`` with every character that is not printable replaced by ``instead``.

    Replaced are control characters (C0, C1, DEL), format characters (bidirectional controls, zero-width
    characters, tags), line and paragraph separators, blanks other than the space, surrogates, and private or
    unassigned code points: what ``str.isprintable`` refuses, but for the characters in ``keep``.
    At most ``limit`` characters come back (None: all); the last one is then an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else instead for c in text)


def did_you_mean(value: str, known: Collection[str]) -> str:
    """The end of a sentence that names what ``value`` may be meant for; empty when nothing is near.

    Another number is no misspelling: nothing is said of worker9 where there are worker1 and worker2.
    """
    near = {one.lower(): one for one in sorted(known, reverse=True) if _letters(one) != _letters(value)}
    meant = difflib.get_close_matches(value.lower(), near, 1, 0.6)
    return f"; is {near[meant[0]]} meant?" if meant else ""


def _letters(name: str) -> str:
    return name.lower().rstrip("0123456789")
