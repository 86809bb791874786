"""The sheet of a cluster: what is on it, and that nothing from outside becomes markup."""

import dataclasses
import re

import pytest

from imagebuilder.boards import BOARDS
from imagebuilder.card.report import Verdict
from imagebuilder.export import Via
from imagebuilder.graph import NARROW, WIDE, as_svg
from imagebuilder.pages.labels import Paper
from imagebuilder.pages.sheet import Sheet, sheet_page
from imagebuilder.settings import Policy
from tests.unit.pages.making import (
    HOSTILE,
    example,
    outside,
    poisoned,
    poisoned_cluster,
    sheet_of,
    structure,
    text_of,
    with_gateway,
    written,
)


def test_it_has_every_node_with_its_card_and_labels() -> None:
    cluster = example()
    page = sheet_page(sheet_of(cluster))
    text = text_of(page)
    for number, node in enumerate(cluster.nodes):
        # two drawings, the table, two labels; the steps and the batch name some of them
        assert text.count(node.name) >= 5
        assert text.count(str(node.address)) >= 4
        certain = number % 4 != 3  # in a slot of a reader the serial is the reader's
        assert (f"card 0x4a{number:06x}" in text) == certain
    assert page.count('class="label-name"') == 2 * len(cluster.nodes)
    assert "Wi-Fi HomeNetwork" in text
    assert "ssh pi@master.local" in text
    assert list(outside(page)) == []


def test_the_gateway_comes_first_and_is_reached_by_its_name_at_home() -> None:
    cluster = example()
    last = dataclasses.replace(cluster, nodes=cluster.nodes[::-1])
    page = sheet_page(dataclasses.replace(sheet_of(last), via=Via("192.168.1.50", 2222)))
    codes = re.findall(r'class="label-code" style="[^"]*" title="([^"]*)"', page)
    assert codes[0] == "ssh://pi@192.168.1.50:2222"
    assert set(codes[1:6]) == {f"ssh://pi@10.0.0.{number}" for number in range(11, 16)}


def test_a_card_that_is_not_good_comes_first() -> None:
    text = text_of(sheet_page(sheet_of(example())))
    batch = text.partition("Last batch")[2]
    assert re.search(r"worker5\s+bad", batch)
    assert batch.index("worker5") < batch.index("master")
    assert "wrong data was read back" in batch and "byte 734003200" in batch
    assert "without a card: worker5" in batch


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.BAD, Verdict.INTERRUPTED])
def test_a_card_that_is_not_good_is_in_the_table_only(verdict: Verdict) -> None:
    """No label and no drawing has it: it is not the card of its node."""
    given = dataclasses.replace(sheet_of(example()), batch=None)
    cards = {
        "worker1": written("worker1", 51, verdict=verdict),
        "worker2": written("worker2", 52, certain=False, verdict=verdict),
    }
    page = sheet_page(dataclasses.replace(given, cards=cards))
    text = text_of(page)
    assert page.count(f">{verdict.value}<") == 2 and text.count("0x4a000033") == 1
    assert "card 0x4a000033" not in text and "card from" not in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"error": "wrong data", "offset": 99}, "wrong data (byte 99)"),
        ({"error": "writing failed at byte 99: I/O", "offset": 99}, "writing failed at byte 99: I/O"),
        ({"error": "failed at byte 990", "offset": 99}, "failed at byte 990 (byte 99)"),
        (
            {"error": "failed at byte 99", "offset": 99, "partition": 1, "file": "/initramfs8"},
            "failed at byte 99 (partition 1, /initramfs8)",
        ),
        ({"error": "failed", "offset": 99, "partition": 2}, "failed (partition 2)"),
        ({"error": "failed"}, "failed"),
    ],
)
def test_where_an_error_is_is_said_once(changes: dict[str, object], said: str) -> None:
    given = sheet_of(example())
    assert given.batch is not None
    card = given.batch.cards[0].model_copy(update={**changes, "hint": "", "retries": 3})
    page = sheet_page(dataclasses.replace(given, batch=given.batch.model_copy(update={"cards": (card,)})))
    assert f'<p class="bad-text">{said}</p>' in page and "3 tries repeated" in page


def test_the_legend_has_the_lines_that_are_drawn() -> None:
    given = sheet_of(example())
    assert given.batch is not None
    page = sheet_page(given)
    assert "reading back" in page and "comparing, testing" not in page
    card = given.batch.cards[0].model_copy(update={"rates": ((1.0, "compare", 10),)})
    page = sheet_page(dataclasses.replace(given, batch=given.batch.model_copy(update={"cards": (card,)})))
    assert "comparing, testing" in page and "reading back <" not in page


def test_a_drawing_tells_similar_boards_apart_and_can_be_read() -> None:
    """No name is shortened; on A4 (170 mm) its type has at least 7 points, on a phone (320 px) 9 pixels."""
    cluster = example()
    names = ("pi-3a+", "pi-3b", "pi-3b+", "cm4s", "pi-zero-2", "pi-500+")
    nodes = tuple(
        dataclasses.replace(node, board=BOARDS[name]) for node, name in zip(cluster.nodes, names, strict=True)
    )
    page = sheet_page(sheet_of(dataclasses.replace(cluster, nodes=nodes)))
    for short in ("Pi 3A+, ", "Pi 3B, ", "Pi 3B+, ", "CM4S, ", "Pi Zero 2 W, ", "Pi 500+, "):
        assert page.count(f">{short}worker</text>") + page.count(f">{short}master</text>") == 2, short
    for columns, width, least in ((WIDE, 170 / 25.4 * 72, 7), (NARROW, 320, 9)):
        svg = "\n".join(as_svg(cluster, (*cluster.nodes, *cluster.nodes[1:]), {}, columns))
        (units,) = re.findall(r'viewBox="0 0 (\d+) ', svg)
        assert min(map(int, re.findall(r"font-size: (\d+)px", svg))) / int(units) * width >= least


def test_without_cards_and_without_a_batch() -> None:
    bare = dataclasses.replace(sheet_of(example()), cards={}, batch=None)
    text = text_of(sheet_page(bare))
    assert text.count("not written yet") == 6
    assert "No card was written yet" in text


def test_a_cable_and_a_single_node_and_each_policy() -> None:
    cluster = example()
    alone = dataclasses.replace(
        cluster,
        nodes=(dataclasses.replace(cluster.nodes[0], wifi=None),),
    )
    alone = with_gateway(alone, uplink="eth1", policy=Policy.OFF)
    text = text_of(sheet_page(sheet_of(alone)))
    assert "eth1 of master goes to your router" in text and "Wi-Fi" not in text
    assert "1 node " in f"{text} " and "Switch on the other" not in text
    for policy, word in (
        (Policy.OFF, "none"),
        (Policy.ON, "master, always"),
        (Policy.ON_DEMAND, "on demand"),
    ):
        given = with_gateway(cluster, policy=policy)
        assert word in text_of(sheet_page(sheet_of(given)))


def test_without_a_gateway() -> None:
    """One node has its address by DHCP, and one is on the network by Wi-Fi."""
    cluster = example()
    by_wifi = dataclasses.replace(cluster.nodes[0], interface="wlan0")
    by_dhcp = dataclasses.replace(cluster.nodes[1], address=None)
    direct = dataclasses.replace(
        cluster,
        gateway=None,
        router=cluster.lan[254],
        nodes=(by_wifi, by_dhcp, *cluster.nodes[2:]),
    )
    page = sheet_page(sheet_of(direct))
    text = text_of(page)
    assert "router 10.0.0.254, by Wi-Fi HomeNetwork" in text and "router 10.0.0.254" in text
    assert "goes to your router, or to a switch at your router. The others use Wi-Fi." in text
    assert "Switch on the machines." in text and "Switch on the other" not in text
    assert "worker1.local" in text and "by DHCP" in text and "None" not in text
    codes = re.findall(r'class="label-code" style="[^"]*" title="([^"]*)"', page)
    assert codes[:3] == ["ssh://pi@10.0.0.1", "ssh://pi@worker1.local", "ssh://pi@10.0.0.12"]


@pytest.mark.parametrize("paper", Paper)
def test_many_nodes_take_several_pages_of_labels(paper: Paper) -> None:
    cluster = example()
    worker = cluster.nodes[1]
    assert worker.address
    many = [
        dataclasses.replace(worker, name=f"node{number}", address=worker.address + number)
        for number in range(99)
    ]
    big = dataclasses.replace(cluster, nodes=(cluster.nodes[0], *many))
    page = sheet_page(dataclasses.replace(sheet_of(big), paper=paper, batch=None))
    expected = {Paper.A4: 5 + 2, Paper.LETTER: 4 + 2}[paper]
    assert page.count('<div class="label-page">') == expected
    assert page.count('class="label-name"') == 200


def with_errors(sheet: Sheet) -> Sheet:
    """``sheet`` where each card of the batch has an error and a hint, so that all have the same tags."""
    assert sheet.batch is not None
    bad = {"error": "x", "hint": "x", "offset": 1, "verdict": Verdict.BAD}
    cards = tuple(card.model_copy(update=bad) for card in sheet.batch.cards)
    return dataclasses.replace(sheet, batch=sheet.batch.model_copy(update={"cards": cards}))


def test_nothing_from_outside_becomes_markup() -> None:
    """Each text of manifest, history and report is hostile; the tags stay those of a good sheet."""
    given = with_errors(sheet_of(poisoned_cluster()))
    hostile = dataclasses.replace(
        given,
        cards={name: poisoned(card, f"history-{at}") for at, (name, card) in enumerate(given.cards.items())},
        batch=poisoned(given.batch, "report"),
        login=f"{HOSTILE}login",
        via=Via(f"{HOSTILE}via"),
    )
    page = sheet_page(hostile)
    assert structure(page) == structure(sheet_page(with_errors(sheet_of(example()))))
    assert list(outside(page)) == []
    assert "\u202e" not in page and "\x1b" not in page
    text = text_of(page)
    for mark in (
        *(
            "cluster.name",
            "cluster.base",
            "cluster.user.name",
            "cluster.nodes-0.name",
            "cluster.nodes-3.role",
        ),
        *("cluster.nodes-1.board.title", "cluster.nodes-0.wifi.ssid", "cluster.nodes-0.interface", "login"),
        *("history-3.begun.slot", "history-1.begun.serial"),
        *("report.cards-1.node", "report.cards-1.device", "report.cards-2.slot", "report.cards-3.model"),
        *("report.cards-4.serial", "report.cards-5.error", "report.cards-5.hint", "report.remaining-0"),
    ):
        assert mark in text, mark


def test_the_hostile_text_would_be_seen() -> None:
    """The test above must be able to fail."""
    page = sheet_page(sheet_of(example()))
    assert structure(page.replace("worker3", HOSTILE)) != structure(page)
    assert list(outside(page.replace("worker3", HOSTILE))) != []
