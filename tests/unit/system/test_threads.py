"""Waiting for several threads at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

from imagebuilder.system.threads import wait_for


def test_it_waits_for_all_and_raises_nothing() -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(int, "1"), pool.submit(int, "x")]
        wait_for(futures)
    assert [future.done() for future in futures] == [True, True]


def test_it_returns_as_soon_as_one_has_failed() -> None:
    go_on = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        waiting, failing = pool.submit(go_on.wait, 20), pool.submit(int, "x")
        wait_for([waiting, failing], until_one_fails=True)
        assert failing.done() and not waiting.done()
        go_on.set()
