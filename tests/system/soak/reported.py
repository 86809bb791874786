"""What a station tells while it runs (``--progress json``), heard by a thread that acts at once."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

ENDS = ("done", "failed", "refused")


@dataclass(frozen=True)
class Trigger:
    """``act`` is done when ``task`` has come to ``share`` of its total."""

    task: str
    share: float
    act: Callable[[], object]

    def due(self, event: dict[str, Any]) -> bool:
        """Whether it is time, by the events of its device."""
        if event["task"] != self.task:
            return False
        if event["event"] == "started":
            return self.share == 0
        return event["event"] == "advanced" and bool(event["done"] >= self.share * (event["total"] or 0))


@dataclass
class Reported:
    """What was reported: ``ended`` by slot, the rest as plain ``lines``. ``triggers`` are by device.

    ``broken`` says what was heard that could not be understood.
    """

    stream: IO[str]
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    ready: threading.Event = field(default_factory=threading.Event)
    broken: str = ""

    def listen(self) -> threading.Thread:
        """Listen, on a thread of its own, until the station closes its end."""
        thread = threading.Thread(target=self._listen, name="reported", daemon=True)
        thread.start()
        return thread

    def _listen(self) -> None:
        line = ""
        try:
            for line in self.stream:
                if line.startswith("{"):
                    self._hear(json.loads(line))
                else:
                    self.lines.append(line)
        except Exception as error:
            self.broken = f"{error!r} after {line!r}"
            raise

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "message":
            data = event["data"]
            if data.get("state") in ENDS:
                self.ended[data["slot"]] = {**data, "text": event["text"]}
            elif event["level"] == "warning":
                self.lines.append(event["text"])
            elif "nodes are done" in event["text"]:
                self.ready.set()
            return
        trigger = self.triggers.get(event["subject"])
        if trigger is not None and trigger.due(event):
            del self.triggers[event["subject"]]
            trigger.act()
