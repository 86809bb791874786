"""Sheets of labels: where each label lies on the paper. Pure.

Sources of the sizes: Avery's product pages, and the templates of glabels (avery-us-templates.xml). On the A4
sheets the labels are centred: (210 - 3 * 63.5 - 2 * 2.54) / 2 = 7.21 mm from the left edge of L7160, and
(297 - 7 * 38.1) / 2 = 15.15 mm from its upper edge.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import segno
from markupsafe import Markup

_INCH = 25.4


class Paper(StrEnum):
    """The paper of a printer."""

    A4 = "a4"
    LETTER = "letter"

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in mm (ISO 216; ANSI/ASME Y14.1)."""
        return (210.0, 297.0) if self is Paper.A4 else (8.5 * _INCH, 11 * _INCH)


@dataclass(frozen=True)
class LabelSheet:
    """A sheet of labels. All lengths are in mm: of a label, of the distance from one to the next, of the
    margins, and of the QR code on a label, with its quiet zone.
    """

    name: str
    paper: Paper
    columns: int
    rows: int
    width: float
    height: float
    across: float
    down: float
    left: float
    top: float
    code: float

    @property
    def labels(self) -> int:
        """How many labels are on a sheet."""
        return self.columns * self.rows

    def places(self) -> Iterator[tuple[float, float]]:
        """The upper left corner of each label (x, y, in mm), row by row."""
        for row in range(self.rows):
            for column in range(self.columns):
                yield self.left + column * self.across, self.top + row * self.down


CASES = {
    Paper.A4: LabelSheet("Avery L7160", Paper.A4, 3, 7, 63.5, 38.1, 66.04, 38.1, 7.21, 15.15, 23),
    Paper.LETTER: LabelSheet(
        "Avery 5160", Paper.LETTER, 3, 10,
        2.625 * _INCH, _INCH, 2.75 * _INCH, _INCH, 0.1875 * _INCH, 0.5 * _INCH, 22,
    ),
}  # fmt: skip
"""The sheets for cases: 21 labels of 63.5 by 38.1 mm, and 30 of 2 5/8 by 1 inch."""

CARDS = {
    Paper.A4: LabelSheet("Avery L7651", Paper.A4, 5, 13, 38.1, 21.2, 40.64, 21.2, 4.67, 10.7, 16),
    Paper.LETTER: LabelSheet(
        "Avery 5167", Paper.LETTER, 4, 20,
        1.75 * _INCH, 0.5 * _INCH, 2.0625 * _INCH, 0.5 * _INCH, 0.28125 * _INCH, 0.5 * _INCH, 11.5,
    ),
}  # fmt: skip
"""The sheets for the boxes of cards: 65 labels of 38.1 by 21.2 mm, and 80 of 1 3/4 by 1/2 inch."""


def qr_code(text: str) -> Markup:
    """A QR code of ``text`` (ISO/IEC 18004, error correction at least M), as SVG with its quiet zone."""
    code = segno.make(text, micro=False, error="m")
    return Markup(code.svg_inline(scale=1, border=4, omitsize=True, dark="#000000", light="#ffffff"))
