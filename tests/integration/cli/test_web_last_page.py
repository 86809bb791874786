"""The last page of a run: it stays until each open viewer has it, and holds nobody up."""

import os
import signal
import threading
import time
from contextlib import ExitStack

import pytest

from imagebuilder.cli.web import feed
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message
from tests.integration.cli.test_web_page import served


def test_the_last_page_stays_until_each_viewer_has_it() -> None:
    """Two browsers without JavaScript ask again some seconds after the run: both get the end."""
    got: list[str] = []
    with served() as one:
        one.client.browse()
        assert 'http-equiv="refresh"' in one.client.browse().text

        def later() -> None:
            for pause in (1.5, 1.5):
                time.sleep(pause)
                got.append(one.client.browse().text)
            got.append(one.client.ask("/page.css").text)  # a browser asks for it next

        asking = threading.Thread(target=later)
        asking.start()
        begun = time.monotonic()
    took = time.monotonic() - begun
    asking.join()
    assert 3 < took < 7, took
    assert len(got) == 3 and all("has ended" in page and "refresh" not in page for page in got[:2])
    (said,) = one.heard.events
    assert isinstance(said, Message) and "Ctrl-C ends it" in said.text


def test_a_viewer_that_is_gone_holds_the_last_page_for_some_time_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "LAST_PAGE", 3.0)
    with served() as one:
        one.client.browse()
        begun = time.monotonic()
    assert 2.5 < time.monotonic() - begun < 6


def test_nobody_waits_for_a_viewer_that_is_no_browser_or_follows_or_never_reads() -> None:
    """One that follows has the end at once; one that takes nothing is given up after two seconds."""
    with ExitStack() as stack:
        with served() as one:
            one.client.ask()
            assert one.client.browse().status == 200
            events = stack.enter_context(one.client.events(User_Agent="Browser"))
            next(events)
            begun = time.monotonic()
        assert time.monotonic() - begun < 2
        assert list(events)[-1] == {}
    with served() as one:
        stuck = one.client.never_reads()
        for number in range(1500):
            name = f"slot {number}"
            one.page.note(name, name, "b" * 390, {"slot": name, "state": "empty"})
        time.sleep(1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 11
    stuck.close()


def test_ctrl_c_ends_the_last_page_at_once() -> None:
    """The result of the run stays what it is."""
    with served() as one:
        one.client.browse()
        timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        begun = time.monotonic()
    assert 1 < time.monotonic() - begun < 3


def test_an_error_is_not_held_back_by_the_last_page() -> None:
    begun = 0.0
    with pytest.raises(PiimgError), served() as one:
        one.client.browse()
        begun = time.monotonic()
        raise PiimgError("no", "")
    assert time.monotonic() - begun < 4
