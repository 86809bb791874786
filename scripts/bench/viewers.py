"""The scenario of the page: what a hundred viewers cost the writing of cards."""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from bench.cards import rig
from bench.context import Bench, Failed, free_port, median, piimg
from bench.flashing import GB, flashed
from bench.images import NODES, SMALL, warm
from bench.measure import Run, Words
from bench.throttle import Speed

VIEWERS = 100
CARDS = 12
SPEED = Speed(20, 80)
ROUNDS = 3  # of each, alternating; the median is reported
_MOST = 1.02  # of the time without a page
_STARTS = 20.0  # seconds for the page to come up


@dataclass
class _Viewers:
    """Viewers of the events of a page. ``got`` are the bytes that each has read."""

    port: int
    ended: threading.Event = field(default_factory=threading.Event)
    got: dict[socket.socket, int] = field(default_factory=dict)

    def run(self) -> None:
        """Look until ``ended`` is set."""
        with selectors.DefaultSelector() as waiting, contextlib.ExitStack() as stack:
            deadline = time.monotonic() + _STARTS
            while len(self.got) < VIEWERS and time.monotonic() < deadline and not self.ended.is_set():
                with contextlib.suppress(ConnectionRefusedError):
                    viewer = stack.enter_context(socket.create_connection(("127.0.0.1", self.port)))
                    viewer.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    waiting.register(viewer, selectors.EVENT_READ)
                    self.got[viewer] = 0
                    continue
                self.ended.wait(0.05)
            while not self.ended.is_set() and waiting.get_map():
                for key, _ in waiting.select(0.2):
                    reader = key.fileobj
                    assert isinstance(reader, socket.socket)
                    try:
                        data = reader.recv(1 << 16)
                    except ConnectionError:
                        data = b""
                    self.got[reader] += len(data)
                    if not data:
                        waiting.unregister(reader)


@contextlib.contextmanager
def _looking(port: int) -> Iterator[_Viewers]:
    viewers = _Viewers(port)
    thread = threading.Thread(target=viewers.run, name="viewers")
    thread.start()
    try:
        yield viewers
    finally:
        viewers.ended.set()
        thread.join()


def viewers(bench: Bench) -> None:
    """Twelve new cards with a hundred viewers of the page, beside the same without a page."""
    made = bench.images(SMALL)
    image = made.built / f"{NODES[1]}.img"
    warm(image)
    took: dict[bool, list[Run]] = {False: [], True: []}
    least = 0.0
    for turn in range(2 * ROUNDS):
        seen, name = bool(turn % 2), f"viewers-{turn}"
        port = free_port()
        words: Words = ["flash", "--image", image, "--virtual", "--yes", "--report", bench.work / "report"]
        page: Words = [f"--web=127.0.0.1:{port}"] if seen else []
        with rig(bench.cards, [SPEED] * CARDS) as cards, contextlib.ExitStack() as stack:
            looking = stack.enter_context(_looking(port)) if seen else None
            command = piimg(made, *words, *page, *cards.devices)
            done, report = flashed(bench, made, cards, name, command)
        if looking is not None:
            if len(looking.got) < VIEWERS:
                raise Failed(f"only {len(looking.got)} of {VIEWERS} viewers could look")
            least = min(looking.got.values()) / done.seconds
        # From the first card to the last: the start of the process is not writing.
        took[seen].append(replace(done, seconds=max(float(card["seconds"]) for card in report)))
    without, with_page = median(took[False]), median(took[True])
    gb = CARDS * made.used / GB
    bench.add("viewers", f"piimg, {CARDS} cards of {SPEED} MiB/s, no page", without, gb)
    ratio = bench.add(
        "viewers", f"the same, {VIEWERS} viewers of the page", with_page, gb,
        reference=without.seconds, to="no page", target=_MOST,
        note=f"each viewer got {least / 1000:.1f} kB/s at least",
    ).ratio  # fmt: skip
    assert ratio is not None
    bench.aim(f"{VIEWERS} viewers of the page", "of no page", None, ratio, _MOST)
