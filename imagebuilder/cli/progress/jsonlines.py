"""Progress as JSON for programs: one object for each line, on standard error."""

import dataclasses
import time

from imagebuilder.cli.output import json_text
from imagebuilder.cli.progress.base import Renderer, log_message
from imagebuilder.events import Advanced, Event, Message


class JsonLines(Renderer):
    """One JSON object for each event: ``{"event": "advanced", "task": …}``."""

    def _noted(self, message: Message, title: str) -> None:
        self.emit(message)

    def emit(self, event: Event) -> None:
        document = {"event": type(event).__name__.lower(), "time": round(time.time(), 3)}
        document |= dataclasses.asdict(event)
        if isinstance(event, Advanced):
            document["rate"] = None if event.rate is None else round(event.rate)
            document["left"] = None if event.left is None else round(event.left, 1)
        with self._lock:
            if isinstance(event, Message):
                log_message(event)
            else:
                self._track(event)
            self._print(json_text(document))
