"""The log of `flash` and `verify`: each step of a card with what came out, and how the run ended."""

import re
import stat
from pathlib import Path

from imagebuilder.device.discovery import Disk
from tests.integration.card.test_commands import piimg


def steps(log: Path, device: Path) -> list[str]:
    """The INFO lines about a device, without what is measured."""
    lines = [line.partition("] ")[2] for line in log.read_text().splitlines() if " INFO card." in line]
    return [re.sub(r"[0-9.]+ s$", "N s", line) for line in lines if line.startswith(f"{device}: ")]


def test_each_step_of_a_card_is_in_the_log(cluster: Path, card: Disk) -> None:
    log = cluster / "piimg.log"
    first = piimg(
        *(cluster, "--log-file", log, "-v", "--progress", "plain"),
        *("flash", card.node, "--node", "worker2", "--virtual", "--yes"),
    )
    assert first.returncode == 0, first.stderr
    found = steps(log, card.node)
    names = [line.split()[1] for line in found]
    assert names[0] == "flash" and names[-1] == "flash:"
    assert [name for name in names if name in ("probe", "write", "read-back")] == [
        "probe",
        "write",
        "read-back",
    ]
    assert "flash: good, " in found[-1]
    assert all(line in re.sub(r"[0-9.]+ s$", "N s", first.stderr, flags=re.MULTILINE) for line in found)
    assert "Erase this card" not in log.read_text()  # nobody was asked
    assert log.read_text().endswith("exit code 0\n")

    assert piimg(cluster, "--log-file", log, "verify", card.node).returncode == 0
    assert f"{card.node}: flashed and never booted" in log.read_text()
    assert "verify: good, 0 bytes written" in steps(log, card.node)[-1]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_what_was_refused_is_in_the_log(cluster: Path, card: Disk) -> None:
    log = cluster / "piimg.log"
    done = piimg(cluster, "--log-file", log, "flash", card.node, "--node", "worker2", "--virtual")
    assert done.returncode == 2
    assert "UsageError (" in log.read_text()
    assert "refused: there is no terminal to ask at" in log.read_text().splitlines()[-1]
