"""`piimg plan --graph`: the cluster with the slots of its cards; needs no secret, and writes nothing."""

import json
from pathlib import Path
from xml.etree import ElementTree

from tests.unit.plan.running import piimg

HOSTILE = "</text><script> \x1b]0;owned\x07\u202e"


def written(cluster: Path, node: str, slot: str, run: str, time: str, verdict: str = "good") -> None:
    """Add lines to the history: a card of a reader was written; without ``verdict`` it was interrupted."""
    begun = {
        **{"event": "begun", "device": "/dev/sdb", "slot": slot, "model": "m", "serial": ""},
        **{"size": 10**9, "run": run, "time": time, "key": f"usb x {slot}", "node": node, "image": "i"},
    }
    file = cluster / "state" / "mine" / "cards.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(json.dumps(begun) + "\n")
        if verdict:
            ended = {name: begun[name] for name in ("run", "time", "key", "node", "size")}
            stream.write(json.dumps({"event": "ended", **ended, "verdict": verdict}) + "\n")


def test_the_drawing(cluster: Path) -> None:
    (cluster / "secrets.toml").unlink()
    done = piimg(cluster, "plan", "--graph")
    assert (done.returncode, done.stderr) == (0, "") and not (cluster / "state").exists()
    assert "      └─ worker5  10.0.0.15  pi-3b+  worker\n" in done.stdout
    written(cluster, "worker2", "usb-1 slot 1", "1" * 32, "2026-11-01T10:00:00+00:00")
    written(cluster, "worker2", "usb-1 slot 2", "2" * 32, "2026-11-02T10:00:00+00:00")
    written(cluster, "worker3", HOSTILE, "3" * 32, "2026-11-02T10:00:00+00:00")
    (cluster / "state").chmod(0o755)
    said = piimg(cluster, "plan", "--graph").stdout
    assert "worker2  10.0.0.12  pi-3b+  worker  card in usb-1 slot 2\n" in said
    assert all(character.isprintable() or character == "\n" for character in said)
    svg = piimg(cluster, "plan", "--graph", "svg", "--node", "worker2", "--node", "worker3").stdout
    texts = [one.text or "" for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert "card in usb-1 slot 2" in texts and {"master", "worker2", "worker3"} <= {*texts}
    assert "worker1" not in texts and "card in &lt;/text&gt;" in svg


def test_a_card_that_is_not_good_is_not_drawn(cluster: Path) -> None:
    """Neither is an older good card: in a reader it can be the card that failed later."""
    written(cluster, "worker1", "usb-1 slot 1", "1" * 32, "2026-11-01T10:00:00+00:00")
    for number, verdict in enumerate(("failed", "bad", "interrupted", ""), 1):
        run = str(number + 1) * 32
        written(cluster, f"worker{number}", "usb-1 slot 2", run, "2026-11-02T10:00:00+00:00", verdict)
    written(cluster, "worker5", "usb-1 slot 3", "7" * 32, "2026-11-02T10:00:00+00:00", "unverified")
    for form in ("text", "svg"):
        said = piimg(cluster, "plan", "--graph", form).stdout
        assert "usb-1 slot 3" in said and "slot 1" not in said and "slot 2" not in said
    rows = {line.split()[0]: line for line in piimg(cluster, "status").stdout.splitlines() if line}
    assert "usb-1 slot 3" in rows["worker5"]
    for number, verdict in enumerate(("failed", "bad", "interrupted"), 1):
        assert f":00, {verdict} in usb-1 slot 2" in " ".join(rows[f"worker{number}"].split())
