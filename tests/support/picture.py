"""A terminal's screen as a picture: SVG with colours, for documents. It needs no script, font or other file.

The picture has a dark ground of its own, so it can be read on a light and on a dark page. Its text is in
``desc``, for readers who cannot see it, and for the test that compares it with what the command prints now.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement, fromstring, indent, tostring

import pyte
from pyte.screens import Char

_CELL, _LINE, _MARGIN, _TOP = 7.8, 17, 16, 34  # pixels
_FONT = '"DejaVu Sans Mono","SF Mono",Menlo,Consolas,monospace'
_GROUND, _TEXT, _STRONG = "#0d1117", "#d8dee4", "#ffffff"
_COLOURS = {
    **{"default": _TEXT, "black": "#8b949e", "red": "#ff7b72", "green": "#56d364", "brown": "#e3b341"},
    **{"blue": "#79c0ff", "magenta": "#d2a8ff", "cyan": "#76e3ea", "white": _STRONG},
}
_BLOCKS = {chr(0x2590 - eighths): eighths / 8 for eighths in range(1, 9)}  # U+2588 to U+258F
_VARYING = (
    (r"loop\d+", "loopN"),
    (r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}", "TIME"),
    (r"\d+:\d{2}", "TIME"),
    (r"\d+(\.\d+)? [kMG]?B/s", "RATE"),
    (r"\d+ ?%", "PERCENT"),
    (r"\d+(\.\d+)? [kMG]?B\b", "AMOUNT"),
    (r"\d+(\.\d+)? s\b", "TIME"),
    (r"\|[\u2588-\u258f ]*\|", "BAR"),
    (r"\b[0-9a-f]{12,}", "DIGEST"),
    (r"\d+ the same|and \d+ more", "COUNT"),
    (r"/\S*/(?=\S)", "FOLDER/"),
    (r" +", " "),
)


@dataclass(frozen=True)
class Picture:
    """What is on a screen: its lines of cells, down to the last one that is not empty."""

    title: str
    rows: tuple[tuple[Char, ...], ...]

    @property
    def text(self) -> str:
        """The lines without what is empty at their ends."""
        return "\n".join("".join(cell.data for cell in row).rstrip() for row in self.rows)


def taken(screen: pyte.Screen, title: str) -> Picture:
    """The screen as it is now."""
    rows = [
        tuple(screen.buffer[number][at] for at in range(screen.columns)) for number in range(screen.lines)
    ]
    while rows and not "".join(cell.data for cell in rows[-1]).strip():
        rows.pop()
    return Picture(title, tuple(rows))


def svg(picture: Picture) -> str:
    """The picture as a file of its own."""
    columns = max(len(row) for row in picture.rows)
    width = round(2 * _MARGIN + columns * _CELL)
    height = _TOP + len(picture.rows) * _LINE + _MARGIN
    top = Element(
        "svg",
        {
            **{"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}"},
            **{"width": f"{width}", "height": f"{height}", "role": "img", "aria-labelledby": "title desc"},
        },
    )
    SubElement(top, "title", id="title").text = picture.title
    SubElement(top, "desc", id="desc").text = picture.text
    SubElement(top, "rect", width="100%", height="100%", rx="8", fill=_GROUND)
    for at, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        SubElement(top, "circle", cx=f"{20 + 18 * at}", cy="18", r="5", fill=colour)
    look = {"font-family": _FONT, "font-size": "13", "fill": _TEXT}
    screen = SubElement(top, "g", look)
    for number, row in enumerate(picture.rows):
        for at, cells in _runs(row):
            _draw(screen, cells, _MARGIN + at * _CELL, _TOP + (number + 1) * _LINE)
    indent(top, "")
    return tostring(top, encoding="unicode") + "\n"


def _runs(row: Sequence[Char]) -> Iterator[tuple[int, list[Char]]]:
    """The parts of a line that look the same, and where they begin. No part has two blanks beside each other,
    because not every program that shows SVG keeps them."""

    def look(cell: Char) -> tuple[object, ...]:
        return (cell.data in _BLOCKS, cell.fg, cell.bold)

    at = 0
    for _, group in groupby(row, look):
        cells = list(group)
        for words in re.finditer(r"\S+(?: \S+)*", "".join(cell.data for cell in cells)):
            yield at + words.start(), cells[words.start() : words.end()]
        at += len(cells)


def _draw(screen: Element, cells: Sequence[Char], x: float, baseline: int) -> None:
    """One part of a line: a bar as a box, anything else as text of exactly its width."""
    first = cells[0]
    colour = _STRONG if first.bold and first.fg == "default" else _COLOURS[first.fg.removeprefix("bright")]
    if first.data in _BLOCKS:
        width = sum(_BLOCKS[cell.data] for cell in cells) * _CELL
        box = {"x": f"{x:.1f}", "y": f"{baseline - 12}", "width": f"{width:.1f}", "height": f"{_LINE - 2}"}
        SubElement(screen, "rect", {**box, "fill": colour})
        return
    look = {"x": f"{x:.1f}", "y": f"{baseline}", "textLength": f"{len(cells) * _CELL:.1f}"}
    if colour != _TEXT:
        look["fill"] = colour
    if first.bold:
        look["font-weight"] = "bold"
    SubElement(screen, "text", look).text = "".join(cell.data for cell in cells)


def kept_text(document: str) -> str:
    """The text of a picture that ``svg`` made."""
    found = fromstring(document).find("{http://www.w3.org/2000/svg}desc")
    return (found.text if found is not None else None) or ""


def comparable(text: str) -> str:
    """``text`` without what differs from run to run: times, rates, amounts, counts, devices, folders."""
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text)
    return text
