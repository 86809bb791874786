"""The pictures of pages in docs/pictures: the page of `piimg flash --web`, and the sheet.

`make pictures` takes them anew. Each has the text of its page in it, which is compared with the page of now.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from tests.integration.card.pictures import Studio, all_are_written, make_cards
from tests.integration.card.rig import Rig, require
from tests.support.checkout import TOP
from tests.support.picture import comparable
from tests.system.browser.web.conftest import MakeViewer

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PICTURES = TOP / "docs" / "pictures"
WIDTH, HEIGHT = 1000, 900  # pixels
COLOURS = 96


@pytest.fixture
def studio(tmp_path: Path, specimen: Callable[[str], Path]) -> Studio:
    return Studio(tmp_path, specimen("trixie"))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    require()
    with ExitStack() as stack:
        yield Rig(tmp_path, stack)


def judge(page: Any, name: str, *selectors: str) -> None:
    """Compare the text of a page, or of parts of it, with that in its picture; or take the picture."""
    file = PICTURES / f"{name}.png"
    text = "\n".join(page.locator(selector).first.inner_text() for selector in selectors)
    if os.environ.get("PIIMG_WRITE_PICTURES") == "1":
        area = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT}
        shot = Image.open(io.BytesIO(page.screenshot(clip=area)))
        described = PngImagePlugin.PngInfo()
        described.add_itxt("Description", text)
        shot.convert("RGB").quantize(COLOURS).save(file, optimize=True, pnginfo=described)
    with Image.open(file) as kept:
        assert kept.size == (WIDTH, HEIGHT)
        assert isinstance(kept, PngImagePlugin.PngImageFile)
        before = str(kept.text["Description"])
    assert words(before) == words(text), (
        f"docs/pictures/{file.name} is not the page as it is now: make pictures"
    )


def words(text: str) -> list[str]:
    """The lines of a page that do not differ from run to run."""
    lines = [line.strip() for line in comparable(text).splitlines()]
    return [line for line in lines if line]


def test_the_page_while_six_cards_are_written_and_the_sheet(
    studio: Studio, rig: Rig, viewer: MakeViewer
) -> None:
    shown = {"viewport": {"width": WIDTH, "height": HEIGHT}, "color_scheme": "light"}
    command = ("flash", "--all", "--virtual", "--web", "127.0.0.1:0")
    with studio.running("piimg flash --web", *command, *make_cards(rig, "0.2")) as one:
        one.answer("Erase these 6 cards?", "y")
        found = re.search(r"page: (http://\S+/)", "\n".join(one.window.everything))
        assert found is not None
        seen = viewer(found[1], **shown)
        one.see(all_are_written)
        seen.until("document.querySelectorAll('.tile.writing').length === 6")
        judge(seen.page, "web", "main")
        one.end()
    studio.place.good("sheet")
    sheet = viewer((studio.place.build / "sheet.html").as_uri(), **shown)
    judge(sheet.page, "sheet", "h1", "table")
