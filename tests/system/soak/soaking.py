"""A soak: one `piimg station` lives through hundreds of cards, many of which break, and holds nothing after.

Each card is real: a loop device, over a sparse file or over a server that has the fault. The station is the
command as anybody runs it. After each card its device must be free, and nothing in the process may lead to
it; when all slots are empty the process must stand where it stood before the first card.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.card.rig import Rig, require
from tests.integration.card.running import environment
from tests.integration.card.slots import Slot, slots
from tests.system.soak.drawn import HANG, Cycle, Span, draw
from tests.system.soak.judging import Medium, judge, used_of
from tests.system.soak.making import make_cluster, prior_content
from tests.system.soak.reported import Reported, Trigger
from tests.system.soak.watched import LAUNCH, Rest, Watched

PATIENCE = 240  # seconds until a card must have its verdict; piimg gives one that hangs up after 60
GROWTH = 8 << 20  # bytes that the process may grow by, from when each slot was at work once until the end
# glibc raises these limits as it sees large blocks freed, and then keeps MiB in each arena (mallopt(3)). Set,
# they stay where they begin, and a leak is not taken for that.
FREEING = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
POOL = 16 + 1  # threads that look at cards, and the main one; besides them one a slot that writes
LEFT = "refused"
_REPORT = "build/station-report.json"
_MIB = 1 << 20


@dataclass
class Inserted:
    """A card that is in a slot: what happens to it, its medium, how that began, and what is to be ended."""

    cycle: Cycle
    medium: Medium
    before: bytes
    device_file: Path
    stack: ExitStack
    pull: Callable[[], object] | None
    since: float = 0.0


@dataclass
class Soak:
    """A soak under way. ``say`` is given a line for each card."""

    cluster: Path
    nodes: Sequence[str]
    used: Sequence[Span]
    folder: Path
    seed: int
    hanging: bool
    say: Callable[[str], object]
    process: "subprocess.Popen[str]"
    watched: Watched
    reported: Reported
    slots: Sequence[Slot]
    outcomes: list[tuple[Cycle, str]] = field(default_factory=list)
    rests: list[Rest] = field(default_factory=list)
    _inside: dict[str, Inserted] = field(default_factory=dict)

    def wave(self, count: int) -> None:
        """Have ``count`` more cards written, a card a slot at once, until all slots are empty."""
        begun = len(self.outcomes)
        numbers = iter(range(begun, begun + count))
        first = [(slot, self._prepared(number)) for slot, number in zip(self.slots, numbers, strict=False)]
        for slot, card in first:
            self._put(slot, card)
        while self._inside:
            self._alive()
            for slot in self.slots:
                if slot.name not in self._inside:
                    continue
                inside = self._inside[slot.name]
                if slot.name in self.reported.ended:
                    self._conclude(slot, inside)
                    number = next(numbers, None)
                    if number is not None:
                        self._put(slot, self._prepared(number))
                elif time.monotonic() - inside.since > PATIENCE:
                    raise AssertionError(f"{inside.cycle} has no verdict: {self.watched.rest()}")
            time.sleep(0.02)
        self.rests.append(self.at_rest())

    def _alive(self) -> None:
        assert not self.reported.broken, self.reported.broken
        assert self.process.poll() is None, (
            f"it ended: {self.process.returncode} {''.join(self.reported.lines)}"
        )

    def _prepared(self, number: int) -> Inserted:
        cycle = draw(self.seed, number, self.used, self.nodes, hanging=self.hanging)
        folder = self.folder / f"cycle{number}"
        folder.mkdir()
        stack, pull = ExitStack(), None
        if cycle.served:
            rig = Rig(folder, stack)
            file = rig.serve(**cycle.fault)
            medium = file.parent.with_name("data")
            pull = lambda: rig.pull(file)  # noqa: E731
        else:
            file = medium = folder / "card"
            file.touch()
            os.truncate(file, cycle.size)
        named = f"build/{cycle.carries}" if cycle.carries else "elsewhere"
        content = prior_content(cycle.prior, cycle.size, self.cluster / f"{named}.img", cycle.changed)
        with medium.open("r+b") as stream:
            stream.write(content)
        return Inserted(cycle, Medium(medium, cycle.fault), content[:_MIB], file, stack, pull)

    def _put(self, slot: Slot, card: Inserted) -> None:
        self.reported.ended.pop(slot.name, None)
        pull = card.cycle.pull
        if pull is not None and card.pull is not None and pull[0] != "look":
            self.reported.triggers[str(slot.node)] = Trigger(*pull, card.pull)
        slot.put(card.device_file)
        card.since = time.monotonic()
        self._inside[slot.name] = card
        if pull is not None and card.pull is not None and pull[0] == "look":
            card.pull()

    def _conclude(self, slot: Slot, card: Inserted) -> None:
        """Judge a card that has ended, take it out, and see that nothing of it is held."""
        ended, cycle = self.reported.ended.pop(slot.name), card.cycle
        self.reported.triggers.pop(str(slot.node), None)
        report = None if ended["state"] == LEFT else self._report(slot)
        if cycle.kind == HANG and card.pull is not None:
            card.pull()  # what waits for it goes on waiting until it is pulled out
        slot.take()
        self._nothing_of(str(slot.node))
        card.stack.close()
        seconds = time.monotonic() - card.since
        if report is None:
            verdict = self._left(card, ended["text"])
        else:
            verdict = judge(cycle, card.medium, card.before, report, self.used, self.folder)
        shutil.rmtree(self.folder / f"cycle{cycle.number}")
        del self._inside[slot.name]
        self.outcomes.append((cycle, verdict))
        self.say(
            f"{len(self.outcomes):>4} {slot.name:<10} {seconds:5.1f} s  {verdict:<10} {cycle.number}: {cycle}"
        )

    def _left(self, card: Inserted, text: str) -> str:
        """A card that was not written to: it holds a node that is done, or was pulled before it was seen."""
        cycle = card.cycle
        done = {one["node"] for one in self._cards() if one["verdict"] == "good"}
        carries_done = "which is done" in text and cycle.carries in done
        assert carries_done or cycle.pull == ("look", 0.0), f"{cycle}: {text}"
        assert card.medium.start(_MIB) == card.before, f"{cycle}: {text}, and it was written to"
        return LEFT

    def _report(self, slot: Slot) -> dict[str, Any]:
        return next(card for card in reversed(self._cards()) if card["device"] == str(slot.node))

    def _cards(self) -> list[dict[str, Any]]:
        """All cards that ended, as the station's report has them."""
        cards: list[dict[str, Any]] = json.loads((self.cluster / _REPORT).read_text())["cards"]
        return cards

    def _nothing_of(self, device: str) -> None:
        """No descriptor of the process leads to a device that is gone."""
        held = [link for link in self.watched.descriptors() if link.removesuffix(" (deleted)") == device]
        assert not held, f"{held} after its card was taken out"

    def at_rest(self) -> Rest:
        """What the process holds with nothing in the slots; waits until that is as at the beginning.

        At the beginning: until it is the same twice, and no moment in which the slots are being looked at.
        """
        deadline = time.monotonic() + 15
        wanted, rest = self.rests[0] if self.rests else None, self.watched.rest()
        while wanted is None or rest.held != wanted.held:
            self._alive()
            if time.monotonic() > deadline:
                break
            before, rest = rest, self.watched.rest()
            if wanted is None and before.held == rest.held:
                break
        if self.rests:
            first = self.rests[0]
            assert rest.held == first.held, f"{rest.threads} {rest.descriptors}, and at first {first}"
            assert rest.pool <= POOL + len(self.slots), f"{rest.pool} idle threads"
        self.say(
            f"at rest: {rest.pool} idle threads, {len(rest.threads)} other,"
            f" {len(rest.descriptors)} descriptors, {rest.memory / _MIB:.1f} MiB"
        )
        return rest

    def clear(self) -> None:
        """Take out what is in the slots after a failure, and end what is beneath it."""
        for card in self._inside.values():
            if card.pull is not None and card.cycle.kind == HANG:
                card.pull()
        _kill(self.process)
        for slot in self.slots:
            if slot.node.exists():
                slot.take()
        for card in self._inside.values():
            card.stack.close()

    def end(self) -> None:
        """End the station as somebody does, and see what is left of it."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(60)
        said = "".join(self.reported.lines)
        assert status == 130, f"{status}: {said}"
        assert "Traceback" not in said, said
        assert _loop_devices_over(self.folder) == []

    def summary(self, seconds: float) -> dict[str, Any]:
        """The run in figures."""
        verdicts: dict[str, dict[str, int]] = {}
        for cycle, verdict in self.outcomes:
            row = verdicts.setdefault(cycle.kind, {})
            row[verdict] = row.get(verdict, 0) + 1
        return {
            "seed": self.seed,
            "cycles": len(self.outcomes),
            "slots": len(self.slots),
            "seconds": round(seconds),
            "verdicts": verdicts,
            "at_rest": [
                {
                    "threads": len(rest.threads),
                    "pool": rest.pool,
                    "descriptors": len(rest.descriptors),
                    "memory": rest.memory,
                    "resident": rest.resident,
                }
                for rest in self.rests
            ],
        }


@contextmanager
def soaking(
    folder: Path, seed: int, cycles: int, count: int, say: Callable[[str], object], *, hanging: bool
) -> Iterator[Soak]:
    """A station with ``count`` empty slots, and nodes enough for so many ``cycles``."""
    require()
    cluster, cards = folder / "cluster", folder / "cards"
    cards.mkdir()
    nodes = make_cluster(cluster, cycles + count)
    stacks = folder / "stacks"
    stacks.touch()
    with ExitStack() as stack:
        made = stack.enter_context(slots(count))
        command = [sys.executable, "-c", LAUNCH, str(stacks), "--progress", "json", "station"]
        command += ["--images", str(cluster / "build")]
        process = subprocess.Popen(
            [*command, "--virtual", "--yes", "--erase", *(f"--slot={slot.name}" for slot in made)],
            cwd=cluster,
            env=environment() | FREEING,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        stack.callback(_kill, process)
        assert process.stderr is not None
        reported = Reported(process.stderr)
        reported.listen()
        assert reported.ready.wait(60), f"it does not begin: {''.join(reported.lines)}"
        used = used_of(cluster / "build" / "master.bmap")
        watched = Watched(process.pid, stacks)
        one = Soak(cluster, nodes, used, cards, seed, hanging, say, process, watched, reported, made)
        stack.callback(one.clear)
        one.rests.append(one.at_rest())
        try:
            yield one
        except BaseException as error:
            say(f"it ends here: {error!r}")  # whatever else goes wrong while all is taken down
            raise


def _kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()


def _loop_devices_over(folder: Path) -> list[str]:
    """The loop devices over files below ``folder``."""
    found = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # gone meanwhile
            found += [file.parts[3]] if file.read_text().startswith(f"{folder}/") else []
    return found
