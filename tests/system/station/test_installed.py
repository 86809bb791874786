"""What is installed in the guest: what the doctor says of it, and the Debian package beside it."""

import json
import shlex

import pytest

from tests.system.station.disk import CLUSTER, DEB, USER
from tests.system.station.guest import Guest

pytestmark = [pytest.mark.timeout(1800, func_only=True), pytest.mark.station]  # the guest takes its own time


def doctor(
    guest: Guest, user: str = "root", program: str = "piimg"
) -> dict[str, tuple[bool, list[str], list[str]]]:
    """For each use: whether it is ready, what is missing, what is noted."""
    as_user = f"cd /tmp; {program} doctor --json"
    done = guest.run(as_user if user == "root" else f"runuser -u {user} -- sh -c {shlex.quote(as_user)}")
    assert "Traceback" not in done.stderr and done.stdout, done.stderr
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["ready"] else 1)
    return {
        one["use"]: (one["ready"], [lack["what"] for lack in one["missing"]], one["notes"])
        for one in document["uses"]
    }


@pytest.mark.station_short
def test_the_doctor_with_readers_there(guest: Guest) -> None:
    """Root needs nothing to flash. An ordinary user is informed of udisks2 and of the missing right."""
    guest.plug(guest.card(), 3, serial="CARD")
    root, user = doctor(guest), doctor(guest, USER)
    assert root["flash"] == root["station"] == (True, [], [])
    assert not root["boot"][0]
    assert user["flash"][:2] == (True, []) and "udisks2 opens a card for this user" in user["flash"][2][0]
    assert user["station"] == (False, ["this user has no permission to write to cards"], [])


def test_the_debian_package(guest: Guest) -> None:
    """It is installed in a system that runs, and writes a card."""
    reader = guest.plug(guest.card(), 3, serial="CARD")
    guest.good(f"dpkg -i {DEB}", patience=1500)
    try:
        assert guest.good("/usr/bin/piimg --version") == guest.good("/usr/local/bin/piimg --version")
        assert doctor(guest, program="/usr/bin/piimg")["flash"] == (True, [], [])
        done = guest.run(f"cd {CLUSTER}; /usr/bin/piimg flash {reader.node} --node worker3 --yes")
        assert done.returncode == 0 and "good" in done.stdout, done.stderr
    finally:
        guest.run("dpkg --purge piimg")
