"""Which renderer a run gets: the ``--progress`` option, and what standard error is."""

import os
import sys
from typing import Literal

from imagebuilder.cli.progress.base import Renderer
from imagebuilder.cli.progress.jsonlines import JsonLines
from imagebuilder.cli.progress.plain import Plain

Mode = Literal["auto", "bar", "plain", "json"]


def renderer(mode: Mode) -> Renderer:
    """The renderer for ``mode``; ``auto`` is bars at a terminal, plain lines elsewhere.

    A terminal that cannot move its cursor (TERM=dumb) gets plain lines in any case.
    """
    if mode == "json":
        return JsonLines(sys.stderr)
    able = os.environ.get("TERM", "dumb") != "dumb" if sys.stderr.isatty() else mode == "bar"
    if mode != "plain" and able:
        from imagebuilder.cli.progress.bars import Bars  # with it comes tqdm, which nobody else waits for

        return Bars(sys.stderr)
    return Plain(sys.stderr)
