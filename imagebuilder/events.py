"""What the wings tell while they work: small frozen events, emitted to a Reporter.

A *task* is a word for what is being done ("download", "unpack", "build", "write", "read-back"); a
*subject* is what it is done to (a base image's name, a node, a card's device path). Wings emit; the
renderers in ``cli/`` decide what a person or a program sees. Emitting is safe from any thread.
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
    """``done`` of ``total`` bytes are through (absolute, not a difference)."""

    task: str
    subject: str
    done: int
    total: int | None = None


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
