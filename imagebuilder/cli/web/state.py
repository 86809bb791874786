"""What the page shows at one moment: plain data, without devices, threads or HTML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["question", "out", "in", "aside", "left", "wait", "over"]
"""What an action is about: a question, a card to take out or to put in, to set aside, left alone, or none."""


@dataclass(frozen=True)
class NodeState:
    """A node of the manifest. ``state`` is what it has now, in words; ``kind`` is done, busy or missing."""

    name: str
    role: str
    board: str
    address: str
    kind: Literal["done", "busy", "missing"] = "missing"
    state: str = "no card yet"


@dataclass(frozen=True)
class HistoryRow:
    """A run on a card that has ended; ``card`` is its slot and size, ``error`` what went wrong."""

    time: str
    node: str
    card: str
    verdict: str
    took: str = ""
    error: str = ""


@dataclass(frozen=True)
class Tile:
    """A slot. ``state`` is a value of SlotState; ``text`` says what to do, or what happens there.

    ``verdict`` is that of its card, ``why`` the reason for it, or for leaving the card alone; either may be
    empty. ``wanted`` is the node that an empty slot is kept for.
    ``percent`` is the share of ``task`` that is done, None when unknown; ``rate`` and ``left`` are texts, or
    empty. ``rates`` are rates over time, each 0 to 100 relative to the largest.
    """

    slot: str
    state: str
    node: str = ""
    device: str = ""
    text: str = ""
    task: str = ""
    percent: int | None = None
    rate: str = ""
    left: str = ""
    rates: tuple[int, ...] = ()
    verdict: str = ""
    why: str = ""
    wanted: str = ""


@dataclass(frozen=True)
class Work:
    """Something else that takes time: a base image that is fetched, a node that is prepared."""

    subject: str
    task: str
    percent: int | None = None
    left: str = ""


@dataclass(frozen=True)
class Question:
    """An open question. ``about`` are the lines that the terminal shows with it.

    ``answers`` are what may be answered on the page: "y" and "n", "yes" in full, or names of nodes; empty
    when the question is answered at the terminal only. ``ticket`` names the card that it is about.
    """

    text: str
    about: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    ticket: int = 0


@dataclass(frozen=True)
class Action:
    """Something that the user can do now, or that is waited for."""

    kind: Kind
    title: str
    text: str = ""


@dataclass(frozen=True)
class Shown:
    """All that the page shows. ``ended``: the run is over, and nothing changes any more.

    ``percent`` is the share of all nodes that is written and read back, with that of cards under way.
    """

    run: str
    command: str
    cluster: str
    actions: tuple[Action, ...] = ()
    question: Question | None = None
    done: int = 0
    count: int = 0
    percent: int = 0
    busy: int = 0
    rate: str = ""
    left: str = ""
    tiles: tuple[Tile, ...] = ()
    work: tuple[Work, ...] = ()
    nodes: tuple[NodeState, ...] = ()
    history: tuple[HistoryRow, ...] = ()
    messages: tuple[str, ...] = ()
    ended: bool = False


@dataclass(frozen=True)
class Start:
    """What is known when a run begins: its command, the nodes of the manifest, and the history."""

    run: str
    command: str
    cluster: str = ""
    nodes: tuple[NodeState, ...] = ()
    history: tuple[HistoryRow, ...] = ()
    control: bool = False
    done: Mapping[str, str] = field(default_factory=dict)
