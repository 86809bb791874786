"""Text tables with columns as wide as their content, or as the terminal lets them be."""

import shutil
import sys
from collections.abc import Sequence

from imagebuilder.text import printable

_GAP = 2  # columns between two columns
_NARROWEST = 8  # columns that a list is not narrowed below


def columns() -> int:
    """The width of the terminal; without one, lines are not wrapped."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as lines: heads, then rows; columns that are empty in every row are omitted."""
    kept = [index for index in range(len(heads)) if any(row[index] for row in rows)]
    lines = [[printable(line[index], None) or "-" for index in kept] for line in (heads, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(kept))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def fitted_table(
    heads: Sequence[str], rows: Sequence[Sequence[str | Sequence[str]]], columns: int
) -> list[str]:
    """As ``table``, in at most ``columns`` columns, if that is possible: a cell that is a list is wrapped."""
    kept = [index for index in range(len(heads)) if any(row[index] for row in rows)]
    items = [[_items(line[index]) for index in kept] for line in (heads, *rows)]
    widths = [max(len(", ".join(line[column])) for line in items) for column in range(len(kept))]
    least = [
        min(widths[column], max(_NARROWEST, *(len(item) + 1 for line in items for item in line[column])))
        for column in range(len(kept))
    ]
    while sum(widths) + _GAP * (len(widths) - 1) > columns:
        widest = max(range(len(widths)), key=lambda column: widths[column] - least[column])
        if widths[widest] <= least[widest]:
            break
        widths[widest] -= 1
    return [
        text
        for line in items
        for text in _wrapped([_cell(cell, width) for cell, width in zip(line, widths, strict=True)], widths)
    ]


def _items(cell: str | Sequence[str]) -> list[str]:
    whole = [cell] if isinstance(cell, str) else cell
    return [printable(item, None) for item in whole if item] or ["-"]


def _cell(items: Sequence[str], width: int) -> list[str]:
    """The lines of a cell: as many items in each as fit."""
    lines = [items[0]]
    for item in items[1:]:
        if len(lines[-1]) + len(f", {item},") <= width or len(lines[-1]) + len(f", {item}") == width:
            lines[-1] += f", {item}"
        else:
            lines[-1] += ","
            lines.append(item)
    return lines


def _wrapped(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    height = max(map(len, cells))
    return [
        (" " * _GAP)
        .join(
            f"{cell[number] if number < len(cell) else '':<{w}}"
            for cell, w in zip(cells, widths, strict=True)
        )
        .rstrip()
        for number in range(height)
    ]
