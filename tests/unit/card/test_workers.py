"""The threads of a card: what they share is released whatever happens to them."""

import threading

import pytest

from imagebuilder.card.workers import IN_FLIGHT, CardWorkers, running


@pytest.mark.parametrize("begun", range(IN_FLIGHT))
def test_a_thread_that_cannot_be_started_leaks_nothing(begun: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started, released = threading.Thread.start, list[threading.Thread](), list[bool]()

    def limited(thread: threading.Thread) -> None:
        if len(started) == begun:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    workers = CardWorkers(5, lambda: released.append(True))
    with pytest.raises(RuntimeError), running(workers, "sdz"):
        pass
    for thread in started:
        thread.join(5)
        assert not thread.is_alive()
    assert released == [True] and not workers.stalled
