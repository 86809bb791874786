"""The checks of the gateway from a worker: when it lets traffic out, and what the workers' key permits."""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from imagebuilder.boot.checks import CheckResult
from imagebuilder.boot.cluster_checks import Member
from imagebuilder.errors import PiimgError
from imagebuilder.settings import Policy
from imagebuilder.text import printable

ABOUT = {
    "uplink": "the gateway itself reaches the internet",
    "closed": "without a request a worker does not get out",
    "with-internet": "with-internet lets a worker out, only while its command runs",
    "on-for": "switched on for a time, the gateway closes afterwards",
    "off": "switched off, it is closed",
    "rebooted": "after a reboot the gateway follows its policy, whatever was switched on",
    "key": "the workers' key can keep the gateway open, and nothing else",
}
_CONNECT = 8  # seconds
_CLOSING = 60.0  # seconds in emulation until the gateway has closed
_REBOOT = 400.0  # seconds in emulation
_ANSWER = 120.0  # seconds for one try of the key
_ON_FOR = 20  # seconds the gateway is switched on for


@dataclass(frozen=True)
class Scene:
    """The gateway, one worker, and the ``host`` and ``port`` that represent the internet."""

    gateway: Member
    worker: Member
    host: IPv4Address
    port: int

    @property
    def policy(self) -> Policy:
        """The gateway's policy, by the manifest."""
        gateway = self.gateway.expected.cluster.gateway
        return gateway.policy if gateway else Policy.OFF

    @property
    def connect(self) -> str:
        """A shell command that succeeds when the internet answers."""
        return f"timeout {_CONNECT} bash -c 'exec 3<>/dev/tcp/{self.host}/{self.port}'"

    def gets_out(self) -> bool:
        """Whether the worker reaches the internet now."""
        return self.worker.said(f"{self.connect} 2>/dev/null")[0] == 0

    def switch(self, words: str) -> tuple[int, str]:
        """Run `piimg-gateway` on the gateway; its exit status and output."""
        return self.gateway.said(f"sudo -n piimg-gateway {words}")

    def is_open(self) -> bool:
        """Whether the gateway reports that it is open."""
        status, output = self.switch("status --json")
        try:
            is_open = json.loads(output)["open"]
        except (ValueError, KeyError, TypeError):
            is_open = None
        if status != 0 or not isinstance(is_open, bool):
            raise PiimgError(
                f"piimg-gateway on {self.gateway.name} printed {printable(output)!r}",
                f"look at it there: piimg boot --node {self.gateway.name} --shell",
            )
        return is_open

    def leaks(self, patience: float = _CLOSING) -> str:
        """What is still open after ``patience`` seconds; empty when the gateway is closed."""
        deadline = time.monotonic() + patience
        while self.is_open():
            if time.monotonic() > deadline:
                return f"it is still open after {patience:.0f} seconds"
            time.sleep(1)
        return f"it reports closed, but {self.worker.name} gets out" if self.gets_out() else ""


def judge_gateway(scene: Scene) -> Iterator[CheckResult]:
    """Run all checks of the gateway, in order. It is closed between them, to keep them independent.

    At the end the gateway has been rebooted and follows its policy. Raises PiimgError when no command can be
    run on a node.
    """
    wrong = _uplink(scene)
    yield CheckResult("uplink", ABOUT["uplink"], wrong)
    for check, judge in _STEPS.items():
        if wrong:  # without an uplink a worker never gets out: the check would prove nothing
            yield CheckResult(check, ABOUT[check], remark="there is no internet to reach", seen=False)
            continue
        yield CheckResult(check, ABOUT[check], judge(scene))
        if scene.policy is Policy.ON_DEMAND and scene.is_open():
            scene.switch("off --now")


def _uplink(scene: Scene) -> str:
    status, said = scene.gateway.said(f"{scene.connect} 2>&1")
    return "" if status == 0 else f"{scene.gateway.name} does not reach {scene.host}: {printable(said, 60)}"


def _closed(scene: Scene) -> str:
    if scene.policy is Policy.ON:
        return "" if scene.gets_out() else f"its policy is on, but {scene.worker.name} does not get out"
    return scene.leaks(0)


def _with_internet(scene: Scene) -> str:
    status, said = scene.worker.said(f"with-internet {scene.connect} 2>&1")
    if scene.policy is Policy.OFF:
        return "" if status == 69 else f"the policy is off, but the exit status of with-internet is {status}"
    if status != 0:
        return f"{scene.worker.name} does not get out with it: exit status {status}: {printable(said, 60)}"
    # with-internet passes on the exit status: a failing command must not look like a closed gateway.
    status, said = scene.worker.said("with-internet sh -c 'exit 7' 2>&1")
    if status != 7:
        return f"a command's exit status 7 became {status}: {printable(said, 60)}"
    return "" if scene.policy is Policy.ON else scene.leaks()


def _on_for(scene: Scene) -> str:
    status, said = scene.switch(f"on --for {_ON_FOR}s")
    if scene.policy is Policy.OFF:
        return "" if status != 0 and not scene.gets_out() else "the policy is off, but it can be switched on"
    if status != 0:
        return f"it cannot be switched on: {printable(said, 60)}"
    if not scene.gets_out():
        return f"it is switched on, but {scene.worker.name} does not get out"
    return scene.leaks(_ON_FOR + _CLOSING)


def _off(scene: Scene) -> str:
    if scene.policy is not Policy.OFF:
        scene.switch("on")
        if not scene.gets_out():
            return f"it is switched on, but {scene.worker.name} does not get out"
    status, said = scene.switch("off")
    return scene.leaks(0) if status == 0 else f"it cannot be switched off: {printable(said, 60)}"


def _rebooted(scene: Scene) -> str:
    if scene.policy is not Policy.OFF:
        scene.switch("on")
        if not scene.gets_out():
            return f"it is switched on, but {scene.worker.name} does not get out"
    reboot(scene.gateway)
    if scene.policy is not Policy.ON:
        return scene.leaks(0)
    deadline = time.monotonic() + _CLOSING
    while not scene.gets_out():
        if time.monotonic() > deadline:
            return f"its policy is on, but {scene.worker.name} does not get out"
    return ""


def reboot(member: Member, patience: float = _REBOOT) -> None:
    """Reboot a node, and wait until its services are up. Raises PiimgError otherwise."""
    _, before = member.said("cat /proc/sys/kernel/random/boot_id")
    deadline = time.monotonic() + patience
    try:
        member.said("sudo -n systemctl reboot", 60)
    except PiimgError:
        pass  # the connection may end before the answer arrives
    while True:
        try:
            _, said = member.said("cat /proc/sys/kernel/random/boot_id; systemctl is-system-running", 30)
        except PiimgError:
            said = ""
        words = said.split()
        if len(words) == 2 and words[0] != before and words[1] in ("running", "degraded"):
            return
        if time.monotonic() > deadline:
            raise PiimgError(
                f"{member.name} did not come back within {patience:.0f} seconds of its reboot",
                f"watch it start: piimg boot --node {member.name} --console",
            )
        time.sleep(2)


# --- the workers' key ---------------------------------------------------------------------------------------


def _key(scene: Scene) -> str:
    gateway = scene.gateway.expected.node
    account = f"piimg-gateway@{gateway.address}"
    user = scene.gateway.expected.cluster.user.name
    port = gateway.ssh_port
    ssh, sftp = _with_key(f"ssh -p {port}"), _with_key(f"sftp -P {port} -b -")
    status, said = scene.worker.said(f"{ssh} {account} </dev/null 2>&1", _ANSWER)
    if (status, said) != (0, "open"):
        return f"it does not keep the gateway open: exit status {status}: {printable(said, 60)}"
    for action, command, sign in (
        ("run a command", f"{ssh} {account} id </dev/null", "uid="),
        ("get a shell", f"echo id | {ssh} {account} sh", "uid="),
        ("get a terminal", f"echo id | {ssh} -tt {account}", "uid="),
        ("copy files", f"echo 'ls /etc' | {sftp} {account}", "/etc/"),
        ("reach other ports", f"{ssh} -W 127.0.0.1:{port} {account} </dev/null", "SSH-2.0"),
        ("log in as the account", f"{ssh} {user}@{gateway.address} id </dev/null", "uid="),
        ("log in as root", f"{ssh} root@{gateway.address} id </dev/null", "uid="),
    ):
        _, said = scene.worker.said(f"{command} 2>&1", _ANSWER)
        if sign in said:
            return f"it can {action}: {printable(said, 60)}"
    return _ports(scene, f"{ssh} -N -o ExitOnForwardFailure=yes", account) or _sudo(scene)


def _with_key(program: str) -> str:
    options = "-F none -o BatchMode=yes -o IdentitiesOnly=yes -o ConnectTimeout=20 -o LogLevel=ERROR"
    known = "-o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts"
    return f"sudo -n timeout 60 {program} {options} {known} -i /etc/piimg/gateway_key"


def _ports(scene: Scene, ssh: str, account: str) -> str:
    """The key opens no ports on the gateway, which would lead other programs to the worker."""
    command = f"{ssh} -R 127.0.0.1:2222:127.0.0.1:22 {account} </dev/null"
    status, said = scene.worker.said(f"{command} 2>&1", _ANSWER)
    refused = status not in (0, 124) and "forwarding failed" in said
    return "" if refused else f"it can open ports on the gateway: exit status {status}: {printable(said, 60)}"


def _sudo(scene: Scene) -> str:
    """The account that the key logs in to may run only one command as root."""
    for command in ("id", "piimg-gateway on", "sh"):
        inner = shlex.quote(f"sudo -n {command}")
        status, _ = scene.gateway.said(f"sudo -n -u piimg-gateway sh -c {inner} </dev/null 2>&1")
        if status == 0:
            return f"the account piimg-gateway may run: sudo {command}"
    return ""


_STEPS: Mapping[str, Callable[[Scene], str]] = {
    "closed": _closed,
    "with-internet": _with_internet,
    "on-for": _on_for,
    "off": _off,
    "key": _key,
    "rebooted": _rebooted,
}
