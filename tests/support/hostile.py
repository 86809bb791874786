"""Text that a terminal would obey."""

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2066\u200b\u2028\x85\x7f\r"
"""Sets the title, clears the screen, turns text around, hides text, breaks lines."""


def harmless(said: str) -> bool:
    """Whether a terminal would do nothing but show lines."""
    return all(c.isprintable() or c == "\n" for c in said)
