"""Choosing the renderer: the ``--progress`` option, and the kind of standard error."""

import os
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from imagebuilder.cli.progress.base import Renderer

Mode = Literal["auto", "bar", "plain", "json"]


def renderer(mode: Mode) -> "Renderer":
    """The renderer for ``mode``; ``auto`` is bars at a terminal, plain lines elsewhere.

    A terminal that cannot move its cursor (TERM=dumb) always gets plain lines.
    """
    if mode == "json":
        from imagebuilder.cli.progress.jsonlines import JsonLines

        return JsonLines(sys.stderr)
    able = os.environ.get("TERM", "dumb") != "dumb" if sys.stderr.isatty() else mode == "bar"
    if mode != "plain" and able:
        from imagebuilder.cli.progress.bars import Bars  # imports tqdm, which takes time

        return Bars(sys.stderr)
    from imagebuilder.cli.progress.plain import Plain

    return Plain(sys.stderr)
