"""A station with 24 slots, as two people see it: real cards come, fail and are pulled."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.card.manning import Cards, Manned, station
from tests.integration.card.rig import MIB, Rig, require
from tests.integration.card.slots import Slot, slots
from tests.support.web import Client
from tests.system.browser.web.conftest import MakeViewer
from tests.system.browser.web.test_page import CONTRAST, OVERFLOW, SHOTS
from tests.system.soak.making import make_cluster

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SLOTS = 24


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster folder of 24 nodes, all of them built."""
    folder = tmp_path_factory.mktemp("many")
    make_cluster(folder, SLOTS - 1)
    return folder


@pytest.fixture
def bench() -> Iterator[list[Slot]]:
    """24 empty slots."""
    with slots(SLOTS) as made:
        yield made


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Cards that fail, and cards that are slow."""
    require()
    with ExitStack() as stack:
        yield Rig(tmp_path, stack)


def page_of(one: Manned) -> str:
    """The URL that the station shows."""
    one.see("page: http://")
    found = re.search(r"page: (http://\S+/)", "\n".join(one.window.everything))
    assert found is not None
    return found[1]


def verdicts(cluster: Path) -> dict[str, str]:
    report = json.loads((cluster / "build" / "station-report.json").read_text())
    return {one["slot"]: one["verdict"] for one in report["cards"]}


def test_a_bench_of_24_slots(
    many: Path, bench: list[Slot], cards: Cards, rig: Rig, viewer: MakeViewer, tmp_path: Path
) -> None:
    failing, pulled, slow, *sound = bench
    with station(many, bench, "--again", "--web", "127.0.0.1:0") as one:
        url = page_of(one)
        desk = viewer(url, viewport={"width": 1280, "height": 900})
        phone = viewer(url, viewport={"width": 360, "height": 780}, color_scheme="dark")
        desk.until(f"document.querySelectorAll('.tile').length === {SLOTS}")
        phone.see("h1", "Put in the next card")
        phone.see(".hero p", "It becomes master.")

        slow_card = rig.serve(delay="0.03")
        slow.put(slow_card)
        phone.see(".tile.writing", slow.name)
        failing.put(rig.serve(fault="write-error", after=4 * MIB))
        pulled_card = rig.serve(delay="0.03")
        pulled.put(pulled_card)
        desk.see(".tile.writing", pulled.name)
        for slot in sound:
            slot.put(cards())
        desk.see(".tile.failed", failing.name)
        rig.pull(pulled_card)
        pulled.take()
        text = f"{pulled.name}: "
        desk.see("#messages li", text, 60)
        desk.see("#messages li", "failed")

        desk.until("document.querySelectorAll('.tile.done').length >= 3", 60)
        desk.page.reload()  # in the middle
        done = "document.querySelectorAll('.tile.done').length"
        desk.until(f"{done} === {SLOTS - 2}", 120)
        phone.until(f"{done} === {SLOTS - 2}")
        for seen in (desk, phone):
            assert seen.page.evaluate(OVERFLOW) == [] and seen.page.evaluate(CONTRAST) == []
            assert seen.wrong == []
            assert all(text.startswith(url) for text in seen.asked)
            assert "22 of 24" in seen.text(".sum")
        SHOTS.mkdir(parents=True, exist_ok=True)
        desk.page.screenshot(path=SHOTS / "station-1280.png", full_page=True)
        phone.page.screenshot(path=SHOTS / "station-360-dark.png")

        one.interrupt()
        status, said = one.end()
        for seen in (desk, phone):
            seen.see("#lost", "piimg has ended", 20)
            seen.see(".hero", "2 of 24 nodes have no good card")
    assert status == 130 and "Traceback" not in said
    found = verdicts(many)
    assert found[failing.name] == found[pulled.name] == "failed"
    assert [found[slot.name] for slot in (slow, *sound)] == ["good"] * (SLOTS - 2)


def test_a_question_that_is_answered_on_the_page(many: Path, cards: Cards, viewer: MakeViewer) -> None:
    """With nobody at a terminal; and a card that is in a slot later needs an answer of its own."""
    from imagebuilder.system.process import run

    with slots(2) as (first, second):
        options = ("--again", "--web", "127.0.0.1:0", "--web-control")
        with station(many, [first, second], *options, typing=False) as one:
            url = page_of(one)
            seen = viewer(url)
            card = cards(64 * MIB)
            run(["mkfs.ext4", "-q", "-F", card])
            before = card.read_bytes()
            first.put(card)
            seen.see("h1", f"Erase {first.node} ({first.name}) for master?")
            seen.see("div.question", "it holds an ext4 file system")
            no = seen.page.get_by_role("button", name="No, leave it alone")
            no.click()
            seen.see(".tile.refused", "nothing was written")
            assert card.read_bytes() == before
            first.take()
            seen.see(".tile", "put in a card")
            first.put(card)
            seen.see("h1", f"Erase {first.node}")
            _, port, token = re.split(r":(\d+)/", url)
            client = Client(int(port), token.rstrip("/"))
            assert client.answer(1, "y").status == 303  # a ticket of an earlier card: nothing happens
            one.window.settle(1.5)
            assert card.read_bytes()[:4096] == before[:4096]
            seen.page.get_by_role("button", name="Yes, erase this card").click()
            seen.see(".tile.done", "label it master", 60)
            one.interrupt()
            one.end()


def test_flash_of_all(many: Path, cards: Cards, viewer: MakeViewer, tmp_path: Path) -> None:
    """The same page for piimg flash: the question at the terminal, the cards, and what comes next."""
    import os
    import subprocess

    from imagebuilder.system import loop
    from tests.integration.card.running import command, environment
    from tests.support.terminal import Window

    with ExitStack() as stack:
        devices = [stack.enter_context(loop.attached(cards(), direct_io=True)) for _ in range(3)]
        window = Window(240, 40)
        line = command("flash", "--all", "--virtual", "--web", "127.0.0.1:0", *devices)
        process = subprocess.Popen(
            line, cwd=many, env=environment(), stdin=window.side, stdout=window.side, stderr=window.side,
            start_new_session=True,
        )  # fmt: skip
        try:
            window.wait_for(
                lambda lines: any("Erase these 3 cards" in text for text in window.everything), 60
            )
            found = re.search(r"page: (http://\S+/)", "\n".join(window.everything))
            assert found is not None
            seen = viewer(found[1])
            seen.see("h1", "Erase these 3 cards?")
            seen.see(".hero p", "Answer at the terminal.")
            window.settle(0.5)
            os.write(window.main, b"y\n")
            seen.until("document.querySelectorAll('.tile.done').length === 3", 60)
            seen.see(".then", "Put in the next cards")
            assert "3 of 24" in seen.text(".sum") and seen.wrong == []
        finally:
            process.kill()
            process.wait()
            os.close(window.main)
            os.close(window.side)
