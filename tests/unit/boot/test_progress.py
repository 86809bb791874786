"""The events of booting and checking a node, without any: what was begun ends, whatever the board does."""

from types import SimpleNamespace
from typing import Any

import pytest

from imagebuilder.base.cache import Cache
from imagebuilder.boot import cluster, kernel, run
from imagebuilder.errors import PiimgError
from imagebuilder.events import Event, Finished, Started
from tests.unit.boot.answers import expected

ERRORS = [PiimgError("the board went down", "look at it"), KeyboardInterrupt(), ZeroDivisionError()]


class Record(list[Event]):
    """A Reporter that remembers."""

    def emit(self, event: Event) -> None:
        self.append(event)


def failing(error: BaseException) -> Any:
    def fail(*given: object, **more: object) -> Any:
        raise error

    return fail


def guest(error: BaseException) -> Any:
    """A node whose board fails, whatever is asked of it."""
    board = SimpleNamespace(power_on=failing(error), check=failing(error), tail=list)
    return SimpleNamespace(node=expected().node, machine=board, login=SimpleNamespace(wait=failing(error)))


@pytest.mark.parametrize("error", ERRORS)
def test_a_boot_that_fails(error: BaseException) -> None:
    record, name = Record(), expected().node.name
    with pytest.raises(type(error)):
        run.bring_up(guest(error), record)
    assert record == [Started("boot", name), Finished("boot", name, False)]


@pytest.mark.parametrize("error", ERRORS)
def test_checks_that_fail(error: BaseException) -> None:
    record, name = Record(), expected().node.name
    if isinstance(error, PiimgError):
        assert not run.prove(guest(error), expected(), record).good
    else:
        with pytest.raises(type(error)):
            run.prove(guest(error), expected(), record)
    assert record == [Started("checks", name), Finished("checks", name, False)]


@pytest.mark.parametrize("error", ERRORS)
def test_checks_of_a_cluster_that_fail(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record()
    proof: Any = SimpleNamespace(node="worker2", facts=object(), good=True)
    monkeypatch.setattr(cluster, "prove_all", lambda *given: [proof])
    monkeypatch.setattr(cluster, "_judged", failing(error))
    lab: Any = SimpleNamespace(reporter=record)
    if isinstance(error, PiimgError):
        assert not cluster.prove_cluster(lab, [guest(error)], {}).good
    else:
        with pytest.raises(type(error)):
            cluster.prove_cluster(lab, [guest(error)], {})
    assert record == [Started("checks", "cluster"), Finished("checks", "cluster", False)]


@pytest.mark.parametrize("error", ERRORS)
def test_a_companion_kernel_that_cannot_be_fetched(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    record = Record()
    monkeypatch.setattr(kernel, "_fetch", failing(error))
    with pytest.raises(type(error)), kernel.companion(Cache(tmp_path), record):
        pass
    assert record == [Started("kernel", kernel.SUITE), Finished("kernel", kernel.SUITE, False)]
