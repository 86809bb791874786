"""The sheet and the results of a boot in a real browser: at each width, dark and light, and on paper."""

import dataclasses
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from imagebuilder.model import Cluster
from imagebuilder.pages.labels import CARDS, CASES, Paper
from imagebuilder.pages.rendering import pdf
from imagebuilder.pages.sheet import sheet_page
from tests.system.browser.conftest import Scheme, cut_texts, outside_their_picture, overflowing, shown
from tests.unit.pages.making import example, poisoned_cluster, sheet_of, with_gateway
from tests.unit.pages.test_boot_report import page_of, proof

pytestmark = pytest.mark.browser

WIDTHS = (360, 768, 1280)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
MM = 96 / 25.4  # CSS pixels


def long_names() -> Cluster:
    """A cluster whose names are as long, and as wide, as the manifest accepts."""
    cluster = example()
    nodes = tuple(
        dataclasses.replace(node, name=f"{number}{letter * 61}{number}")
        for number, (node, letter) in enumerate(zip(cluster.nodes, "WmiWMx", strict=True))
    )
    wifi = dataclasses.replace(nodes[0].wifi, ssid="W" * 32) if nodes[0].wifi else None
    nodes = (dataclasses.replace(nodes[0], wifi=wifi), *nodes[1:])
    return with_gateway(dataclasses.replace(cluster, name="M" * 63, nodes=nodes), node=nodes[0].name)


PAGES = {
    "sheet": lambda: sheet_page(sheet_of(example())),
    "letter": lambda: sheet_page(dataclasses.replace(sheet_of(example()), paper=Paper.LETTER)),
    "long names": lambda: sheet_page(sheet_of(long_names())),
    "long names, letter": lambda: sheet_page(dataclasses.replace(sheet_of(long_names()), paper=Paper.LETTER)),
    "hostile": lambda: sheet_page(sheet_of(poisoned_cluster())),
    "boot": lambda: page_of(proof()),
}


def saved(folder: Path, text: str) -> Path:
    file = folder / "page.html"
    file.write_text(text)
    return file


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_it_fits_and_asks_for_nothing(
    browser: Browser, tmp_path: Path, name: str, width: int, scheme: Scheme
) -> None:
    with shown(browser, saved(tmp_path, PAGES[name]()), width, scheme) as page:
        assert overflowing(page) == []
        assert outside_their_picture(page) == []
        if name != "hostile":  # its names are longer than a manifest accepts
            assert cut_texts(page, ".label, .label-text") == []
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        dark = sum(map(int, re.findall(r"\d+", ground)[:3])) < 200
        assert dark == (scheme == "dark")


def test_what_reaches_too_far_is_seen(browser: Browser, tmp_path: Path) -> None:
    """The test above must be able to fail."""
    text = PAGES["sheet"]().replace("</main>", '<div style="width:2000px">wide</div></main>')
    text = text.replace(">worker3<", f">{'W' * 60}<")
    with shown(browser, saved(tmp_path, text), 768) as page:
        assert "the page" in overflowing(page)
        assert outside_their_picture(page) and cut_texts(page, ".label-text, .label")


@pytest.mark.parametrize("paper", Paper)
def test_labels_lie_where_the_sheets_have_them(browser: Browser, tmp_path: Path, paper: Paper) -> None:
    """As the browser lays them out for print: to a tenth of a millimetre."""
    text = sheet_page(dataclasses.replace(sheet_of(example()), paper=paper))
    with shown(browser, saved(tmp_path, text), 1280) as page:
        page.emulate_media(media="print")
        for kind, sheet in (("case", CASES[paper]), ("card", CARDS[paper])):
            frame = page.locator(f"section.{kind} .label-page").bounding_box()
            assert frame is not None
            for number, (x, y) in zip(range(6), sheet.places(), strict=False):
                label = page.locator(f"section.{kind} .label").nth(number).bounding_box()
                assert label is not None
                found = [label["x"] - frame["x"], label["y"] - frame["y"], label["width"], label["height"]]
                assert found == pytest.approx([x * MM, y * MM, sheet.width * MM, sheet.height * MM], abs=0.4)
        assert cut_texts(page, ".label, .label-text") == []


def printed(browser: Browser, file: Path, target: Path) -> Path:
    with shown(browser, file, 1280) as page:
        page.pdf(path=target, prefer_css_page_size=True, print_background=True)
    return target


def by_weasyprint(browser: Browser, file: Path, target: Path) -> Path:
    target.write_bytes(pdf(file.read_text()))
    return target


def pages_of(document: Path) -> list[tuple[float, float]]:
    """The sizes of the pages of a PDF, in mm."""
    done = subprocess.run(["pdfinfo", "-l", "99", document], capture_output=True, text=True, check=True)
    sizes = re.findall(r"Page +\d+ size: +([\d.]+) x ([\d.]+) pts", done.stdout)
    return [(float(width) / 72 * 25.4, float(height) / 72 * 25.4) for width, height in sizes]


def text_on(document: Path, page: int) -> str:
    words = ["pdftotext", "-layout", "-f", str(page), "-l", str(page), str(document), "-"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("how", [printed, by_weasyprint])
@pytest.mark.parametrize("paper", Paper)
def test_on_paper(
    browser: Browser, tmp_path: Path, paper: Paper, how: Callable[[Browser, Path, Path], Path]
) -> None:
    """From the browser and as piimg's own PDF: pages of the paper's size, one page for each kind of label,
    QR codes that a reader reads, nothing dark."""
    sheet = dataclasses.replace(sheet_of(example()), paper=paper)
    document = how(browser, saved(tmp_path, sheet_page(sheet)), tmp_path / "sheet.pdf")
    sizes = pages_of(document)
    assert all(size == pytest.approx(paper.size, abs=0.4) for size in sizes)
    assert len(sizes) == 5
    everything = "".join(text_on(document, number) for number in range(1, len(sizes) + 1))
    for word in ("picluster", "First power-on", "10.0.0.15", "wrong data was read back", "Switch"):
        assert word in everything
    for number in (4, 5):
        prefix = tmp_path / f"page{number}"
        subprocess.run(
            ["pdftoppm", "-r", "300", "-f", str(number), "-l", str(number), "-png", document, prefix],
            check=True,
        )
        (image,) = tmp_path.glob(f"page{number}*.png")
        done = subprocess.run(
            ["zbarimg", "--quiet", "--raw", image], capture_output=True, text=True, check=True
        )
        codes = {f"ssh://pi@10.0.0.{at}" for at in range(11, 16)} | {"ssh://pi@master.local"}
        assert set(done.stdout.split()) == codes
