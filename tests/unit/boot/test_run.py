"""The order in which nodes are brought up, without any: what a failure does to the others."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from imagebuilder.boot import run
from imagebuilder.events import Silent


def test_what_failed_is_raised_while_others_are_still_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power of the others is cut, and only then are they waited for."""
    cut = threading.Event()
    board = SimpleNamespace(power_cut=cut.set)
    guests: list[Any] = [
        SimpleNamespace(node=SimpleNamespace(name=name), machine=board) for name in ("first", "second")
    ]
    switch = SimpleNamespace(cut=lambda: None)
    cluster = SimpleNamespace(gateway=SimpleNamespace(node="first"))
    lab: Any = SimpleNamespace(cluster=cluster, switch=switch, reporter=Silent())
    monkeypatch.setattr(run, "bring_up", lambda guest, reporter: 0.0)
    monkeypatch.setattr(run, "_calm", lambda guest: None)

    def then(guest: run.Guest, up: object) -> None:
        if guest.node.name == "second":
            raise ZeroDivisionError
        assert cut.wait(30), "nobody cut its power"

    with pytest.raises(ZeroDivisionError):
        run.bring_up_all(lab, guests, then)
