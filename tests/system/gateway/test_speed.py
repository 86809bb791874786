"""How long a worker waits, what a closed gateway costs, and how many it bears."""

import re
import statistics
import subprocess
import time

import pytest

from tests.integration.overlays import lans
from tests.system.gateway import place as places
from tests.system.gateway.place import Place

pytestmark = pytest.mark.gateway

_SSH = (
    "ssh -F none -T -i /etc/piimg/gateway_key -o BatchMode=yes -o IdentitiesOnly=yes"
    " -o UserKnownHostsFile=/etc/ssh/ssh_known_hosts"
)


def _seconds(place: Place, *command: str) -> float:
    begun = time.monotonic()
    place.worker.run(*command)
    return time.monotonic() - begun


def test_with_internet_takes_little_more_than_ssh(place: Place) -> None:
    """Side by side, in turns: half a second more at most, with the probe and the opening in it."""
    place.master.shell(
        "useradd --create-home --shell /bin/sh plain; install -d -o plain -m 700 ~plain/.ssh;"
        "cut -d' ' -f2- /etc/piimg/gateway_authorized_keys | sed 's/.*ssh-ed25519/ssh-ed25519/'"
        " >~plain/.ssh/authorized_keys; chown plain ~plain/.ssh/authorized_keys; usermod -p '*' plain"
    )
    plain, ours = [], []
    for _ in range(7):
        plain.append(_seconds(place, *_SSH.split(), f"plain@{places.MASTER}", "true"))
        ours.append(_seconds(place, "with-internet", "true"))
    more = statistics.median(ours) - statistics.median(plain)
    print(f"ssh {statistics.median(plain):.3f} s, with-internet {more:.3f} s more")
    assert more <= 0.5, (plain, ours)


def test_closed_it_sleeps(place: Place) -> None:
    """No context switch in seconds, and no time of the processor."""
    time.sleep(1)
    pid = place.master.shell("cat /run/piimg-gateway/watch.pid").strip()

    def woken() -> list[str]:
        text = place.master.shell(f"cat /proc/{pid}/task/*/status; cut -d' ' -f14,15 /proc/{pid}/stat")
        return re.findall(r"ctxt_switches:\s*(\d+)", text) + text.splitlines()[-1:]

    before = woken()
    time.sleep(5)
    assert woken() == before
    assert place.master.shell(f"cat /proc/{pid}/task/{pid}/children") == ""


def test_many_workers_open_and_close_it(place: Place) -> None:
    """24 at once: open for the last, closed after the last, within two seconds each; the best of three."""
    tries = [_together(place, 24) for _ in range(3)]
    print(f"24 at once: opened and closed after {min(tries)} s")
    assert any(opened < 2 and closed < 2 for opened, closed in tries), tries


def _together(place: Place, count: int) -> tuple[float, float]:
    hold = place.master.inside(["piimg-gateway", "hold"])
    begun = time.monotonic()
    holders = [subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]
    for holder in holders:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
    opened = time.monotonic() - begun
    users = place.status()["users"]
    assert isinstance(users, list) and len(users) == count
    assert place.goes_out()
    begun = time.monotonic()
    for holder in holders:
        holder.communicate(timeout=10)
    assert places.settled(lambda: not lans.is_open(place.master), 5)
    return opened, time.monotonic() - begun
