"""A QR code for a terminal: a phone opens the page without anybody typing its token."""

import segno

_BORDER = 2  # modules; four are the standard (ISO/IEC 18004), but a terminal is narrow, and readers take two
_BLOCKS = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}


def code_lines(text: str) -> list[str]:
    """``text`` as a QR code, two rows of it in each line, to be printed dark on light."""
    rows = [
        tuple(map(bool, row)) for row in segno.make(text, error="l", micro=False).matrix_iter(border=_BORDER)
    ]
    rows += [(False,) * len(rows[0])] * (len(rows) % 2)
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return ["".join(_BLOCKS[pair] for pair in zip(upper, lower, strict=True)) for upper, lower in pairs]
