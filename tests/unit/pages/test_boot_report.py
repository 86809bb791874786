"""The page of a boot: failures first, what was measured, and nothing of a node becomes markup."""

import dataclasses

from imagebuilder.boot.checks import CheckResult, judge, unreached
from imagebuilder.boot.cluster import ClusterProof
from imagebuilder.boot.probe import parse
from imagebuilder.boot.run import Proof
from imagebuilder.errors import PiimgError
from imagebuilder.pages.boot_report import boot_page
from tests.unit.boot.answers import expected, right, spell
from tests.unit.pages.making import HOSTILE, MADE, example, outside, poisoned, structure, text_of


def proof_of(name: str, seconds: float, *, wrong: str = "") -> Proof:
    """What a node answered, judged; with ``wrong`` its first check found that."""
    wanted = expected(name)
    facts = parse(spell(right(wanted)))
    outcomes = judge(wanted, facts)
    if wrong:
        outcomes = (dataclasses.replace(outcomes[0], wrong=wrong), *outcomes[1:])
    return Proof(name, seconds, outcomes, memory=412_000_000, facts=facts)


def proof() -> ClusterProof:
    """Four nodes: two good, one with a wrong check, one that nobody could log in to."""
    lost = expected("worker4")
    trouble = PiimgError(
        "worker4 did not answer within 900 seconds", "the last lines of its console:\n  panic <b>"
    )
    return ClusterProof(
        (
            proof_of("master", 71.3),
            proof_of("worker2", 44.0),
            proof_of("worker3", 48.9, wrong="it is of another manifest"),
            Proof("worker4", None, unreached(lost, "", trouble.message), trouble),
        ),
        (
            CheckResult("reach", "every node reaches every other"),
            CheckResult(
                "power-cut", "the same after a power cut", remark="not all nodes came up", seen=False
            ),
        ),
    )


def page_of(given: ClusterProof) -> str:
    return boot_page(example(), "virt", given, MADE)


def test_failures_come_first() -> None:
    text = text_of(page_of(proof()))
    wrong = text.partition("What is wrong")[2].partition("Boot times")[0]
    assert "it is of another manifest" in wrong and "worker3: manifest" in wrong
    assert "worker4 did not answer" in wrong and "panic <b>" in wrong
    assert "not as it should be" in text.partition("What is wrong")[0]
    nodes = text.partition("All nodes together")[2]
    assert nodes.index("worker3") < nodes.index("master") and nodes.index("worker4") < nodes.index("worker2")


def test_good_checks_are_folded_and_a_node_without_a_login_has_one_line() -> None:
    page = page_of(proof())
    lost = page.partition('<h2 id="node-2">')[2].partition("</section>")[0]
    assert "worker4" in lost and "<table" not in lost and "there was no login" in lost
    bad = page.partition('<h2 id="node-1">')[2].partition("</section>")[0]
    seen, _, rest = bad.partition("<details>")
    count = len(proof().nodes[2].outcomes)
    assert "it is of another manifest" in seen and seen.count("<tr><th scope") == 1
    assert f"{count - 1} good checks" in rest and rest.count("<tr><th scope") == count - 1
    good = page.partition('<h2 id="node-3">')[2].partition("</section>")[0]
    assert "<table" not in good.partition("<details>")[0]


def test_what_is_counted_as_wrong_is_what_is_listed() -> None:
    page = page_of(proof())
    assert page.count('<div class="fault">') == 2 and '<span class="bad-text">2 wrong</span>' in page


def test_when_all_is_good_it_says_so() -> None:
    good = ClusterProof(proof().nodes[:2], ())
    text = text_of(page_of(good))
    assert "every check is good" in text and "What is wrong" not in text and "All nodes together" not in text


def test_what_was_not_judged_is_not_called_good() -> None:
    master = proof().nodes[0]
    unseen = dataclasses.replace(master.outcomes[0], seen=False)
    given = dataclasses.replace(master, outcomes=(unseen, *master.outcomes[1:]))
    text = text_of(page_of(ClusterProof((given,), ())))
    assert "nothing wrong was found" in text and "1 not judged" in text and "every check is good" not in text


def test_what_was_measured_is_there_and_no_secret() -> None:
    given = proof()
    text = text_of(page_of(given))
    for shown in ("71 s", "44 s", "no login", "10.0.0.12/24", "Europe/London", "412.0 MB", "50-hello"[:2]):
        assert shown in text, shown
    facts = given.nodes[0].facts
    assert facts is not None and facts.root is not None
    assert facts.root.password and facts.root.password not in text
    assert not any(key in text for key in (*facts.authorized, *facts.presented))


def test_nothing_of_a_node_becomes_markup() -> None:
    good = proof()
    for node in good.nodes:  # the same for both: names are those of the manifest
        assert node.node in {one.name for one in example().nodes}

    def spoiled(one: Proof) -> Proof:
        outcomes = tuple(
            dataclasses.replace(
                result,
                check=HOSTILE,
                about=HOSTILE,
                wrong=f"{HOSTILE}wrong" if result.wrong else "",
                remark=f"{HOSTILE}remark" if result.remark else "",
            )
            for result in one.outcomes
        )
        trouble = PiimgError(f"{HOSTILE}trouble", HOSTILE) if one.trouble else None
        facts = poisoned(one.facts, "facts") if one.facts else None
        return dataclasses.replace(one, outcomes=outcomes, trouble=trouble, facts=facts)

    hostile = ClusterProof(tuple(map(spoiled, good.nodes)), poisoned(good.together, "together"))
    # a remark or a fault that is no text stays as it was
    hostile = dataclasses.replace(
        hostile,
        together=tuple(
            dataclasses.replace(one, wrong="", remark=one.remark if before.remark else "")
            for one, before in zip(hostile.together, good.together, strict=True)
        ),
    )
    page = page_of(hostile)
    assert set(structure(page)) == set(structure(page_of(good)))
    assert list(outside(page)) == []
    text = text_of(page)
    for mark in (
        "trouble",
        "wrong",
        "facts.hostname",
        "facts.timezone",
        "facts.links-1.ifname",
        "facts.root.disk_id",
    ):
        assert mark in text, mark
    assert "facts.root.password" not in text
