"""What happens to each card of a soak: drawn from a seed, so that a run can be had again."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.integration.card.rig import MIB, SIZE

Span = tuple[int, int]
"""Bytes of an image: the first, and the one behind the last."""

HANG = "hangs"
PULLED = "pulled"
FAKE = "fake"
SOUND = ("sound", "slow", "pauses")
"""Cards that must come out good, whatever happens in the other slots."""

KINDS: Mapping[str, int] = {  # how many of a hundred
    "sound": 27,
    "slow": 5,
    "pauses": 6,
    PULLED: 18,
    "write error": 8,
    "read error": 8,
    "silent": 16,
    FAKE: 9,
    HANG: 3,
}
_SILENT = ("lost-write", "torn-write", "flip-on-write", "flip-on-read")
_TASKS = ("sample", "compare", "probe", "write", "write", "read-back", "read-back")
_BLOCK = 4096  # bytes
_CARDS = (SIZE, 1 << 30, 32 * 10**9)  # bytes


@dataclass(frozen=True)
class Cycle:
    """One card in one slot. ``fault`` is what the plugin of tests/integration/card/faulty.py is reported.

    ``prior`` is what the card holds before: ones, zeros, noise, a node of "elsewhere" or, as ``carries``
    says, of this cluster; there the blocks in ``changed`` (their first bytes) are other than in the image.
    ``pull`` is the task, and the share of it, at which the card is pulled out; "look" is before it is looked
    at. One that ``spoils`` never gives back what it should at a byte that counts: it cannot be good.
    """

    number: int
    kind: str
    prior: str
    fault: Mapping[str, str | int] = field(default_factory=dict)
    size: int = SIZE
    carries: str = ""
    changed: Sequence[int] = ()
    pull: tuple[str, float] | None = None
    spoils: bool = False

    @property
    def served(self) -> bool:
        """Whether a server is beneath the card, which can have faults and can be killed."""
        return bool(self.fault) or self.pull is not None

    def __str__(self) -> str:
        words = [f"{name}={value}" for name, value in self.fault.items() if name != "fault"]
        words += [f"at {self.pull[1]:.0%} of {self.pull[0]}"] if self.pull else []
        return " ".join(
            [self.kind, str(self.fault.get("fault", "")), *words, "on", self.carries or self.prior]
        )


def draw(seed: int, number: int, used: Sequence[Span], nodes: Sequence[str], *, hanging: bool) -> Cycle:
    """The card ``number`` of a run. ``used`` is what an image has in use, ``nodes`` are those of the cluster.

    Each is drawn by itself: what one card is does not depend on the others, or on how fast the machine is.
    """
    dice = random.Random(f"{seed} {number}")
    kinds = {kind: weight for kind, weight in KINDS.items() if hanging or kind != HANG}
    (kind,) = dice.choices(list(kinds), list(kinds.values()))
    prior = dice.choice(("ones", "ones", "zeros", "noise", "elsewhere", "node", "node"))
    if kind == HANG:
        prior = "ones"  # it is to hang while it is written, not while it is looked at
    fault = _fault(dice, kind, used)
    return Cycle(
        number,
        kind,
        prior,
        fault,
        SIZE if fault else dice.choice(_CARDS),
        dice.choice(nodes) if prior == "node" else "",
        [place(dice, used) // _BLOCK * _BLOCK for _ in range(dice.randrange(12))],
        _pull(dice) if kind == PULLED else None,
        _spoils(fault, used),
    )


def place(dice: random.Random, used: Sequence[Span]) -> int:
    """A byte in use; each range is as likely as any other, so that small ones have their turn."""
    low, high = dice.choice(used)
    return dice.randrange(low, high)


def _pull(dice: random.Random) -> tuple[str, float]:
    if dice.random() < 0.1:
        return "look", 0.0
    return dice.choice(_TASKS), dice.choice((0.0, 0.01, 0.5, 0.99, dice.random()))


def _fault(dice: random.Random, kind: str, used: Sequence[Span]) -> dict[str, str | int]:
    often = dice.choice((0, 0, 1, 1, 2, dice.randint(3, 8)))
    times: dict[str, str | int] = {"times": often} if often else {}
    anywhere = place(dice, used) if dice.random() < 0.9 else dice.randrange(SIZE)
    body = place(dice, [span for span in used if span[0] >= MIB])
    match kind:
        case "slow":
            return {"delay": "0.03"}
        case "pauses":
            way = dice.choice(("write", "read", "flush"))
            where = {} if way == "flush" else {"at": body}
            return {"fault": f"stall-on-{way}", "stall": dice.randint(1, 4), "times": 1, **where}
        case "pulled":
            return {"delay": "0.03"}  # or it would be through before the pull
        case "write error" | "read error":
            where = {"at": anywhere} if dice.random() < 0.7 else {"after": dice.randrange(12 * MIB)}
            return {"fault": kind.replace(" ", "-"), **where, **times}
        case "silent":
            return {"fault": dice.choice(_SILENT), "at": anywhere, **times}
        case "fake":
            return _fake(dice)
        case "hangs":
            return {"fault": f"stall-on-{dice.choice(('write', 'read'))}", "stall": 100_000, "at": body}
    return {}


def _spoils(fault: Mapping[str, str | int], used: Sequence[Span]) -> bool:
    at, passes = int(fault.get("at", -1)), "times" in fault
    reads = fault.get("fault") in ("flip-on-read", "read-error") and not passes
    return reads and any(low <= at < high for low, high in used)


def _fake(dice: random.Random) -> dict[str, str | int]:
    real = dice.choice((1 << dice.randint(20, 25), dice.randrange(MIB, 60 * MIB, _BLOCK)))
    way = dice.choice(("wrap", "limbo"))
    return {way: real, **({"void": 255} if way == "limbo" and dice.random() < 0.5 else {})}
