"""The scenarios in which the manifest changed: from the edited manifest to good cards, all in all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.cards import Card, Prepare, rig
from bench.context import CARD, Bench, Failed, Row
from bench.flashing import GB, Report, ask_bmaptool, flash_all, flash_words, flashed, skipped
from bench.images import NODES, Images, warm
from bench.measure import Words
from bench.older import COMMIT, older_cluster
from imagebuilder.card.source import open_source
from imagebuilder.history.block_maps import earlier_in
from imagebuilder.system import files


def changed(bench: Bench) -> None:
    """The manifest changed, then six new cards, all in all; the same by an older build."""
    made = bench.images()
    limit = CARD.seconds(made.used, made.used)
    made.prepare()
    with made.changed(), rig(bench.cards, [CARD] * 6) as cards:
        done, report = flash_all(bench, made, cards, "changed")
        _judge(made, cards.cards, report)
    what = "piimg, the manifest changed, six new cards"
    now = bench.add("changed", what, done, 6 * made.used / GB, reference=limit, to="limit", target=1.06)
    with _older_changed(bench, made) as (its, words, folder), rig(bench.cards, [CARD] * 6) as cards:
        flash = flash_words(its, cards, bench.work / "report", folder)
        done, _ = flashed(bench, its, cards, "changed-older", _both(words, flash))
    what = f"piimg {COMMIT}, the same: build, then flash"
    before = bench.add("changed-older", what, done, 6 * made.used / GB, reference=limit, to="limit")
    assert now.ratio and before.ratio
    bench.aim("manifest changed, six new cards, all in all", "of the limit", before.ratio, now.ratio, 1.06)


def reflash(bench: Bench) -> None:
    """The manifest changed, then the six cards of before, all in all; the same by an older build."""
    made = bench.images()
    kept = earlier_in(made.prepared.parent, made.cluster)
    for node in NODES:
        kept.keep(node, open_source(made.built / f"{node}.img"))
    what = "piimg, the manifest changed, the six cards of before"
    now = _reflash(bench, made, "reflash", what, target=1.25)
    warm(*(made.built / f"{node}.img" for node in NODES))
    with (
        _older_changed(bench, made) as (its, words, folder),
        rig(bench.cards, [CARD] * 6, _old(made)) as cards,
    ):
        flash = flash_words(its, cards, bench.work / "report", folder)
        done, report = flashed(bench, its, cards, "reflash-older", _both(words, flash))
    before = bench.add(
        "reflash-older", f"piimg {COMMIT}, the same: build, then flash", done, 6 * made.used / GB,
        reference=CARD.seconds(0, made.used), to="reading once",
        note=f"{skipped(report)}; it does not read all after the last write",
    )  # fmt: skip
    assert now.ratio and before.ratio
    what = "manifest changed, the six cards of before, all in all"
    bench.aim(what, "of reading once", before.ratio, now.ratio, 1.25)


def unknown(bench: Bench) -> None:
    """The same six cards, without the record of their earlier contents."""
    made = bench.images()
    _forget(made)
    _reflash(bench, made, "unknown", "piimg, the same, their history not known", target=2.1)


def _reflash(bench: Bench, made: Images, name: str, what: str, target: float) -> Row:
    old = _old(made)
    made.prepare()
    try:
        with made.changed(), rig(bench.cards, [CARD] * 6, old) as cards:
            done, report = flash_all(bench, made, cards, name)
            _judge(made, cards.cards, report)
    finally:
        _forget(made)
    for card in report:
        if card["read_back"] < card["written"] + card["skipped"]:
            raise Failed(f"{card['device']}: only {card['read_back']} bytes were read after the last write")
    return bench.add(
        name, what, done, 6 * made.used / GB,
        reference=CARD.seconds(0, made.used), to="reading once", target=target, note=skipped(report),
    )  # fmt: skip


def _old(made: Images) -> Prepare:
    """Cards with the images of before the change."""
    built = made.built

    def prepare(index: int, file: Path) -> None:
        files.copy_sparse(built / f"{NODES[index]}.img", file)

    return prepare


def _forget(made: Images) -> None:
    """Remove the record of what was written to cards."""
    shutil.rmtree(earlier_in(made.prepared.parent, made.cluster).folder, ignore_errors=True)


@contextlib.contextmanager
def _older_changed(bench: Bench, made: Images) -> Iterator[tuple[Images, Words, Path]]:
    """The older build's cluster with the change, its command to build all nodes, and the folder for them."""
    its = older_cluster(bench, made)
    warm(its.cached)
    folder = bench.work / "changed"
    try:
        with its.changed():
            yield its, [its.program, "--manifest", its.manifest, "build", "--all", "--output", folder], folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _both(first: Words, second: Words) -> Words:
    """One command line that runs two, and stops when the first fails."""
    count = len(first)
    script = f'"${{@:1:{count}}}" && "${{@:{count + 1}}}"'
    return ["bash", "-c", script, "bash", *first, *second]


def _judge(made: Images, cards: Sequence[Card], report: Report) -> None:
    """Verify the cards with bmaptool, too, against whole images of the same manifest."""
    for card, its in zip(cards, report, strict=True):
        with tempfile.TemporaryDirectory(dir=made.cluster) as folder:
            made.piimg("build", "--node", str(its["node"]), "--output", folder)
            ask_bmaptool(card.file, Path(folder) / f"{its['node']}.img")
