"""The common options after the command: `piimg build --all -v` means `piimg -v build --all`."""

from collections.abc import Callable, Sequence

import click


def moved_to_front(
    args: Sequence[str], common: Sequence[click.Parameter], command: Callable[[str], click.Command | None]
) -> list[str]:
    """``args`` with the options of ``common`` that follow the command moved before it.

    ``command`` gives a command by its name. An option that the command has itself stays, and so does all that
    is the value of an option, or follows "--".
    """
    words, values = list(args), _takes_value(common)
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if values.get(words[at]) else 1
    found = command(words[at]) if at < len(words) else None
    if found is None:
        return words
    own = _takes_value(found.params)
    front, kept = words[:at], [words[at]]
    rest = iter(words[at + 1 :])
    for word in rest:
        if word == "--":
            kept += [word, *rest]
            break
        name, joined, _ = word.partition("=")
        late = name not in own and (name in values or (set(word[1:]) == {"v"} and word[0] == "-"))
        takes = values.get(name) if late else own.get(name)
        (front if late else kept).extend([word, *([next(rest, "")] if takes and not joined else [])])
    return front + kept


def _takes_value(params: Sequence[click.Parameter]) -> dict[str, bool]:
    """Each name of an option, and whether a value follows it; without --version and --help."""
    options = (param for param in params if isinstance(param, click.Option) and not param.is_eager)
    return {
        name: not (one.is_flag or one.count) for one in options for name in (*one.opts, *one.secondary_opts)
    }
