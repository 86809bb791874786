"""Options whose value may be omitted: ``--web``, ``--web ADDRESS:PORT``, ``--web=ADDRESS:PORT``.

click takes any word that follows for the value: ``piimg flash --web /dev/sdb`` would have no device. Here the
word that follows is the value only if it looks like one.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import click


class OptionalValue(click.Option):
    """An option with the value ``bare`` where none is given; ``pattern`` is what a value looks like.

    A word that follows and is neither a value nor a path is a mistake; ``form`` is what to write.
    """

    def __init__(self, *args: Any, bare: str, pattern: str, form: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bare, self.pattern, self.form = bare, re.compile(pattern), form

    def value_of(self, word: str, strict: bool) -> str | None:
        """``word`` if it is a value of the option, None if it is another argument. Raises BadOptionUsage."""
        if self.pattern.fullmatch(word):
            return word
        if not strict or word.startswith("-") or ("/" in word and "://" not in word) or os.path.lexists(word):
            return None
        name = self.opts[0]
        raise click.BadOptionUsage(name, f"{word} is no value of {name}: write {name} {self.form}")


def joined(args: Sequence[str], params: Sequence[click.Parameter], *, strict: bool = True) -> list[str]:
    """``args`` with each of these options and its value as one word.

    With ``strict``, raises click.BadOptionUsage for a word after one that is neither its value nor a path.
    """
    options = {name: param for param in params if isinstance(param, OptionalValue) for name in param.opts}
    words: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, word, *rest]
        option = options.get(word)
        if option is not None:
            value = option.value_of(rest[0], strict) if rest and rest[0] else None
            if value is not None:
                rest.pop(0)
            word = f"{word}={option.bare if value is None else value}"
        words.append(word)
    return words
