"""The scenarios in which piimg writes cards."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cards import Card, Rig, rig
from bench.context import CARD, Bench, Failed, Row, check, measured, piimg
from bench.images import MIB, NODES, SMALL, Images, warm
from bench.measure import Run, Words
from bench.older import COMMIT, older
from bench.throttle import Speed
from imagebuilder.system import files
from imagebuilder.system.process import run as tool

GB = 10**9  # bytes
CHEAP = Speed(10, 40)

Report = list[dict[str, Any]]


def fresh(bench: Bench) -> None:
    """Six new cards of prepared nodes; the same by an older build, from whole images."""
    made = bench.images()
    made.prepare()
    now = _fresh(bench, made, "fresh", "piimg, six new cards of prepared nodes", target=1.02)
    its = replace(made, program=older(bench))
    warm(*(made.built / f"{node}.img" for node in NODES))
    before = _fresh(bench, its, "fresh-older", f"piimg {COMMIT}, the same, of whole images", made.built)
    assert now.ratio and before.ratio and now.cpu and before.cpu
    bench.aim("six new cards of prepared nodes", "of the limit", before.ratio, now.ratio, 1.02)
    bench.aim("processor time of six new cards", "core-s a GB", before.cpu, now.cpu, 0.5)


def _fresh(
    bench: Bench,
    made: Images,
    name: str,
    what: str,
    folder: Path | None = None,
    target: float | None = None,
) -> Row:
    with rig(bench.cards, [CARD] * 6) as cards:
        done, _ = flash_all(bench, made, cards, name, folder)
    return bench.add(
        name, what, done, 6 * made.used / GB,
        reference=CARD.seconds(made.used, made.used), to="limit", target=target,
    )  # fmt: skip


def foreign(bench: Bench) -> None:
    """Three cards full of random data, and three with an image whose blocks are all displaced."""
    made = bench.images()
    noise = bench.work / "noise"

    def prepare(index: int, file: Path) -> None:
        if index < 3:
            shutil.copyfile(noise, file)
        else:
            _shifted(made.built / f"{NODES[index]}.img", file)

    try:
        with noise.open("wb") as stream:
            for _ in range(bench.size.image // MIB):
                stream.write(os.urandom(MIB))
        with rig(bench.cards, [CARD] * 6, prepare) as cards:
            done, report = flash_all(bench, made, cards, "foreign", made.built)
            _judge(cards.cards, report)
    finally:
        noise.unlink()
    reference, to = _one_go(bench, CARD.seconds(made.used, made.used))
    bench.add(
        "foreign", "piimg, three cards of noise, three of another image", done, 6 * made.used / GB,
        reference=reference, to=to, target=1.03, note=skipped(report),
    )  # fmt: skip


def _shifted(image: Path, file: Path) -> None:
    """The content of an image at a small offset: real data, but no block at its place."""
    with image.open("rb") as source, file.open("r+b") as target:
        files.copy_range(source, target, 0, MIB + 4096, image.stat().st_size)


def interrupted(bench: Bench) -> None:
    """Ctrl-C, and SIGKILL, halfway; then the same command again."""
    made = bench.images()
    limit = CARD.seconds(made.used, made.used)
    reference, to = _one_go(bench, limit)
    for name, number in (("Ctrl-C", signal.SIGINT), ("SIGKILL", signal.SIGKILL)):

        def end(children: list[int], number: signal.Signals = number) -> None:
            for child in children:
                os.kill(child, number)

        with rig(bench.cards, [CARD] * 6) as cards:
            first = measured(
                bench, cards, f"interrupted-{name}-1",
                [flash_words(made, cards, bench.work / "report", made.built)],
                env=made.env, after=limit / 2, then=end,
            )  # fmt: skip
            if first.statuses == [0]:
                raise Failed(f"{name} came too late: piimg was done")
            again, report = flash_all(bench, made, cards, f"interrupted-{name}-2", made.built)
            _judge(cards.cards, report)
        worked = [
            CARD.seconds(one.written + two.written, one.read + two.read)
            for one, two in zip(first.seen, again.seen, strict=True)
        ]
        bench.add(
            "interrupted", f"piimg, {name} at half, and again", again, 6 * made.used / GB,
            seconds=first.seconds + again.seconds, cpu=(first.cpu + again.cpu) / (6 * made.used / GB),
            reference=reference, to=to, target=1.15,
            written=sum(a.written + b.written for a, b in zip(first.seen, again.seen, strict=True)) / 6,
            read=sum(a.read + b.read for a, b in zip(first.seen, again.seen, strict=True)) / 6,
            note=f"{first.seconds:.1f} s, then {again.seconds:.1f} s; the card itself worked "
            f"{max(worked) / limit:.2f} of one go",
        )  # fmt: skip


def one(bench: Bench) -> None:
    """One card."""
    _several(bench, "one", 1, CARD, bench.images())


def twelve(bench: Bench) -> None:
    """Twelve cards of half the speed: the total speed of six."""
    _several(bench, "twelve", 12, Speed(20, 80), bench.images(SMALL))


def twenty_four(bench: Bench) -> None:
    """Twenty-four cards of a quarter of the speed, as cheap cards have; the same by an older build."""
    made = bench.images(SMALL)
    now = _several(bench, "twenty-four", 24, CHEAP, made)
    its = replace(made, program=older(bench))
    before = _several(bench, "twenty-four-older", 24, CHEAP, its, f"piimg {COMMIT}, the same")
    bench.aim("memory for 24 cards, one image", "MiB", before.rss / MIB, now.rss / MIB, 160)


def _several(bench: Bench, name: str, count: int, speed: Speed, made: Images, what: str = "") -> Row:
    warm(made.built / f"{NODES[1]}.img")
    with rig(bench.cards, [speed] * count) as cards:
        done, report = _same(bench, made, cards, name)
    took = sorted(float(card["seconds"]) for card in report)
    return bench.add(
        name, what or f"piimg, {count} new card{'s' * (count > 1)} of {speed} MiB/s", done,
        count * made.used / GB,
        reference=speed.seconds(made.used, made.used), to="limit", target=1.04,
        note=f"the cards took {took[0]:.1f} to {took[-1]:.1f} s",
    )  # fmt: skip


def mixed(bench: Bench) -> None:
    """Cards of three speeds at the same time: each must reach its own limit."""
    made = bench.images()
    speeds = [Speed(20, 80)] * 2 + [CARD] * 2 + [Speed(80, 320)] * 2
    with rig(bench.cards, speeds) as cards:
        done, report = _same(bench, made, cards, "mixed")
    for speed in dict.fromkeys(speeds):
        mine = [float(card["seconds"]) for card, its in zip(report, speeds, strict=True) if its == speed]
        bench.add(
            "mixed", f"piimg, two cards of {speed} MiB/s among six", done, 6 * made.used / GB,
            seconds=max(mine), reference=speed.seconds(made.used, made.used), to="limit", target=1.04,
        )  # fmt: skip


def flash_words(made: Images, cards: Rig, report: Path, folder: Path | None = None) -> Words:
    """`piimg flash --all` on the cards, of the manifest or of the images in ``folder``."""
    words: Words = ["flash", "--all", "--virtual", "--yes", "--report", report]
    images: Words = ["--images", folder] if folder else []
    return piimg(made, *words, *images, *cards.devices)


def flash_all(
    bench: Bench, made: Images, cards: Rig, name: str, folder: Path | None = None
) -> tuple[Run, Report]:
    """Flash all nodes; give the report, card by card as they were named."""
    return flashed(bench, made, cards, name, flash_words(made, cards, bench.work / "report", folder))


def _same(bench: Bench, made: Images, cards: Rig, name: str) -> tuple[Run, Report]:
    """Flash one node image to all cards."""
    image = made.built / f"{NODES[1]}.img"
    words: Words = ["flash", "--image", image, "--virtual", "--yes", "--report", bench.work / "report"]
    return flashed(bench, made, cards, name, piimg(made, *words, *cards.devices))


def flashed(bench: Bench, made: Images, cards: Rig, name: str, words: Words) -> tuple[Run, Report]:
    """Run a command that flashes all cards with a report, as for ``flash_all``. Raises Failed."""
    done = check(measured(bench, cards, name, [words], env=made.env), f"piimg flash ({name})")
    by_device = {card["device"]: card for card in json.loads((bench.work / "report").read_text())["cards"]}
    report = [by_device[device] for device in cards.devices]
    if any(card["verdict"] != "good" for card in report):
        raise Failed(f"piimg flash ({name}): {[card['verdict'] for card in report]}")
    if all(card.get("rates") for card in report):  # piimg's own account, with its names for the phases
        bench.plots[name] = {
            Path(card["device"]).name: [tuple(point) for point in card["rates"]] for card in report
        }
    return done, report


def _judge(cards: Sequence[Card], report: Report) -> None:
    """Verify the cards with bmaptool, too: a fast writer with errors would be worthless."""
    for card, its in zip(cards, report, strict=True):
        ask_bmaptool(card.file, Path(its["image"]))


def ask_bmaptool(file: Path, image: Path) -> None:
    """Raise PiimgError unless the card whose content is ``file`` holds what it should. It is cut short: of a
    file, bmaptool wants the size of the image."""
    os.truncate(file, image.stat().st_size)
    tool(["bmaptool", "copy", "--bmap", image.with_suffix(".bmap"), file, "/dev/null"])


def skipped(report: Report) -> str:
    """A note: how much of the cards was not written."""
    share = [card["skipped"] / (card["skipped"] + card["written"] or 1) for card in report]
    return f"{min(share):.0%} to {max(share):.0%} of a card was left as it was"


def _one_go(bench: Bench, limit: float) -> tuple[float, str]:
    """What a run is compared with: the fresh cards of this bench if they were measured, else their limit."""
    seconds = bench.seconds_of("fresh")
    return (seconds, "fresh") if seconds else (limit, "limit")
