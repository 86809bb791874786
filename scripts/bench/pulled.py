"""A card that is pulled out of its reader halfway, inserted again, and flashed again."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.cards import CARD_SIZE, Card, Rig
from bench.context import CARD, Bench, Failed, check, measured, piimg
from bench.flashing import GB, ask_bmaptool
from bench.images import NODES, Images
from bench.measure import Words
from bench.throttle import throttled
from imagebuilder.system import loop

_PATIENCE = 10.0  # seconds


@dataclass(frozen=True)
class _Served:
    """The file with a card's content, served by a process; killing the process removes the card."""

    file: Path
    server: "subprocess.Popen[bytes]"


def pulled(bench: Bench) -> None:
    """One card, pulled halfway, so that it answers no more requests; then it is inserted again."""
    made = bench.images()
    limit = CARD.seconds(made.used, made.used)
    data = bench.work / "pulled-card"
    try:
        data.touch()
        os.truncate(data, CARD_SIZE)
        with _put_in(data, bench.work / "reader") as (served, cards):

            def pull(_: list[int]) -> None:
                served.server.kill()

            words = _words(made, bench, cards)
            first = measured(bench, cards, "pulled-1", [words], env=made.env, after=limit / 2, then=pull)
        if first.statuses != [3]:
            raise Failed(f"piimg did not notice that the card was pulled: {first.statuses} {first.output}")
        with _put_in(data, bench.work / "reader") as (_, cards):
            words = _words(made, bench, cards)
            again = check(measured(bench, cards, "pulled-2", [words], env=made.env), "piimg flash (pulled)")
        report = json.loads((bench.work / "report").read_text())["cards"][0]
        ask_bmaptool(data, Path(report["image"]))
    finally:
        data.unlink(missing_ok=True)
    reference = bench.seconds_of("one") or limit
    bench.add(
        "pulled", "piimg, one card pulled at half, and again", again, made.used / GB,
        seconds=first.seconds + again.seconds, cpu=(first.cpu + again.cpu) / made.used * GB,
        reference=reference, to="one card" if reference != limit else "limit", target=1.15,
        written=first.seen[0].written + again.seen[0].written, read=first.seen[0].read + again.seen[0].read,
        note=f"{first.seconds:.1f} s, then {again.seconds:.1f} s",
    )  # fmt: skip


def _words(made: Images, bench: Bench, cards: Rig) -> Words:
    words: Words = ["flash", *cards.devices, "--node", NODES[1], "--images", made.built, "--virtual", "--yes"]
    return piimg(made, *words, "--report", bench.work / "report")


@contextlib.contextmanager
def _put_in(data: Path, point: Path) -> Iterator[tuple[_Served, Rig]]:
    """A throttled card whose content is ``data``, behind nbdkit and nbdfuse."""
    point.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.callback(point.rmdir)
        server = subprocess.Popen(
            ["nbdfuse", str(point), "--command", "nbdkit", "-s", "file", str(data)],
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        stack.callback(_end, server, point)
        file = point / "nbd"
        deadline = time.monotonic() + _PATIENCE
        while not file.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise Failed("nbdkit and nbdfuse do not serve a file")
            time.sleep(0.05)
        device = stack.enter_context(loop.attached(file, direct_io=True))
        prefix = stack.enter_context(throttled({device: CARD}))
        yield _Served(file, server), Rig([Card(device, file, CARD)], prefix)


def _end(server: "subprocess.Popen[bytes]", point: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    unmount = ["fusermount3", "-u", str(point)]
    while (
        subprocess.run(unmount, check=False, capture_output=True).returncode and time.monotonic() < deadline
    ):
        time.sleep(0.1)  # a loop device closes its file a moment after it is detached
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
