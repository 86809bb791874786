"""Label sheets: each label is on its sheet, beside the others, and where the maker's sheets have it."""

import pytest

from imagebuilder.pages.labels import CARDS, CASES, LabelSheet, Paper, qr_code

SHEETS = [*CASES.values(), *CARDS.values()]
NAMES = [sheet.name for sheet in SHEETS]


@pytest.mark.parametrize("sheet", SHEETS, ids=NAMES)
def test_labels_are_on_the_paper_and_apart(sheet: LabelSheet) -> None:
    width, height = sheet.paper.size
    places = list(sheet.places())
    assert len(places) == len(set(places)) == sheet.labels
    assert sheet.across >= sheet.width and sheet.down >= sheet.height
    for x, y in places:
        assert x >= 0 and y >= 0 and x + sheet.width <= width and y + sheet.height <= height


@pytest.mark.parametrize("sheet", SHEETS, ids=NAMES)
def test_labels_are_centred_on_the_paper(sheet: LabelSheet) -> None:
    """As on the sheets that are sold: the margins on both sides are the same, to 0.1 mm."""
    width, height = sheet.paper.size
    places = list(sheet.places())
    right = width - max(x for x, _ in places) - sheet.width
    below = height - max(y for _, y in places) - sheet.height
    assert right == pytest.approx(sheet.left, abs=0.1)
    assert below == pytest.approx(sheet.top, abs=0.1)


def test_the_sheets_have_as_many_labels_as_their_makers_say() -> None:
    assert {sheet.name: sheet.labels for sheet in SHEETS} == {
        "Avery L7160": 21,
        "Avery 5160": 30,
        "Avery L7651": 65,
        "Avery 5167": 80,
    }
    assert set(Paper) == set(CASES) == set(CARDS)


def test_a_qr_code_is_a_drawing_with_a_quiet_zone() -> None:
    code = qr_code("ssh://pi@10.0.0.11")
    assert code.startswith("<svg") and "<script" not in code
    assert "pi@" not in code  # modules only: no text that could be markup
    assert qr_code("x" * 107)  # the longest account, and the longest name with .local
