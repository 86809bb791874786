"""One more receiver of what a run reports: the terminal is shown everything as before, and the page, too."""

from collections.abc import Mapping, Sequence

from imagebuilder.card.report import CardReport
from imagebuilder.cli.progress.base import Renderer
from imagebuilder.cli.web.page import Page
from imagebuilder.events import Event


class Followed(Renderer):
    """The renderer of the terminal, followed by a page."""

    def __init__(self, shown_by: Renderer, page: Page) -> None:
        self._inner, self._page = shown_by, page
        self.moves = shown_by.moves

    @property
    def stopping(self) -> bool:
        """Whether the user asked to stop."""
        return self._inner.stopping

    @stopping.setter
    def stopping(self, value: bool) -> None:
        self._inner.stopping = value
        if value:
            self._page.stopping()

    def emit(self, event: Event) -> None:
        self._page.emit(event)
        self._inner.emit(event)

    def expect(
        self,
        subject: str,
        total: int,
        title: str,
        line: str = "",
        data: Mapping[str, object] | None = None,
    ) -> None:
        self._page.expect(subject, total, title, line, data or {})
        self._inner.expect(subject, total, title, line, data)

    def note(self, line: str, title: str, text: str, data: Mapping[str, object] | None = None) -> None:
        self._page.note(line, title, text, data or {})
        self._inner.note(line, title, text, data)

    def arrange(self, lines: Sequence[str]) -> None:
        self._inner.arrange(lines)

    def judged(self, report: CardReport, text: str) -> None:
        self._page.judged(report, text)

    def wants(self, nodes: Sequence[str]) -> None:
        self._page.wants(nodes)

    def asks(self, text: str, about: Sequence[str] = ()) -> None:
        self._page.asks(text, about)

    def goals(self, nodes: Sequence[str], done: Mapping[str, str] | None = None) -> None:
        self._page.goals(nodes, done)

    def unfinished(self) -> list[str]:
        return self._inner.unfinished()

    def close(self) -> None:
        self._page.settled()
        self._inner.close()

    def say(self, text: str) -> None:
        self._inner.say(text)

    def last_words(self, text: str) -> None:
        self._inner.last_words(text)
