"""Templates rendered in a process of their own, whose memory and time the kernel bounds.

There is one process for all that is rendered in a run. Secrets reach it by its standard input, and it has
nothing in its environment but what every program is given.
"""

import contextlib
import json
import pickle
import signal
import subprocess
from types import TracebackType
from typing import Self

from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Credentials, Node, Release
from imagebuilder.overlay.bounds import HINT, OUTPUT, TOO_LONG
from imagebuilder.system import process
from imagebuilder.text import printable

_CODE = "from imagebuilder.overlay.child import main; main()"
_LEAVING = 10  # seconds; a process that closed its output has ended by then


class Rendering:
    """The process that renders; begun when it is first needed, ended with the block."""

    def __init__(self) -> None:
        self._child: process.Child | None = None
        self._held = contextlib.ExitStack()
        self._knows: TemplateRenderer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, renderer: "TemplateRenderer", what: str, text: str, place: str) -> tuple[str, bytes]:
        """The answer to a request (child.py). Raises UsageError, naming ``place``, for a template's fault."""
        if len(text) > OUTPUT:
            raise UsageError(f"{place}: the template is larger than 16 MiB", HINT)
        try:
            kind, content = self._exchange(renderer, what, text, place)
        except (EOFError, BrokenPipeError, ConnectionError):
            raise UsageError(f"{place}: {self._why_it_ended()}", HINT) from None
        except BaseException:
            self._end()  # half an answer may be left
            raise
        if kind == "error":
            message, hint = json.loads(content)
            raise UsageError(printable(message, None), hint)
        return kind, content

    def _exchange(self, renderer: "TemplateRenderer", what: str, text: str, place: str) -> tuple[str, bytes]:
        if self._child is None:
            self._child = self._held.enter_context(process.interpreter(_CODE))
            self._knows = None
        given, answers = self._child.stdin, self._child.stdout
        assert given is not None
        assert answers is not None
        pickle.dump((None if self._knows is renderer else renderer.given, what, text, place), given)
        given.flush()
        self._knows = renderer
        kind, _, length = answers.readline(40).decode("ascii").partition(" ")
        if not length.endswith("\n"):
            raise EOFError
        content = answers.read(int(length))
        if len(content) != int(length):
            raise EOFError
        return kind, content

    def _why_it_ended(self) -> str:
        assert self._child is not None
        status = 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._child.wait(_LEAVING)
        self._end()
        if status == -signal.SIGXCPU:
            return TOO_LONG
        return f"the process that renders it ended (exit status {status}): does it need too much memory?"

    def _end(self) -> None:
        self._child = None
        self._held.close()


class TemplateRenderer:
    """Renders the templates and conditions of one node."""

    def __init__(
        self, rendering: Rendering, cluster: Cluster, node: Node, release: Release, credentials: Credentials
    ) -> None:
        self._rendering = rendering
        self.account = cluster.user.name
        self.given = (cluster, node, release, credentials)

    def render(self, text: str, place: str) -> tuple[bytes, bool]:
        """The rendered text in UTF-8, and whether a secret went into it.

        ``place`` names the text in an error. Raises UsageError with file and line.
        """
        kind, content = self._rendering.ask(self, "render", text, place)
        return content, kind == "secret"

    def holds(self, expression: str | None, place: str) -> bool:
        """Whether a ``when`` condition holds (None: always). Raises UsageError."""
        return expression is None or self._rendering.ask(self, "holds", expression, place)[0] == "yes"
