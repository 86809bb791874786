"""What becomes of a card that is put into a slot: everything that `decide` may be asked."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.device.discovery import Disk
from imagebuilder.device.identity import NOTHING, Carried
from imagebuilder.device.inventory import Candidate
from imagebuilder.device.policy import Reason, Refusal
from imagebuilder.station.policy import Decision, ExaminedCard, NodeFrom, Ruling, StationRules, decide

NODES = ("master", "worker1", "worker2")
RULES = StationRules("picluster", NODES)
DISK = Disk(Path("/dev/sdb"), "8:16", 32 * 10**9, "usb", "usb 1-1")
EMPTY = ExaminedCard(Candidate(DISK, (), NOTHING, ()))


def carrying(node: str, cluster: str = "picluster") -> ExaminedCard:
    return replace(
        EMPTY, candidate=replace(EMPTY.candidate, carried=Carried(node, cluster)), lost="files (x)"
    )


def test_the_next_node_that_is_free() -> None:
    assert decide(EMPTY, RULES, (), ()) == Decision(Ruling.WRITE, "master")
    assert decide(EMPTY, RULES, ("master",), ("worker1",)) == Decision(Ruling.WRITE, "worker2")
    assert decide(EMPTY, RULES, ("master", "worker2"), ("worker1",)) == Decision(Ruling.SPARE)


def test_a_card_keeps_its_node() -> None:
    assert decide(carrying("worker2"), RULES, (), ()) == Decision(Ruling.WRITE, "worker2")
    assert decide(carrying("worker2"), RULES, (), ("worker2",)) == Decision(Ruling.WRITE, "master")
    cut_off = replace(EMPTY, unfinished=Carried("worker1", "picluster"))
    assert decide(cut_off, RULES, (), ()) == Decision(Ruling.WRITE, "worker1")
    elsewhere = replace(EMPTY, unfinished=Carried("worker1", "elsewhere"))
    assert decide(elsewhere, RULES, (), ()) == Decision(Ruling.WRITE, "master")
    assert decide(carrying("gone"), RULES, (), ()) == Decision(Ruling.WRITE, "master")


def test_a_node_that_is_done_is_never_overwritten() -> None:
    said = Decision(Ruling.REFUSE, "worker2", "it holds worker2, which is done")
    for rules in (RULES, replace(RULES, erase=True), replace(RULES, node_from="ask", can_ask=True)):
        assert decide(carrying("worker2"), rules, ("worker2",), ()) == said


def test_the_node_of_the_slot() -> None:
    rules = replace(RULES, node_from="slot", slots={"usb 1-1": "worker2"})
    assert decide(EMPTY, rules, (), ()) == Decision(Ruling.WRITE, "worker2")
    assert decide(carrying("master"), rules, (), ()) == Decision(Ruling.WRITE, "worker2")
    why = "worker2, the node of this slot, is done"
    assert decide(EMPTY, rules, ("worker2",), ()) == Decision(Ruling.REFUSE, why=why)
    assert decide(EMPTY, rules, (), ("worker2",)) == Decision(Ruling.SPARE)


def test_what_is_asked_about() -> None:
    foreign = replace(EMPTY, lost="files (DCIM)")
    asked = replace(RULES, can_ask=True)
    assert decide(foreign, asked, (), ()) == Decision(Ruling.ASK, "master", "it holds files (DCIM)")
    alone = Decision(Ruling.REFUSE, why="it holds files (DCIM), and no user can be asked")
    assert decide(foreign, RULES, (), ()) == alone
    assert decide(foreign, replace(RULES, erase=True), (), ()) == Decision(Ruling.WRITE, "master")
    other = decide(carrying("worker1", "elsewhere"), asked, (), ())
    assert other == Decision(Ruling.ASK, "master", "it carries worker1 of elsewhere")
    mixed = replace(carrying("worker1"), beside="it holds other files too (DCIM)")
    why = "it says that it carries worker1, but it holds other files too (DCIM)"
    assert decide(mixed, asked, (), ()) == Decision(Ruling.ASK, "worker1", why)
    assert decide(mixed, RULES, (), ()) == Decision(Ruling.REFUSE, why=f"{why}, and no user can be asked")
    assert decide(mixed, replace(RULES, erase=True), (), ()) == Decision(Ruling.WRITE, "worker1")
    no_cluster = decide(carrying("worker1", ""), asked, (), ())
    assert no_cluster == Decision(Ruling.ASK, "master", "it carries worker1 of an unknown cluster")
    again = replace(carrying("worker1"), returned=True)
    assert decide(again, asked, (), ()).ruling is Ruling.ASK
    assert decide(again, RULES, (), ()).ruling is Ruling.REFUSE
    each = decide(EMPTY, replace(asked, node_from="ask"), (), ())
    assert (each.ruling, each.node) == (Ruling.ASK, "master")


nodes_or_none = st.sampled_from(["", *NODES, "gone"])
clusters = st.sampled_from(["picluster", "elsewhere", ""])


@given(
    refusals=st.sampled_from([(), (Refusal(Reason.READ_ONLY),)]),
    carried=st.builds(Carried, nodes_or_none, clusters),
    unfinished=st.none() | st.builds(Carried, nodes_or_none, clusters),
    lost=st.sampled_from(["", "files (x)"]),
    beside=st.sampled_from(["", "it holds other files too (x)"]),
    returned=st.booleans(),
    done=st.sets(st.sampled_from(NODES)),
    at_work=st.sets(st.sampled_from(NODES)),
    erase=st.booleans(),
    can_ask=st.booleans(),
    node_from=st.sampled_from(["next", "ask", "slot"]),
    slot_node=st.sampled_from(NODES),
)
def test_nothing_that_somebody_may_miss_is_erased_unasked(
    refusals: tuple[Refusal, ...],
    carried: Carried,
    unfinished: Carried | None,
    lost: str,
    beside: str,
    returned: bool,
    done: set[str],
    at_work: set[str],
    erase: bool,
    can_ask: bool,
    node_from: NodeFrom,
    slot_node: str,
) -> None:
    slots = {"usb 1-1": slot_node} if node_from == "slot" else {}
    rules = StationRules("picluster", NODES, node_from, slots, erase, can_ask)
    seen = ExaminedCard(Candidate(DISK, (), carried, refusals), lost, unfinished, returned, beside)
    said = decide(seen, rules, done, at_work)
    ours = carried.cluster == "picluster" and carried.node != ""
    if said.ruling in (Ruling.WRITE, Ruling.ASK):
        assert said.node in NODES and said.node not in done | at_work
        assert not refusals and not (ours and carried.node in done)
        assert not slots or said.node == slot_node
    if said.ruling is Ruling.WRITE:
        assert erase or (not (beside if ours else lost) and not returned)
        assert node_from != "ask"
    if said.ruling is Ruling.ASK:
        assert can_ask and said.why
    if said.ruling is Ruling.REFUSE:
        assert said.why
