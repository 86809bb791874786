"""The results of a benchmark: the table, the JSON document and the plots."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from bench.context import Aim, Bench, Point, Row
from imagebuilder import __version__

MIB = 1 << 20  # bytes
_HEADS = ("", "s", "ratio", "of", "target", "", "core-s/GB", "RSS MiB", "written", "read", "busy")
_LEFT = (0, 3)  # columns of text

# Drawing: pixels
_WIDTH, _HEIGHT, _LEFT_EDGE, _BOTTOM, _TOP = 900, 320, 60, 40, 40
_DASHES = {"write": "", "read-back": "5 3", "read": "5 3", "compare": "1 3"}
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")


def table(rows: Sequence[Row]) -> str:
    """The rows for people: ``written`` and ``read`` in MiB a card, ``busy`` in cores of the machine."""
    lines = [_HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    text = []
    for number, line in enumerate(lines):
        cells = [
            cell.ljust(width) if column in _LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
        if number and rows[number - 1].note:
            text.append(f"    {rows[number - 1].note}")
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        f"{row.seconds:.2f}" if row.seconds else "",
        "" if row.ratio is None else f"{row.ratio:.3f}",
        f"{row.to} {row.reference:.2f}" if row.reference else "",
        "" if row.target is None else f"{row.target:.2f}",
        {True: "met", False: "missed", None: ""}[row.met],
        "" if row.cpu is None else f"{row.cpu:.2f}",
        f"{row.rss / MIB:.0f}" if row.rss else "",
        f"{row.written / MIB:.0f}" if row.written else "",
        f"{row.read / MIB:.0f}" if row.read else "",
        f"{row.busy:.2f}" if row.busy else "",
    )


def save(bench: Bench) -> None:
    """Write results.json and a plot per run to the folder of the benchmark."""
    document = {
        "format": 1,
        "tool": f"piimg {__version__}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"kernel": platform.release(), "processors": os.cpu_count()},
        "quick": bench.quick,
        "rows": [row.document() for row in bench.rows],
        "aims": [aim.document() for aim in bench.aims],
        "rates": bench.plots,
    }
    (bench.work / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    for name, lines in bench.plots.items():
        (bench.work / f"{name}.svg").write_text(plot(name, lines))


def plot(name: str, lines: dict[str, list[Point]]) -> str:
    """Rate over time as SVG, a line a card: solid where it is written, dashed where it is read."""
    points = [point for line in lines.values() for point in line]
    longest = max((point[0] for point in points), default=1.0) or 1.0
    fastest = max((point[2] for point in points), default=1.0) or 1.0
    drawing = _Drawing(longest, fastest)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT_EDGE}" y="16" font-size="13">{escape(name)}: MiB/s a card over seconds</text>',
        *drawing.grid(),
    ]
    for number, (card, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        parts += drawing.line(line, colour)
        if number < len(_COLOURS) * 2:
            where = f'x="{_LEFT_EDGE + 70 * number}" y="32" fill="{colour}"'
            parts.append(f"<text {where}>{escape(card)}</text>")
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Drawing:
    """Where seconds and bytes a second lie on the page."""

    def __init__(self, seconds: float, rate: float) -> None:
        self.seconds, self.rate = seconds, rate * 1.05

    def x(self, seconds: float) -> float:
        return _LEFT_EDGE + seconds / self.seconds * (_WIDTH - _LEFT_EDGE - 20)

    def y(self, rate: float) -> float:
        return _HEIGHT - _BOTTOM - rate / self.rate * (_HEIGHT - _BOTTOM - _TOP)

    def grid(self) -> list[str]:
        """Five lines across, with their rates, and ten marks of time."""
        parts = []
        for step in range(6):
            rate = self.rate * step / 5
            y, right = self.y(rate), _WIDTH - 20
            parts.append(f'<path d="M{_LEFT_EDGE} {y:.1f}H{right}" stroke="#ddd" fill="none"/>')
            label = f"{rate / MIB:.0f}"
            parts.append(f'<text x="{_LEFT_EDGE - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        for step in range(11):
            at = self.seconds * step / 10
            place = f'x="{self.x(at):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle"'
            parts.append(f"<text {place}>{at:.1f}</text>")
        return parts

    def line(self, points: Sequence[Point], colour: str) -> list[str]:
        """One path for each stretch of the same phase."""
        parts: list[str] = []
        start = 0
        for index in range(1, len(points) + 1):
            if index < len(points) and points[index][1] == points[start][1]:
                continue
            stretch = points[max(0, start - 1) : index]
            path = "L".join(f"{self.x(at):.1f} {self.y(rate):.1f}" for at, _, rate in stretch)
            dashes = _DASHES.get(points[start][1], "")
            style = f'stroke="{colour}" stroke-dasharray="{dashes}" fill="none"'
            parts.append(f'<path d="M{path}" {style}/>')
            start = index
        return parts


def compare_with_rivals(bench: Bench) -> None:
    """Add what is compared with another tool of the same run."""
    fresh, before = bench.row_of("fresh"), bench.row_of("fresh-older")
    bmaptool, etcher = bench.row_of("bmaptool"), bench.row_of("etcher")
    if not fresh or not before:
        return
    if bmaptool:
        slower, faster = before.seconds / bmaptool.seconds, fresh.seconds / bmaptool.seconds
        bench.aim("six new cards", "of bmaptool's time", slower, faster, 1.0)
    if etcher and etcher.cpu and fresh.cpu and before.cpu:
        more, less = before.cpu / etcher.cpu, fresh.cpu / etcher.cpu
        note = f"etcher-sdk {etcher.cpu:.2f} core-s a GB"
        note += f", bmaptool {bmaptool.cpu:.2f}" if bmaptool and bmaptool.cpu else ""
        bench.aim("processor time of six new cards", "of etcher-sdk's", more, less, 1.0, note)


def _targets(aims: Sequence[Aim]) -> str:
    """The figures that have a target."""
    lines = [("", "older", "now", "target", "", "")]
    lines += [
        (
            aim.what,
            "" if aim.older is None else f"{aim.older:.2f}",
            f"{aim.now:.2f}",
            f"{aim.most:.2f}",
            aim.unit,
            "met" if aim.met else "missed",
        )
        for aim in aims
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = []
    for number, line in enumerate(lines):
        cells = [
            cell.ljust(width) if column in (0, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
        if number and aims[number - 1].note:
            text.append(f"    {aims[number - 1].note}")
    return "\n".join(text)


def summary(bench: Bench, problems: dict[str, str]) -> str:
    """The table, the figures that have a target, and the scenarios that could not be measured and why."""
    text = [table(bench.rows), ""]
    if bench.aims:
        text.append(_targets(bench.aims))
    text += [f"\n{name}: not measured: {why}" for name, why in problems.items()]
    return "\n".join(text)
