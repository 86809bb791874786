"""The common options after the command: `piimg build --all -v` means `piimg -v build --all`."""

from collections.abc import Callable, Sequence

import click

from imagebuilder.cli.optional_value import OptionalValue

_MAYBE = "maybe"


def moved_to_front(
    args: Sequence[str], common: Sequence[click.Parameter], command: Callable[[str], click.Command | None]
) -> list[str]:
    """``args`` with the options of ``common`` that follow the command moved before it.

    ``command`` gives a command by its name. An option that the command has itself stays, and so does all that
    is the value of an option, or follows "--". Raises click.BadOptionUsage for one without its value.
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
    rest = words[at + 1 :]
    while rest:
        word = rest.pop(0)
        if word == "--":
            kept += [word, *rest]
            break
        name, joined, _ = word.partition("=")
        late = name not in own and (name in values or (set(word[1:]) == {"v"} and word[0] == "-"))
        takes = values.get(name) if late else own.get(name)
        if takes == _MAYBE and rest and not rest[0].startswith("-"):
            takes = True
        needs = takes is True and not joined
        if needs and late and not rest:  # click would take the command for its value
            raise click.BadOptionUsage(word, f"Option {word!r} requires an argument.")
        value = [rest.pop(0)] if needs and rest else []
        (front if late else kept).extend([word, *value])
    return front + kept


def refuse_empty(args: Sequence[str], context: click.Context) -> None:
    """Raise click.BadParameter for an empty word, or an option with an empty value: "$X" that is not set."""
    before = ""
    for word in args:
        option, joined, value = word.partition("=")
        if not word:
            named = f"the value of {before}" if before.startswith("-") and before != "--" else "an argument"
        elif word.startswith("--") and joined and not value:
            named = f"the value of {option}"
        else:
            before = word
            continue
        raise click.UsageError(f"{named[0].upper()}{named[1:]} is empty.", context)


def _takes_value(params: Sequence[click.Parameter]) -> dict[str, bool | str]:
    """Each name of an option, and whether a value follows it; without --version and --help."""
    options = (param for param in params if isinstance(param, click.Option) and not param.is_eager)
    return {name: _takes(option) for option in options for name in (*option.opts, *option.secondary_opts)}


def _takes(option: click.Option) -> bool | str:
    """Whether an option takes a value; ``_MAYBE`` if it has one of its own when none follows."""
    if option.is_flag or option.count or isinstance(option, OptionalValue):
        return False
    return _MAYBE if isinstance(option.flag_value, str) else True
