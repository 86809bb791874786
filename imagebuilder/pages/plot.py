"""Plots of one card's rates over time. Pure."""

import itertools
import math
from collections.abc import Sequence
from xml.etree.ElementTree import SubElement

from markupsafe import Markup

from imagebuilder.card.progress import READ_BACK, WRITE, Rate
from imagebuilder.pages.drawing import drawing, line, markup, painted, words

STROKES = {WRITE: ("accent", ""), READ_BACK: ("read", "")}
"""The colour and the dashes of each task; those of ``OTHER`` for all others."""

OTHER = ("soft", "3 3")

_WIDTH, _HEIGHT = 320, 128
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 310, 12, 104


def scale_of(largest: float) -> float:
    """The end of an axis for values up to ``largest``: 1, 2 or 5 times a power of ten."""
    if not 0 < largest < math.inf:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= largest)


def rate_plot(rates: Sequence[Rate], seconds: float, most: float, about: str) -> Markup:
    """The rates of a card in MB/s over ``seconds``, up to ``most`` bytes per second; one line for each task.

    Plots beside each other are comparable when they get the same ``seconds`` and ``most``.
    """
    svg = drawing(_WIDTH, _HEIGHT, about)
    top, seconds = scale_of(most / 1e6), max(seconds, 1.0)

    def place(rate: Rate) -> tuple[float, float]:
        x = _LEFT + (_RIGHT - _LEFT) * min(rate[0] / seconds, 1.0)
        return x, _BOTTOM - (_BOTTOM - _TOP) * min(rate[2] / 1e6 / top, 1.0)

    for part in (0.0, 0.5, 1.0):
        y = _BOTTOM - (_BOTTOM - _TOP) * part
        line(svg, [(_LEFT, y), (_RIGHT, y)], stroke="line", width=1)
        words(svg, _LEFT - 5, y + 3.5, f"{top * part:g}", size=10, fill="soft", anchor="end")
    for part in (0.0, 0.5, 1.0):
        x = _LEFT + (_RIGHT - _LEFT) * part
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[part]
        words(svg, x, _BOTTOM + 15, _clock(seconds * part), size=10, fill="soft", anchor=anchor)
    for task, group in itertools.groupby(rates, key=lambda rate: rate[1]):
        points = [place(rate) for rate in group]
        stroke, dash = STROKES.get(task, OTHER)
        if len(points) == 1:
            x, y = points[0]
            painted(SubElement(svg, "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2"), fill=stroke)
        else:
            line(svg, points, stroke=stroke, width=2, dash=dash)
    return markup(svg)


def _clock(seconds: float) -> str:
    """Seconds for an axis: ``8 s``, ``2:05`` or ``1:02:05``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole else "0"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
