"""Who has the last page, and for whom it is still served."""

import asyncio
import time

from starlette.types import Message, Scope

from imagebuilder.cli.web.viewers import Viewers


def scope(name: str = "Browser", accept: str = "text/html", method: str = "GET") -> Scope:
    headers = [(b"user-agent", name.encode()), (b"accept", accept.encode())]
    return {"type": "http", "method": method, "client": ("10.0.0.9", 1), "headers": headers}


async def seconds(viewers: Viewers, longest: float) -> float:
    begun = time.monotonic()
    await viewers.have_last(longest)
    return time.monotonic() - begun


def test_nobody_is_waited_for_who_is_no_open_viewer() -> None:
    viewers = Viewers()
    viewers.fetches(scope(accept="*/*"))
    viewers.fetches(scope(method="HEAD"))
    viewers.fetches(scope("with JavaScript"))
    with viewers.following(scope("with JavaScript")):
        pass  # its tab was closed
    assert asyncio.run(seconds(viewers, 5)) < 0.5


def test_each_tab_without_javascript_is_waited_for() -> None:
    async def play() -> float:
        viewers = Viewers()
        for _ in range(2):
            viewers.fetches(scope())
        waiting = asyncio.create_task(seconds(viewers, 10))
        await asyncio.sleep(0.3)
        viewers.fetches(scope())
        await asyncio.sleep(0.3)
        assert not waiting.done()
        viewers.fetches(scope())
        return await waiting

    assert 1.4 < asyncio.run(play()) < 4  # and a second for its style sheet


def test_one_that_never_comes_or_takes_nothing_is_given_up() -> None:
    async def never(message: Message) -> None:
        await asyncio.Event().wait()

    async def play() -> float:
        viewers = Viewers()
        with viewers.following(scope()) as follower:
            stuck = asyncio.ensure_future(follower.timed(never)({"type": "http.response.body"}))
            took = await seconds(viewers, 10)
            stuck.cancel()
        return took

    assert 1.5 < asyncio.run(play()) < 4
    viewers = Viewers()
    viewers.fetches(scope())
    assert 0.4 < asyncio.run(seconds(viewers, 0.5)) < 2
