"""The state of the page, folded from what a station and a flash report."""

from collections.abc import Mapping

import pytest

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.cli.disk_notes import each_card
from imagebuilder.cli.progress.base import ALL, QUESTION
from imagebuilder.cli.web.page import Page
from imagebuilder.cli.web.state import HistoryRow, NodeState, Shown, Start, Tile
from imagebuilder.events import Advanced, Finished, Message, Started
from tests.unit.station.examples import card, disk

DEVICE, SLOT = "/dev/sdb", "usb 1-1.2"
NODES = tuple(NodeState(name, "worker", "Raspberry Pi 4", "10.0.0.2") for name in ("worker1", "worker2"))


class Clock:
    """A clock that is set by hand, in seconds."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def page(clock: Clock) -> Page:
    made = Page(Start("run", "station", "picluster", NODES, control=False), clock)
    made.goals(["worker1", "worker2"])
    return made


def note(page: Page, state: str, text: str, node: str = "", slot: str = SLOT, **more: str) -> None:
    data: Mapping[str, object] = {
        "slot": slot,
        "state": state,
        "node": node or None,
        "device": DEVICE,
        **more,
    }
    page.note(slot, f"{slot} {node}".strip(), text, data)


def write(page: Page, node: str = "worker1") -> None:
    """A card is announced, and half written."""
    page.expect(DEVICE, 1000, f"{SLOT} {node}", SLOT, {"slot": SLOT, "node": node})
    page.emit(Started("flash", DEVICE))
    page.emit(Started("write", DEVICE, 1000))
    page.emit(Advanced("write", DEVICE, 430, 1000, 12_100_000.0, 84.0))


def report(verdict: Verdict = Verdict.GOOD, node: str = "worker1", error: str = "") -> CardReport:
    return CardReport(DEVICE, SLOT, "", "", 32 * 10**9, node, "image", verdict, error=error, problem=error)


def titles(shown: Shown) -> list[str]:
    return [action.title for action in shown.actions]


def test_an_empty_slot_and_the_next_node(page: Page) -> None:
    note(page, "empty", "put in a card")
    page.note(ALL, "", "0 of 2 nodes are done, next is worker1 (Ctrl-C to end)", {"next": "worker1"})
    shown = page.shown()
    assert shown.tiles == (Tile(SLOT, "empty", device=DEVICE, text="put in a card"),)
    assert (shown.actions[0].title, shown.actions[0].text) == ("Put in the next card", "It becomes worker1.")
    assert (shown.done, shown.count) == (0, 2)


def test_a_card_that_is_written(page: Page, clock: Clock) -> None:
    note(page, "waiting", "waiting for its turn", "worker1")
    write(page)
    shown = page.shown()
    (tile,) = shown.tiles
    assert (tile.state, tile.node, tile.task, tile.percent) == ("writing", "worker1", "write", 43)
    assert (tile.rate, tile.left, tile.text) == ("12.1 MB/s", "1:24", "")
    assert (shown.busy, shown.rate, shown.left) == (1, "12.1 MB/s", "1:24")
    assert titles(shown) == ["1 card is being written"]
    assert [(node.kind, node.state) for node in shown.nodes] == [
        ("busy", f"in {SLOT}"),
        ("missing", "no card yet"),
    ]
    clock.now += 60  # no event: nothing is known
    assert (page.shown().rate, page.shown().left) == ("", "")


def test_nothing_is_good_before_its_verdict(page: Page) -> None:
    """The last task has ended well: the card may still have been pulled."""
    write(page)
    page.emit(Finished("write", DEVICE))
    page.emit(Finished("flash", DEVICE))
    (tile,) = page.shown().tiles
    assert (tile.state, tile.task) == ("writing", "finishing")
    assert page.shown().done == 0
    page.judged(report(Verdict.FAILED, error="it was taken out while it was written"), "")
    why = "it was taken out while it was written"
    note(page, "failed", f"failed: take it out; {why}", "worker1", verdict="failed", why=why)
    shown = page.shown()
    assert shown.tiles[0].state == "failed" and shown.done == 0
    assert shown.actions[0].kind == "aside" and "taken out while" in shown.actions[0].text
    assert shown.nodes[0].kind == "missing"
    note(page, "empty", "put in a card")  # what was pulled is in no slot: but it is said what became of it
    said = f"{SLOT}: worker1: failed: it was taken out while it was written"
    assert page.shown().messages == (said,) and page.shown().history[0].verdict == "failed"


def test_a_good_card_is_to_be_taken_out_and_labelled(page: Page) -> None:
    write(page)
    page.emit(Finished("flash", DEVICE))
    page.judged(report(), "")
    note(page, "done", "good: take it out, and label it worker1", "worker1")
    page.note(ALL, "", "1 of 2 nodes are done", {"next": "worker2"})
    shown = page.shown()
    assert titles(shown) == [f"Take out {SLOT}", "Put in the next card"]
    assert shown.actions[0].text == "It is good. Label it worker1."
    assert (shown.done, shown.nodes[0].kind) == (1, "done")
    assert shown.history[0].verdict == "good"
    note(page, "empty", "put in a card")  # it was taken out: its node stays done
    assert page.shown().done == 1 and titles(page.shown()) == ["Put in the next card"]


def test_a_warning_about_the_card_is_not_lost(page: Page) -> None:
    text = "good: take it out, and label it worker1; then put it in another slot"
    note(page, "done", text, "worker1", verdict="good", why="then put it in another slot")
    assert (
        page.shown().actions[0].text
        == "Good: take it out, and label it worker1; then put it in another slot."
    )


def test_a_question_comes_first(page: Page) -> None:
    note(page, "done", "good: take it out, and label it worker1", "worker1", "usb 1-1.3")
    note(page, "asking", "asking: it holds an ext4 file system", "worker2")
    data = {"asks": "Erase /dev/sdb?", "answers": ["y", "n"], "about": ["31.9 GB"], "ticket": 7}
    page.note(QUESTION, "", "Erase /dev/sdb? [y/N] ye", data)
    shown = page.shown()
    assert shown.question is not None and shown.question.answers == ()  # without --web-control
    assert (shown.actions[0].kind, shown.actions[0].text) == ("question", "Answer at the terminal.")
    assert "ye" not in shown.actions[0].title.split()
    page.note(QUESTION, "", "", {})
    assert page.shown().question is None


def test_with_control_it_can_be_answered(clock: Clock) -> None:
    page = Page(Start("run", "station", control=True), clock)
    page.note(QUESTION, "", "Erase? [y/N]", {"asks": "Erase?", "answers": ["y", "n"], "ticket": 7})
    question = page.shown().question
    assert question is not None and (question.answers, question.ticket) == (("y", "n"), 7)
    page.asks("Start?")  # this one is for the terminal only
    question = page.shown().question
    assert question is not None and question.answers == ()


def test_a_round_of_flash(page: Page) -> None:
    for number in (1, 2):
        where = {"slot": f"usb 1-1.{number}", "node": f"worker{number}"}
        page.expect(f"/dev/sd{number}", 1000, "title", "", where)
    assert [tile.state for tile in page.shown().tiles] == ["waiting", "waiting"]
    page.emit(Started("flash", "/dev/sd1"))
    page.emit(Finished("flash", "/dev/sd1"))
    done = CardReport("/dev/sd1", "usb 1-1.1", "", "", 1, "worker1", "", Verdict.GOOD)
    page.judged(done, "good: take it out, and label it worker1")
    page.emit(Message("info", "take it out of usb 1-1.1 and put it in again", "/dev/sd1"))
    assert page.shown().tiles[0].text == "take it out of usb 1-1.1 and put it in again"
    page.wants(["worker2"])
    assert page.shown().actions[-1].text == "They become worker2."


def test_what_is_prepared_first(page: Page) -> None:
    page.emit(Started("prepare", "worker1"))
    page.emit(Started("inject", "worker1", 100))
    page.emit(Advanced("inject", "worker1", 50, 100, 1.0, 3.0))
    (work,) = page.shown().work
    assert (work.subject, work.task, work.percent, work.left) == ("worker1", "inject", 50, "0:03")
    assert titles(page.shown()) == ["Preparing the nodes"]
    page.emit(Finished("inject", "worker1"))
    page.emit(Finished("prepare", "worker1"))
    page.settled()
    assert page.shown().work == ()


def test_messages_and_the_log(page: Page) -> None:
    page.emit(Message("warning", "the history cannot be read"))
    page.emit(Message("info", "address changed", "worker1"))
    page.emit(Message("info", "a line of the log", data={"logger": "imagebuilder"}))
    assert page.shown().messages == ("worker1: address changed", "the history cannot be read")


def test_it_is_bounded(page: Page, clock: Clock) -> None:
    write(page)
    for number in range(1000):
        clock.now += 1
        page.emit(Message("info", str(number)))
        page.emit(Advanced("write", DEVICE, 500, 1000, float(number), None))
        page.judged(report(Verdict.BAD), "bad")
    shown = page.shown()
    assert (len(shown.messages), len(shown.history), len(shown.tiles[0].rates)) == (12, 30, 60)
    assert max(shown.tiles[0].rates) == 100


def test_slots_are_in_natural_order(page: Page) -> None:
    for name in ("usb 1-1.10", "usb 1-1.2", "mmc 0"):
        note(page, "empty", "put in a card", slot=name)
    assert [tile.slot for tile in page.shown().tiles] == ["mmc 0", "usb 1-1.2", "usb 1-1.10"]
    page.note("usb 1-1.2", "usb 1-1.2", "", {})  # its reader was unplugged
    assert len(page.shown().tiles) == 2


def test_what_earlier_runs_did(clock: Clock) -> None:
    row = HistoryRow("2026-11-30 12:00", "worker1", "usb 1-1.2, 31.9 GB", "good")
    page = Page(Start("run", "station", "picluster", NODES, (row,)), clock)
    page.goals(["worker1", "worker2"], {"worker1": "on 2026-11-30 12:00 UTC, in slot usb 1-1.2"})
    shown = page.shown()
    assert (shown.done, shown.nodes[0].kind, shown.history) == (1, "done", (row,))
    assert shown.nodes[0].state == "has its card: on 2026-11-30 12:00 UTC, in slot usb 1-1.2"


def test_the_end(page: Page) -> None:
    page.judged(report(), "")
    page.end()
    shown = page.shown()
    assert shown.ended and shown.actions[0].text == "1 of 2 nodes have no good card."
    page.judged(report(node="worker2"), "")
    assert titles(page.shown())[0] == "Every node has its card"


def test_stopping(page: Page) -> None:
    write(page)
    page.stopping()
    assert titles(page.shown())[0] == "Stopping"


def test_a_change_is_sent_soon(page: Page) -> None:
    page.changed = False
    note(page, "empty", "put in a card")
    assert page.changed
    page.changed = False
    note(page, "empty", "put in a card")
    page.emit(Advanced("write", DEVICE, 500, 1000))
    assert not page.changed


def test_a_failed_card_is_named_before_the_good_ones(page: Page) -> None:
    for number in range(1, 21):
        name = f"worker{number}"
        note(page, "done", f"good: take it out, and label it {name}", name, f"usb 1-1.{number}")
    why = "writing failed at byte 99"
    note(page, "failed", f"failed: take it out; {why}", "worker21", "usb 1-1.21", verdict="failed", why=why)
    shown = page.shown()
    assert titles(shown)[0] == "Take out usb 1-1.21" and shown.actions[0].kind == "aside"
    assert shown.actions[0].text == "Set this card aside. It failed: writing failed at byte 99."
    page.end()
    assert titles(page.shown())[1] == "Take out usb 1-1.21"


@pytest.mark.parametrize(
    ("verdict", "why", "said"),
    [
        ("bad", "wrong data at byte 99", "It is bad: wrong data at byte 99."),
        ("failed", "/dev/sdb: no space", "It failed: /dev/sdb: no space."),
        ("interrupted", "Ctrl-C", "It was interrupted: Ctrl-C."),
        ("failed", "", "It failed."),
    ],
)
def test_what_went_wrong_is_a_sentence(page: Page, verdict: str, why: str, said: str) -> None:
    """Whatever the words of its line are."""
    note(page, "failed", "the words of its line", "worker1", verdict=verdict, why=why)
    assert page.shown().actions[0].text == f"Set this card aside. {said}"
    write(page)
    page.judged(report(Verdict(verdict), error=why), "the words of its line")
    assert page.shown().actions[0].text == f"Set this card aside. {said}"


@pytest.mark.parametrize("state", ["settling", "examining", "asking"])
def test_the_next_card_has_no_node_while_another_may_take_it(page: Page, state: str) -> None:
    note(page, "empty", "put in a card", slot="usb 1-1.9")
    page.note(ALL, "", "", {"next": "worker1"})
    page.wants(["worker2"])
    assert "worker1" in str(page.shown().actions) and "worker2" in str(page.shown().actions)
    note(page, state, "examining the card")
    assert "worker" not in str(page.shown().actions)
    if state != "asking":  # then there is a question
        assert titles(page.shown()) == ["Examining 1 card"]
    note(page, "empty", "put in a card")
    page.asks("Erase these 2 cards?")
    assert "worker" not in str(page.shown().actions)


def test_the_cards_that_are_asked_about(page: Page) -> None:
    page.asks("Erase this card?", each_card([(card(disk(SLOT)).candidate, "worker1")], "picluster"))
    question = page.shown().question
    assert question is not None and question.about == (f"{SLOT}, for worker1: 32.0 GB",)


def test_how_much_of_all_nodes_is_done(page: Page) -> None:
    assert page.shown().percent == 0
    write(page)
    assert page.shown().percent == 10  # 430 of 2 * 1000 bytes, of one of two nodes
    page.emit(Advanced("read-back", DEVICE, 1000, 1000))
    page.emit(Advanced("compare", DEVICE, 1000, 1000))
    assert page.shown().percent == 49
    page.judged(report(), "")
    assert page.shown().percent == 50
    page.judged(report(node="worker2"), "")
    assert page.shown().percent == 100


def test_a_slot_that_is_kept_for_a_node_asks_for_its_card(page: Page) -> None:
    """Whatever the words of its line are."""
    note(page, "empty", "the words of its line", wanted="worker2")
    action = page.shown().actions[0]
    assert (action.title, action.text) == (f"Put a card into {SLOT}", "It becomes worker2.")


def test_a_card_that_is_left_alone_has_its_reason(page: Page) -> None:
    """Whatever the words of its line are."""
    note(page, "refused", "the words of its line", why="it is mounted")
    action = page.shown().actions[0]
    assert (action.title, action.text) == (f"Take out {SLOT}", "Left alone: it is mounted.")
