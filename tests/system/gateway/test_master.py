"""What else the master gives its workers: the time, a key that can only hold, apt that waits."""

import json
import time

import pytest

from imagebuilder.model import Release
from tests.integration.overlays import lans
from tests.integration.overlays.machines import Machine
from tests.support.waiting import wait_until
from tests.system.gateway import place as places
from tests.system.gateway.place import Place

pytestmark = pytest.mark.gateway

_ASK = """
import socket, struct, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.5)
sock.sendto(b"\\x23" + bytes(47), (sys.argv[1], 123))
try:
    answer = sock.recv(48)
    print(answer[0] >> 6, answer[1])
except OSError:
    print("none")
"""


def _time(place: Place) -> str:
    """Leap indicator (3: not synchronised) and stratum that the master answers a worker (RFC 5905)."""
    return place.worker.run("python3", "-c", _ASK, places.MASTER).stdout.strip()


def _chronyd(master: Machine, *more: str) -> list[str]:
    """chronyd with the machine's settings; it never touches the clock, which is the host's (-x)."""
    master.shell("rm -rf /run/chrony; mkdir -p /run/chrony; chown _chrony /run/chrony 2>/dev/null || true")
    return ["/usr/sbin/chronyd", "-d", "-x", "-U", *more]


def test_a_master_without_the_time_says_so(place: Place) -> None:
    """After a power cut of all nodes: no worker takes a stale clock for the network's."""
    place.master.shell(f"sed -i 's/^pool .*/server {lans.OUTSIDE} iburst/' /etc/chrony/chrony.conf")
    place.uplink.run("sh", "-c", "cat >/etc/chrony/chrony.conf", data=b"local stratum 3\nallow\n")
    with place.master.running(*_chronyd(place.master)):
        wait_until(lambda: _time(place) != "none")
        for _ in range(5):
            assert _time(place).startswith("3 "), "it has no time yet"
            time.sleep(0.3)
        with place.uplink.running(*_chronyd(place.uplink)):
            wait_until(lambda: _time(place) == "0 4", 60)
        time.sleep(3)
        assert _time(place).startswith("0 "), "it goes on when the uplink's time is gone"
    with place.master.running(*_chronyd(place.master)):  # as after a power cut
        wait_until(lambda: _time(place) != "none")
        for _ in range(5):
            assert _time(place).startswith("3 ")
            time.sleep(0.3)
    assert ("activate" in place.master.shell("chronyd -p 2>/dev/null")) is (place.release is Release.TRIXIE)


def test_apt_waits_for_its_locks(place: Place) -> None:
    """DPkg::Lock::Timeout does not do it for the lists."""
    master = place.master
    master.shell("rm -rf /etc/apt/sources.list*; mkdir /etc/apt/sources.list.d; touch /etc/apt/sources.list")
    hold = (
        "import fcntl, time; lock = open('/var/lib/apt/lists/lock', 'w'); fcntl.lockf(lock, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(4)"
    )
    with master.running("python3", "-c", hold) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        begun = time.monotonic()
        refused = master.run("apt-get", "-o", "DPkg::Lock::Timeout=300", "update", ok=(100,))
        assert "Could not get lock" in refused.stderr and time.monotonic() - begun < 2
        master.run("piimg-apt-get", "update")
        assert holder.wait(1) == 0
    assert master.run("piimg-apt-get", "install", "no-such-package-at-all", ok=(100,)).stderr.startswith(
        "E: "
    )
    assert master.run("piimg-apt-get", ok=(2,)).stdout


# --- the workers' key ---------------------------------------------------------------------------------------

_KEY = "ssh -F none -i /etc/piimg/gateway_key -o BatchMode=yes -o ConnectTimeout=5 -o LogLevel=ERROR"
_KNOWN = "-o UserKnownHostsFile=/etc/ssh/ssh_known_hosts"
_USER = f"piimg-gateway@{places.MASTER}"
_SIGN = "echo got-in"


@pytest.mark.parametrize(
    "words",
    [
        f"{_USER} '{_SIGN}'",
        f"-t {_USER} '{_SIGN}'",
        f"-tt {_USER}",
        f"-s {_USER} sftp",
        f"-o SetEnv='BASH_ENV=/tmp/x SSH_CONNECTION=x LD_PRELOAD=/tmp/x PYTHONPATH=/tmp' {_USER}",
        f"-o SendEnv='*' {_USER} '{_SIGN}'",
        f"-A {_USER} '{_SIGN}'",
        f"-X {_USER} '{_SIGN}'",
    ],
)
def test_the_key_gets_nothing_but_the_hold(place: Place, words: str) -> None:
    """Whatever is asked for, the forced command runs, says "open", and ends with its input."""
    done = place.worker.run("bash", "-c", f"{_KEY} {_KNOWN} {words} </dev/null 2>/dev/null", ok=None)
    assert done.stdout.replace("\r", "") in ("open\n", ""), done
    assert places.settled(lambda: not lans.is_open(place.master))


@pytest.mark.parametrize(
    "words",
    [
        "-W 127.0.0.1:22",
        f"-W {lans.OUTSIDE}:8080",
        "-N -R 127.0.0.1:2222:127.0.0.1:22 -o ExitOnForwardFailure=yes",
        "-N -R /tmp/there:127.0.0.1:22 -o ExitOnForwardFailure=yes",
        "-N -D 127.0.0.1:1080 -o ExitOnForwardFailure=yes",
        "-N -w 0:0 -o ExitOnForwardFailure=yes",
    ],
)
def test_the_key_forwards_nothing(place: Place, words: str) -> None:
    command = f"timeout 3 {_KEY} {_KNOWN} {words} {_USER} </dev/null"
    if "-D" in words:
        reach = (
            f"({command} >/dev/null 2>&1 &) ; sleep 1;"
            "printf '\\5\\1\\0\\5\\1\\0\\1\\313\\0\\161\\1\\37\\220'"
            " | timeout 1 nc 127.0.0.1 1080 | od -An -tx1"
        )
        said = place.worker.run("bash", "-c", reach, ok=None).stdout
        assert "05 00 05 00" not in said, said
        return
    done = place.worker.run("bash", "-c", command, ok=None)
    assert done.returncode not in (0, 124) or done.stdout in ("", "open\n"), done
    assert "SSH-2.0" not in done.stdout and "HTTP" not in done.stdout
    assert place.master.run("test", "-e", "/tmp/there", ok=(1,))
    assert not place.master.shell("ss -Hltn 'sport = :2222'")


def test_many_sessions_and_a_thousand_connections(place: Place) -> None:
    """One connection has one session, one worker 32 holds; after a thousand it is let in as before."""
    control = "-o ControlMaster=auto -o ControlPath=/tmp/control -o ControlPersist=5"
    place.worker.run("bash", "-c", f"sleep 2 | {_KEY} {_KNOWN} {control} {_USER} >/dev/null & sleep 1")
    again = f"{_KEY} {_KNOWN} -o ControlPath=/tmp/control {_USER} </dev/null"
    assert place.worker.run("bash", "-c", again, ok=None).stdout in ("", "open\n")
    hold = "sleep 3 | SSH_CONNECTION='10.0.0.11 1 1 1' piimg-gateway hold"
    said = place.master.run("bash", "-c", f"for i in $(seq 40); do ({hold}) & done; wait").stdout.splitlines()
    assert said.count("open") == 32
    assert said.count("refused: 10.0.0.11 holds it 32 times already") == 8
    # a thousand that do not even log in, as a worker does that looks whether the master is there
    place.worker.shell(
        f"for i in $(seq 1000); do (exec 3<>/dev/tcp/{places.MASTER}/22) 2>/dev/null; done", ok=None
    )
    place.worker.shell(f"for i in $(seq 6); do {_KEY} {_KNOWN} nobody@{places.MASTER} x; done", ok=None)
    assert place.worker.run("with-internet", "bash", "-c", lans.PROBE).stderr == ""
    wait_until(lambda: not lans.is_open(place.master))
    assert json.loads(place.gateway("status", "--json"))["users"] == []
