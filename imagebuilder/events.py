"""Events: frozen dataclasses that report progress, emitted to a Reporter.

A *task* names the work; a *subject* is what it is done to: the name of a base image ("download", "unpack",
"dress" and, inside it, "packages", "install", "scripts", "tidy"), a node ("prepare" and, inside it, "copy",
"inject", "check", "map"; "build" for its whole image), or the device path of a card ("probe" for its
capacity, "compare", "write", "read-back"). The renderers in ``cli/progress/`` decide what is displayed.
Emitting is safe from any thread. Only ``progress.task()`` emits the events of a task. docs/events.md
documents the events for other programs; docs/schema/events.schema.json is their schema.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class Started:
    """A task began. ``total`` is in bytes, or None if it is unknown or not counted in bytes."""

    task: str
    subject: str
    total: int | None = None


@dataclass(frozen=True)
class Advanced:
    """``done`` of ``total`` bytes are processed (absolute, not a difference).

    ``rate`` is in bytes a second, the mean over the last seconds. ``left`` is the remaining time in seconds:
    for a card until all its tasks end, for any other subject until this task ends. None if unknown.
    """

    task: str
    subject: str
    done: int
    total: int | None = None
    rate: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Finished:
    """A task ended. ``ok`` is False when it failed; the error itself is raised, not carried here."""

    task: str
    subject: str
    ok: bool = True


@dataclass(frozen=True)
class Message:
    """A line of text for the user. ``level`` is "info" or "warning"; ``data`` is for other programs."""

    level: Literal["info", "warning"]
    text: str
    subject: str = ""
    data: Mapping[str, object] = field(default_factory=dict)


Event = Started | Advanced | Finished | Message


class Reporter(Protocol):
    """The receiver of events. Implementations must be thread-safe and must not raise."""

    def emit(self, event: Event) -> None: ...


class Silent:
    """A Reporter that discards all events."""

    def emit(self, event: Event) -> None:
        pass
