"""The process of the page: states on standard input, HTTP at a socket, answers on standard output.

It is started by feed.py. If it is started by root, it becomes the user nobody before it accepts anything.
uvicorn holds all viewers on one thread: a server with a thread for each would need a hundred.
"""

import asyncio
import errno
import json
import os
import resource
import socket
import sys
from typing import Any

import uvicorn

from imagebuilder.cli.web.app import Guard, page_app
from imagebuilder.cli.web.parts import Parts
from imagebuilder.cli.web.viewers import Viewers

_LINE = 16 << 20  # bytes of a state
_VIEWERS = 256  # connections at the same time; more are answered with 503
_FILES = 1024  # descriptors
_NICE = 10  # the writing of cards comes first


def main() -> None:
    """Serve until standard input ends, and each viewer has the last page."""
    os.nice(_NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, most), most))
    asyncio.run(_serve())


async def _serve() -> None:
    reader = asyncio.StreamReader(limit=_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    settings: dict[str, Any] = json.loads(await reader.readline())
    parts, viewers = Parts(), Viewers()
    app = Guard(
        page_app(parts, viewers, _answer if settings["control"] else None),
        settings["token"],
        settings["hosts"],
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,  # a URL may have the token
        lifespan="off",
        http="h11",
        ws="none",
        loop="asyncio",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_VIEWERS + 1,  # it refuses from this number on
        timeout_graceful_shutdown=1,
    )
    config.load()
    server = uvicorn.Server(config)
    _drop_rights(settings["user"])
    feeding = asyncio.create_task(_feed(reader, parts, viewers, server, settings["last_page"]))
    with socket.socket(fileno=settings["socket"]) as listener:
        await server.serve([listener])
    feeding.cancel()


def _drop_rights(user: int) -> None:
    """Become an unprivileged user for good, if this is root.

    In a user namespace that has only one user there is no other, and its root has no rights outside.
    """
    if os.geteuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise


async def _feed(
    reader: asyncio.StreamReader, parts: Parts, viewers: Viewers, server: uvicorn.Server, last_page: float
) -> None:
    """Take in the states; at the end of input, or after an error, stop the server.

    After the end of input the viewers get the last state, for ``last_page`` seconds at most.
    """
    try:
        while line := await reader.readline():
            parts.update(json.loads(line))
        parts.close()
        await viewers.have_last(last_page)
    finally:
        parts.close()
        server.should_exit = True


def _answer(ticket: int, answer: str) -> None:
    sys.stdout.buffer.write(json.dumps({"ticket": ticket, "answer": answer}).encode() + b"\n")
    sys.stdout.buffer.flush()
