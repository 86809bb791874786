"""What a browser gets: the page, its changes as Server-Sent Events, and three files; and who may ask."""

import asyncio
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagebuilder.cli.web.parts import Parts
from imagebuilder.cli.web.viewers import Viewers

_STATIC = Path(__file__).with_name("static")
_FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_ALIVE = 15.0  # seconds after which a line is sent that says nothing: it shows that a viewer is gone
_FIRST = 5.0  # seconds that a page waits for the first state
_BODY = 2048  # bytes of an answer
_BODY_SECONDS = 5.0
_LONGEST = 100  # characters of an answer

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # a URL may have the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets requests through whose path begins with ``token`` and whose Host is one of ``hosts``.

    An empty token, or no hosts: that is not checked. The Host keeps a page of somebody else from reading
    this one under a name of its own (DNS rebinding). Every response gets the headers above.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str]) -> None:
        self._app, self._token, self._hosts = app, token.encode(), frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on without the token in its path."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        if self._token:
            path = "/" + scope["path"][1:].partition("/")[2]
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        if self._hosts and _host(Headers(scope=scope).get("host", "")) not in self._hosts:
            return PlainTextResponse("This page has another address: open the one that piimg shows.\n", 403)
        first, slash, _ = scope["path"][1:].partition("/")
        if self._token and not secrets.compare_digest(first.encode("utf-8", "replace"), self._token):
            return PlainTextResponse("Not found: open the whole address that piimg shows.\n", 404)
        if self._token and not slash:
            return RedirectResponse(f"/{first}/")  # links are relative to the folder
        return None


def _host(value: str) -> str:
    """The host of a Host header, without its port."""
    host = value[: value.find("]") + 1] if value.startswith("[") else value.partition(":")[0]
    return host.lower()


def page_app(parts: Parts, viewers: Viewers, answer: Callable[[int, str], None] | None) -> Starlette:
    """The application. ``answer`` takes an answer with its ticket; None: nothing can be answered."""

    async def page(request: Request) -> Response:
        viewers.fetches(request.scope)
        if not parts.version:
            await parts.newer(0, _FIRST)
        return Response(parts.page(), media_type="text/html")

    async def answered(request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return PlainTextResponse("An answer comes from the page itself.\n", 403)
        fields = await _fields(request)
        ticket, text = fields.get("ticket", ""), fields.get("answer", "")
        if not (ticket.isascii() and ticket.isdigit() and len(ticket) < 10 and 0 < len(text) <= _LONGEST):
            return PlainTextResponse("This is no answer.\n", 400)
        assert answer is not None, "there is a route to here"
        answer(int(ticket), text)
        return RedirectResponse("./", 303)

    routes = [Route("/", page), Route("/events", _Events(parts, viewers))]
    routes += [Route(f"/{name}", _file(name, kind, viewers)) for name, kind in _FILES.items()]
    if answer is not None:
        routes.append(Route("/answer", answered, methods=["POST"]))
    return Starlette(routes=routes)


def _file(name: str, kind: str, viewers: Viewers) -> Callable[[Request], "asyncio.Future[Response]"]:
    content = (_STATIC / name).read_bytes()

    async def file(request: Request) -> Response:
        viewers.asks()
        return Response(content, media_type=kind)

    return file  # type: ignore[return-value]


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form; empty for one that is too large, too slow, or none."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _BODY:
                    return {}
        parsed = parse_qs(body.decode("ascii"), max_num_fields=4)
    except (TimeoutError, ValueError, ClientDisconnect):
        return {}
    return {name: values[0] for name, values in parsed.items()}


class _Events:
    """The changes of the page, as long as the viewer stays: ``GET events?from=VERSION``."""

    def __init__(self, parts: Parts, viewers: Viewers) -> None:
        self._parts, self._viewers = parts, viewers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the changes until the viewer leaves or the run is over."""
        if scope["method"] != "GET":
            await PlainTextResponse("", 405, {"Allow": "GET"})(scope, receive, send)
            return
        request = Request(scope)
        mark = request.headers.get("last-event-id") or request.query_params.get("from", "")
        head = PlainTextResponse("", media_type="text/event-stream").raw_headers
        headers = [(name, value) for name, value in head if name != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with self._viewers.following(scope) as stream:
            timed = stream.timed(send)
            sending = asyncio.create_task(self._send(self._parts.version_of(mark), timed))
            leaving = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, version: int, send: Send) -> None:
        parts = self._parts
        await send(_body(b"retry: 2000\n\n"))
        while True:
            if parts.version > version:
                version, event = parts.version, parts.since(version)
                await send(_body(event))
            elif parts.closed:
                await send(_body(b"event: end\ndata: \n\n"))
                await send({"type": "http.response.body", "body": b""})
                return
            elif not await parts.newer(version, _ALIVE) and not parts.closed:
                await send(_body(b":\n\n"))


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
