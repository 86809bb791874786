"""Rendering of templates in a separate process, whose memory and time the kernel limits.

One process renders all templates of a run. It gets secrets on standard input, not in its environment.
"""

import contextlib
import json
import operator
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
_EXIT_SECONDS = 10.0  # for a process that has closed its output to end

_Shared = tuple[Cluster, Release, Credentials]


class Rendering:
    """The rendering process: started on first use, or ``at_once`` with the block; ended with the block.

    It needs 0.1 s until it can render, in which the caller can do other work.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._child: process.Child | None = None
        self._resources = contextlib.ExitStack()
        self._last: TemplateRenderer | None = None
        self._shared: _Shared | None = None

    def __enter__(self) -> Self:
        if self._at_once:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def request(self, renderer: "TemplateRenderer", kind: str, text: str, place: str) -> tuple[str, bytes]:
        """The answer to a request (child.py). Raises UsageError, naming ``place``, for a faulty template."""
        if len(text) > OUTPUT:
            raise UsageError(f"{place}: the template is larger than 16 MiB", HINT)
        try:
            answer, content = self._exchange(renderer, kind, text, place)
        except (EOFError, BrokenPipeError, ConnectionError):
            raise UsageError(f"{place}: {self._exit_reason()}", HINT) from None
        except BaseException:
            self._end()  # a partial answer may be in the pipe
            raise
        if answer == "error":
            message, hint = json.loads(content)
            raise UsageError(printable(message, None), hint)
        return answer, content

    def _start(self) -> process.Child:
        if self._child is None:
            self._child = self._resources.enter_context(process.interpreter(_CODE))
            self._last = self._shared = None
        return self._child

    def _exchange(self, renderer: "TemplateRenderer", kind: str, text: str, place: str) -> tuple[str, bytes]:
        child = self._start()
        requests, answers = child.stdin, child.stdout
        assert requests is not None
        assert answers is not None
        # The data of a cluster is large: it is sent once for all its nodes.
        known = self._shared is not None and all(map(operator.is_, self._shared, renderer.shared))
        shared = None if known else renderer.shared
        node = None if known and self._last is renderer else (renderer.node, renderer.packages)
        pickle.dump((shared, node, kind, text, place), requests)
        requests.flush()
        self._last, self._shared = renderer, renderer.shared
        answer, _, length = answers.readline(40).decode("ascii").partition(" ")
        if not length.endswith("\n"):
            raise EOFError
        content = answers.read(int(length))
        if len(content) != int(length):
            raise EOFError
        return answer, content

    def _exit_reason(self) -> str:
        assert self._child is not None
        status = 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._child.wait(_EXIT_SECONDS)
        self._end()
        if status == -signal.SIGXCPU:
            return TOO_LONG
        return f"the rendering process ended (exit status {status}); the template may need too much memory"

    def _end(self) -> None:
        self._child = None
        self._resources.close()


class TemplateRenderer:
    """Renders the templates and conditions of one node, whose base image gets ``packages``."""

    def __init__(
        self,
        rendering: Rendering,
        cluster: Cluster,
        node: Node,
        release: Release,
        credentials: Credentials,
        packages: tuple[str, ...] = (),
    ) -> None:
        self._rendering = rendering
        self.account = cluster.user.name
        self.node = node.name
        self.packages = packages
        self.vars = cluster.vars
        self.secrets = credentials.secrets
        self.shared = (cluster, release, credentials)

    def render(self, text: str, place: str) -> tuple[bytes, bool]:
        """The rendered text in UTF-8, and whether it contains a secret.

        ``place`` names the text in an error. Raises UsageError with file and line.
        """
        answer, content = self._rendering.request(self, "render", text, place)
        return content, answer == "secret"

    def holds(self, expression: str | None, place: str) -> bool:
        """Whether a ``when`` condition is true (None: always). Raises UsageError."""
        return expression is None or self._rendering.request(self, "holds", expression, place)[0] == "yes"

    def secrets_read(self) -> tuple[str, ...]:
        """The names of the secrets that the templates and conditions of the node have read, sorted."""
        return tuple(json.loads(self._rendering.request(self, "secrets", "", "the secrets")[1]))
