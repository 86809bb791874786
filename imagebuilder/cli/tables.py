"""Text tables with columns as wide as their content."""

from collections.abc import Sequence

from imagebuilder.text import printable


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as lines: heads, then rows; columns that are empty in every row are omitted."""
    kept = [index for index in range(len(heads)) if any(row[index] for row in rows)]
    lines = [[printable(line[index], None) or "-" for index in kept] for line in (heads, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(kept))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
