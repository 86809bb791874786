"""A command of piimg: what ``piimg --help`` and completion show of it, and when its session begins.

A help text must be there at once. So nothing is imported here, or by ``cli/usage/``, but click, pathlib and
what is as light (tests/unit/cli/test_starting.py); the session and the work are imported when a command runs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import click

from imagebuilder.cli.late_options import refuse_empty
from imagebuilder.cli.optional_value import joined

COMMANDS: Mapping[str, str] = {
    "init": "Create a cluster folder.",
    "plan": "Show what each node gets.",
    "fetch": "Put a base image into the cache, checked.",
    "build": "Build node images: NODE.img, NODE.bmap and NODE.json.",
    "boot": "Boot node images in emulation and check them.",
    "cards": "List slots and cards, and what cannot be written.",
    "flash": "Write cards and read them back.",
    "station": "Write each card as it is put in.",
    "status": "Show what is prepared, and which cards are outdated.",
    "verify": "Compare a card with its node image.",
    "backup": "Save what is on a card to a file.",
    "inspect": "Show what is on an image or a card.",
    "sheet": "Make a page to print: network, labels, first power-on.",
    "export": "Print what your own machine needs: ssh, Ansible.",
    "secrets": "Keep the value of a secret.",
    "cleanup": "Free what a killed piimg left behind.",
    "doctor": "Show what is missing, and what fixes it.",
}
"""The commands, in the order of use, with their short helps. Each is in the module of its name in usage/."""


Lists = Callable[[], Mapping[str, Mapping[str, str]]]
"""What a help text lists besides options: titles, and what stands below each with a text."""


class Command(click.Command):
    """A command that runs in a session, of the options before it; a wrong usage of it is logged, too.

    Its help text has the ``lists`` after the options.
    """

    def __init__(self, *args: Any, lists: Lists = dict, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lists = lists

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, and then the lists."""
        super().format_options(ctx, formatter)
        for title, rows in self.lists().items():
            with formatter.section(title):
                formatter.write_dl(list(rows.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; the value of an OptionalValue may be omitted, and no value is empty."""
        if not ctx.resilient_parsing:
            refuse_empty(args, ctx)
        return super().parse_args(ctx, joined(args, self.params, strict=not ctx.resilient_parsing))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click does."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError:
            if parent is not None:
                from imagebuilder.cli.session import session_of

                with session_of(parent.params):
                    raise
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with the session as ``ctx.obj``."""
        from imagebuilder.cli.session import session_of

        with session_of(ctx.find_root().params) as ctx.obj:
            from imagebuilder.cli.inputs import refuse_inputs

            refuse_inputs(ctx.obj.workspace if ctx.obj.has_manifest else None, ctx)
            return super().invoke(ctx)


def command(name: str, examples: str, lists: Lists = dict) -> Callable[[Callable[..., None]], Command]:
    """The decorator of the command ``name``; ``examples`` ends its help, after the ``lists``."""
    return click.command(name, cls=Command, short_help=COMMANDS[name], epilog=examples, lists=lists)
