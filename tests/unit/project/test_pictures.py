"""The pictures of the documents: each is shown somewhere, none is missing, none loads or runs anything."""

import re
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pyte
import pytest

from tests.support.checkout import TOP
from tests.support.picture import comparable, kept_text, svg, taken
from tests.unit.project.test_docs import DOCUMENTS

PICTURES = sorted((TOP / "docs" / "pictures").iterdir())
LARGEST = 150_000  # bytes
_SHOWN = re.compile(r"!\[([^]]+)\]\(([^)\s]+)\)")


def shown() -> set[Path]:
    """The pictures that the documents show. Each has a text for those who cannot see it."""
    return {
        (document.parent / target).resolve()
        for document in DOCUMENTS
        for _, target in _SHOWN.findall(document.read_text("utf-8"))
    }


def test_each_picture_is_shown_and_each_that_is_shown_is_there() -> None:
    assert shown() == set(PICTURES)
    text = "".join(document.read_text("utf-8") for document in DOCUMENTS)
    assert text.count("![") == len(_SHOWN.findall(text)), "a picture without a text"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_it_is_small_and_loads_nothing(picture: Path) -> None:
    assert picture.stat().st_size < LARGEST
    if picture.suffix == ".svg":
        text = picture.read_text("utf-8")
        kinds = {element.tag.rpartition("}")[2] for element in fromstring(text).iter()}
        assert kinds <= {"svg", "title", "desc", "rect", "circle", "g", "text"}
        assert not re.search(r"url\(|href|@import|<!|\bon\w+=", text)


def test_a_picture_has_what_is_on_the_screen() -> None:
    screen = pyte.Screen(40, 4)
    pyte.Stream(screen).feed("\x1b[1m$ piimg <plan>\x1b[0m\r\nworker1  \x1b[32mgood\x1b[0m |██▌  |\r\n")
    made = svg(taken(screen, "A title"))
    assert kept_text(made) == "$ piimg <plan>\nworker1  good |██▌  |"
    top = fromstring(made)
    texts = {one.text: one for one in top.iter("{http://www.w3.org/2000/svg}text")}
    assert list(texts) == ["$ piimg <plan>", "worker1", "good", "|"]
    assert texts["$ piimg <plan>"].get("font-weight") == "bold"
    assert texts["good"].get("fill") == "#56d364"
    assert float(texts["good"].get("x", "0")) == pytest.approx(16 + 9 * 7.8, abs=0.1)
    bars = [one for one in top.iter("{http://www.w3.org/2000/svg}rect") if one.get("x")]
    assert [float(bar.get("width", "0")) for bar in bars] == [pytest.approx(2.5 * 7.8, abs=0.1)]


def test_what_varies_is_not_compared_and_all_else_is() -> None:
    first = "master  loop6   write  39% |███▌   |  3.1 MB/s  0:13"
    later = "master  loop12  write   7% |▌      | 14.0 MB/s  1:02"
    assert comparable(first) == comparable(later)
    assert comparable(first) != comparable(first.replace("write", "read-back"))
    assert comparable("good") != comparable("bad")
