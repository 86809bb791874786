"""A path as the value of an option or an argument."""

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path


class Output:
    """A path of what a command writes: it must not be one of its inputs (inputs.py)."""


class OutputName(Output, click.Path):
    """The file of an output option, which may be "-", as text."""


class FilePath(click.Path):
    """As ``click.Path``, but gives a ``pathlib.Path``; pathlib is imported only then, not for a help text."""

    def convert(
        self, value: "str | os.PathLike[str]", param: click.Parameter | None, ctx: click.Context | None
    ) -> "Path":
        """The path. Raises click.BadParameter when it is not what the option takes."""
        from pathlib import Path

        return Path(os.fsdecode(super().convert(value, param, ctx)))


class OutputPath(Output, FilePath):
    """The file or the folder of an output option."""
