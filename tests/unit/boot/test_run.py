"""The order in which nodes are brought up, without any: what a failure does to the others."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from imagebuilder.boot import run
from imagebuilder.events import Event, Message, Silent
from tests.unit.boot.answers import expected, right


def test_what_failed_is_raised_while_others_are_still_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power of the others is cut, and only then are they waited for."""
    cut = threading.Event()
    board = SimpleNamespace(power_cut=cut.set)
    guests: list[Any] = [
        SimpleNamespace(node=SimpleNamespace(name=name), machine=board) for name in ("first", "second")
    ]
    switch = SimpleNamespace(cut=lambda: None)
    cluster = SimpleNamespace(is_gateway=lambda node: node.name == "first")
    lab: Any = SimpleNamespace(cluster=cluster, switch=switch, reporter=Silent())
    monkeypatch.setattr(run, "bring_up", lambda guest, reporter: 0.0)
    monkeypatch.setattr(run, "_calm", lambda guest: None)

    def then(guest: run.Guest, up: object) -> None:
        if guest.node.name == "second":
            raise ZeroDivisionError
        assert cut.wait(30), "nobody cut its power"

    with pytest.raises(ZeroDivisionError):
        run.bring_up_all(lab, guests, then)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("state", ["starting", "running"])
def test_a_node_that_never_ends_starting_is_not_waited_for_for_ever(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scripts have ended, and one of its units holds it: that is reported, and left to the checks."""
    said: list[Event] = []
    summary = dict(right(expected()))["summary"]
    answer = f"{state}\nresize2fs_once.service\n{summary}".encode()
    guest: Any = SimpleNamespace(
        node=SimpleNamespace(name="worker2"),
        machine=SimpleNamespace(check=lambda: None),
        login=SimpleNamespace(run=lambda command, patience: SimpleNamespace(stdout=answer)),
    )
    for name, seconds in (("_LOOK", 0.01), ("_SLOW", 0.1), ("_STARTING", 0.5)):
        monkeypatch.setattr(run, name, seconds)
    run.settle(guest, expected(), 3600, SimpleNamespace(emit=said.append))
    reported = [Message("info", "still starting: it waits for resize2fs_once.service", "worker2")]
    assert said == (reported if state == "starting" else [])
