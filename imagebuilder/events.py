"""Events, which report what is being done: small frozen dataclasses, emitted to a Reporter.

A *task* is a word for what is being done; a *subject* is what it is done to: a base image's name
("download", "unpack"), a node ("build" and, inside it, "copy", "inject", "check", "map"), a card's device
path ("probe" for its capacity, "compare", "write", "read-back"). The renderers in ``cli/progress/`` decide
what a person or a program sees. Emitting is safe from any thread. The events of a task are emitted by
``progress.task()`` only. docs/events.md describes all for programs, docs/schema/events.schema.json to the
letter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class Started:
    """A task began. ``total`` is in bytes, or None when it is not known or not counted in bytes."""

    task: str
    subject: str
    total: int | None = None


@dataclass(frozen=True)
class Advanced:
    """``done`` of ``total`` bytes are through (absolute, not a difference).

    ``rate`` is in bytes a second, the mean over the last seconds. ``left`` is in seconds: until a card is
    through with all its tasks; of any other subject, until this task ends. Either is None when not known.
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
    """One line for the person: ``level`` is "info" or "warning"; ``data`` is extra for programs."""

    level: Literal["info", "warning"]
    text: str
    subject: str = ""
    data: Mapping[str, object] = field(default_factory=dict)


Event = Started | Advanced | Finished | Message


class Reporter(Protocol):
    """Where events go. Implementations must be thread-safe and must not raise."""

    def emit(self, event: Event) -> None: ...


class Silent:
    """A Reporter that drops everything."""

    def emit(self, event: Event) -> None:
        pass
