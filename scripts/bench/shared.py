"""Many cards on a host with little memory: what the nodes of a cluster have in common is read once."""

from dataclasses import replace

from bench.cards import Rig, rig
from bench.context import Bench, check, measured, piimg
from bench.flashing import CHEAP, GB, flash_all
from bench.images import FULL, MIB, NODES, SMALL, Images, drop
from bench.measure import Run, Words
from bench.older import COMMIT, older

_CARDS = 24
_MEMORY = (2 << 30) * SMALL.used // FULL.used  # bytes: to the small image what 2 GiB are to the full one


def shared(bench: Bench) -> None:
    """Twenty-four cards with little memory: bytes read from the host's disk; the same by an older build."""
    made = bench.images(SMALL)
    with made.many(_CARDS):
        made.prepare()
        drop(made.cached)
        with rig(bench.cards, [CHEAP] * _CARDS, memory=_MEMORY) as cards:
            done, _ = flash_all(bench, made, cards, "shared")
    now = _add(bench, made, "shared", f"piimg, {_CARDS} nodes on as many cards", done)
    rss = done.rss / MIB
    images = [made.built / f"{node}.img" for node in NODES]
    program = older(bench)
    drop(*images)
    with rig(bench.cards, [CHEAP] * _CARDS, memory=_MEMORY) as cards:
        done = _older(bench, replace(made, program=program), cards)
    before = _add(bench, made, "shared-older", f"piimg {COMMIT}, six commands, four cards each", done)
    note = f"now {_CARDS} nodes, older six; {_MEMORY >> 20} MiB of memory for {SMALL.used >> 20} MiB in use"
    bench.aim("read from the host's disk, 24 cards", "of the base in use", before, now, 1.1, note)
    bench.aim("memory for 24 cards, 24 nodes", "MiB", None, rss, 160)


def _older(bench: Bench, made: Images, cards: Rig) -> Run:
    """Each of six images to four cards, by a command of its own."""
    each = _CARDS // len(NODES)
    commands: list[Words] = []
    for number, node in enumerate(NODES):
        devices = cards.devices[number * each : (number + 1) * each]
        words: Words = ["flash", "--image", made.built / f"{node}.img", "--virtual", "--yes"]
        report = bench.work / f"report-{node}"
        commands.append(piimg(made, *words, "--report", report, *devices))
    return check(measured(bench, cards, "shared-older", commands, env=made.env), "piimg flash (shared-older)")


def _add(bench: Bench, made: Images, name: str, what: str, done: Run) -> float:
    """Add the row. Gives the bytes read from the host's disk, of the bytes in use of the base."""
    read = done.fetched - sum(card.read for card in done.seen)
    share = read / made.used
    bench.add(
        name, f"{what}, with {_MEMORY >> 20} MiB of memory", done, _CARDS * made.used / GB,
        reference=CHEAP.seconds(made.used, made.used), to="limit",
        note=f"{read / MIB:.0f} MiB were read from the host's disk: {share:.2f} of the base in use",
    )  # fmt: skip
    return share
