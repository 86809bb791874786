"""Options whose value may be omitted: ``--web``, ``--web ADDRESS:PORT``, ``--web=ADDRESS:PORT``.

click takes any word that follows for the value: ``piimg flash --web /dev/sdb`` would have no device. Here the
word that follows is the value only if it looks like one.
"""

import re
from collections.abc import Sequence
from typing import Any

import click


class OptionalValue(click.Option):
    """An option with the value ``bare`` where none is given; ``pattern`` is what a value looks like."""

    def __init__(self, *args: Any, bare: str, pattern: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bare, self.pattern = bare, re.compile(pattern)


def joined(args: Sequence[str], params: Sequence[click.Parameter]) -> list[str]:
    """``args`` with each of these options and its value as one word."""
    options = {name: one for one in params if isinstance(one, OptionalValue) for name in one.opts}
    words: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, word, *rest]
        option = options.get(word)
        if option is not None:
            value = rest.pop(0) if rest and option.pattern.fullmatch(rest[0]) else option.bare
            word = f"{word}={value}"
        words.append(word)
    return words
