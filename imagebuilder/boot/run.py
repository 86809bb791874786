"""Boot nodes in emulation and check them: private folders, the switch, boards with cards, logins, checks."""

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from imagebuilder.base.cache import Cache
from imagebuilder.base.space import check_room, writing
from imagebuilder.boot.checks import CheckResult, failing, judge, unreached
from imagebuilder.boot.expected import Expected
from imagebuilder.boot.facts import Facts, Summary
from imagebuilder.boot.kernel import Kernel, companion
from imagebuilder.boot.login import HostKeyError, Login, known_hosts
from imagebuilder.boot.machine import BoardDisk, Hardware, Kind, Machine, machine, overlay
from imagebuilder.boot.network import Service, Switch, switched, uplink
from imagebuilder.boot.probe import ask, glance, glanced
from imagebuilder.errors import Interrupted, NodeError, PiimgError, UsageError
from imagebuilder.events import Message, Reporter
from imagebuilder.model import Cluster, Node
from imagebuilder.progress import task
from imagebuilder.system import journal
from imagebuilder.system.process import ToolError
from imagebuilder.system.threads import wait_for
from imagebuilder.text import printable

_log = logging.getLogger(__name__)

AT_ONCE = 2  # nodes booting at a time
PATIENCE = 900.0  # seconds from power-on to the first login
SETTLING = 900.0  # seconds from there until all first-boot scripts have ended
_STARTING = 300.0  # seconds that a node may continue to start after all its scripts have ended
_SLOW = 120.0  # seconds until it is reported what a node waits for
_CALMING = 240  # seconds at most that the next node waits until this one has started its services
_LOOK = 5.0  # seconds between two queries; each costs the node a second in emulation
_STRAYS_AFTER = 60.0  # seconds until a node is also looked for at the first DHCP address
_STRAY_GREETING = 3.0  # seconds for an sshd to answer there; it is tried repeatedly
_STRAY_SETTLING = 60.0  # seconds; its scripts wait for a LAN that is not there
_UP = ("running", "degraded")  # states of systemd after the boot has finished
_SPACE = 256 << 20  # bytes per node; a boot writes a fifth of it to the card

Result = TypeVar("Result")


@dataclass(frozen=True)
class Lab:
    """What all nodes of one run share.

    ``folder`` and ``sockets`` are private to this run, and removed at its end. The path of ``sockets`` is
    short, because the path of a socket can have at most 107 bytes (unix(7)).
    """

    folder: Path
    sockets: Path
    cluster: Cluster
    hardware: Hardware
    kernel: Kernel | None
    switch: Switch
    known_hosts: Path
    identities: tuple[Path, ...]
    services: tuple[Service, ...]
    reporter: Reporter


@dataclass(frozen=True)
class Guest:
    """A node with its board and its login; ``stray`` is the login at the address that DHCP gives out."""

    node: Node
    machine: Machine
    login: Login
    stray: Login


class StrayError(NodeError):
    """A node is up, but at an address from DHCP."""


@dataclass(frozen=True)
class Proof:
    """The results for a node: ``seconds`` until the first login, ``memory`` of its board after it, in bytes.

    ``trouble`` is why no login was possible, or no facts could be collected.
    """

    node: str
    seconds: float | None
    outcomes: tuple[CheckResult, ...]
    trouble: PiimgError | None = None
    memory: int = 0
    facts: Facts | None = field(default=None, repr=False)

    @property
    def good(self) -> bool:
        """Whether no check found anything wrong."""
        return self.trouble is None and not failing(self.outcomes)


@contextlib.contextmanager
def lab(
    cluster: Cluster,
    nodes: Sequence[Node],
    *,
    cache: Cache,
    host_keys: Mapping[str, str],
    identities: tuple[Path, ...],
    reporter: Reporter,
    hardware: Hardware | None = None,
    services: tuple[Service, ...] = (),
) -> Iterator[Lab]:
    """The environment to boot ``nodes`` in, on one virtual switch. ``host_keys`` are expected, by node.

    Raises PiimgError when QEMU, the companion kernel or disk space is missing.
    """
    hardware = hardware or boards("virt", len(nodes))
    gateway = cluster.gateway_node
    if hardware.kind != "virt" and gateway and gateway in nodes:
        raise UsageError(
            f"{gateway.name} is the gateway and needs two ports, but {hardware.kind} has one",
            "boot it with --machine virt",
        )
    with (
        companion(cache, reporter) if hardware.kind == "virt" else contextlib.nullcontext() as kernel,
        private_folder(cache.boot, len(nodes)) as folder,
        _noted_folder(journal.folder()) as sockets,
    ):
        known = folder / "known_hosts"
        known_hosts(known, {node.name: host_keys[node.name] for node in nodes})
        with switched(folder, cluster, nodes) as switch:
            yield Lab(
                folder, sockets, cluster, hardware, kernel, switch, known, identities, services, reporter
            )


def boards(kind: Kind, nodes: int) -> Hardware:
    """The boards for ``nodes`` nodes: one node boots faster on two processors, two at a time do not."""
    return Hardware(kind, processors=2 if nodes == 1 else 1)


@contextlib.contextmanager
def private_folder(parent: Path, nodes: int) -> Iterator[Path]:
    """A folder in ``parent`` for one run; `piimg cleanup` removes it when piimg was killed."""
    with writing(f"use the cache {parent}"):
        parent.mkdir(parents=True, exist_ok=True)
        check_room(parent, nodes * _SPACE, f"boot {nodes} node{'s' * (nodes > 1)}")
    with _noted_folder(parent) as folder:
        yield folder


@contextlib.contextmanager
def _noted_folder(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="run-", dir=parent) as name:
        folder = Path(name)
        info = folder.stat()
        with journal.hold("folder", path=name, device=info.st_dev, inode=info.st_ino):
            yield folder


@contextlib.contextmanager
def guest(lab: Lab, node: Node, disk: BoardDisk) -> Iterator[Guest]:
    """The board of ``node`` with ``disk`` as its card, switched off; its power is cut at the end."""
    ports = [lab.switch.port(node)]
    if lab.cluster.gateway and lab.cluster.is_gateway(node):
        ports.append(uplink(lab.cluster.gateway, lab.services))
    user, control = lab.cluster.user.name, lab.sockets / str(lab.cluster.nodes.index(node))
    given = lab.switch.lent[node.ssh_port]
    behind = (lab.switch.doors[node.name],) if node.address else given
    login = Login(node.name, user, behind, lab.known_hosts, lab.identities, control)
    strayed = control.with_suffix(".stray")
    stray = Login(node.name, user, given[:1], lab.known_hosts, lab.identities, strayed)
    with machine(node.name, lab.folder, lab.hardware, lab.kernel, disk, ports) as board:
        try:
            yield Guest(node, board, login, stray)
        finally:
            login.hang_up()
            stray.hang_up()


def node_disk(lab: Lab, node: Node, image: Path) -> BoardDisk:
    """A card for ``node`` with the contents of its node image; the image is never written to."""
    return overlay(image, lab.folder / f"{node.name}.qcow2", lab.hardware.card)


def bring_up(guest: Guest, reporter: Reporter) -> float:
    """Switch a node on and wait until a login succeeds; the seconds it took.

    Raises HostKeyError, or PiimgError with the console's last lines.
    """
    begun = time.monotonic()
    _log.info("%s: power on", guest.node.name)
    with task(reporter, "boot", guest.node.name):
        guest.machine.power_on()
        wait_for_login(guest)
    seconds = time.monotonic() - begun
    _log.info("%s: first login after %.0f s", guest.node.name, seconds)
    reporter.emit(Message("info", f"first login after {seconds:.0f} seconds", guest.node.name))
    return seconds


def wait_for_login(guest: Guest, patience: float = PATIENCE) -> None:
    """Wait until a login to a node that was switched on succeeds.

    Raises StrayError when DHCP gave it an address, HostKeyError, or PiimgError with its console's last lines.
    """
    strays_from = time.monotonic() + _STRAYS_AFTER

    def check() -> None:
        guest.machine.check()
        if guest.node.address and time.monotonic() > strays_from:
            _find_stray(guest)

    try:
        guest.login.wait(patience, check)
    except PiimgError as error:
        if error.hint:
            raise
        shown = "\n".join(f"  {line}" for line in guest.machine.tail())
        raise type(error)(error.message, f"the last lines of its console:\n{shown}") from error


def _find_stray(guest: Guest) -> None:
    """Raises StrayError when the node has its address from DHCP."""
    with contextlib.suppress(HostKeyError, ToolError):  # another node answers there, or none
        if guest.stray.answers(_STRAY_GREETING):
            raise StrayError(
                f"{guest.node.name} has an address from DHCP instead of {guest.node.address}",
                "the checks show its settings: see whether those of its network were applied",
            )


def _calm(guest: Guest) -> None:
    """Wait until a node has started its services, so that the next nodes have the processors to themselves.

    The wait is limited, because the node may itself wait for one of the next. Faults are found by ``prove``.
    """
    with contextlib.suppress(ToolError, HostKeyError):
        guest.login.run(f"timeout {_CALMING} systemctl is-system-running --wait", patience=_CALMING + 60)


def settle(
    guest: Guest, expected: Expected, patience: float = SETTLING, reporter: Reporter | None = None
) -> None:
    """Wait until a node has started its services, and every first-boot script that can run here has ended.

    It returns after ``patience`` seconds, or when a node still starts long after its scripts have ended: the
    checks then find what is wrong. Raises PiimgError when the node goes down meanwhile.
    """
    begun = time.monotonic()
    ended, reported = None, False
    while (now := time.monotonic()) < begun + patience:
        guest.machine.check()
        with contextlib.suppress(ToolError):
            state, jobs, summary = glanced(guest.login.run(glance(expected.boot_mount), patience=60).stdout)
            if _have_ended(expected, summary):
                ended = ended or now
                if state in _UP or now > ended + _STARTING:
                    return
            if reporter and jobs and state not in _UP and now > begun + _SLOW and not reported:
                text = f"still {printable(state)}: it waits for {printable(', '.join(jobs))}"
                reporter.emit(Message("info", text, guest.node.name))
                reported = True
        time.sleep(_LOOK)


def _have_ended(expected: Expected, summary: Summary | None) -> bool:
    scripts = summary.scripts if summary else ()
    ended = {script.name for script in scripts if script.status in ("done", "failed")}
    return bool(summary and summary.finished) or ended >= set(expected.runnable)


def prove(
    guest: Guest,
    expected: Expected,
    reporter: Reporter,
    seconds: float | None = None,
    settling: float = SETTLING,
) -> Proof:
    """Check a node whose boot took ``seconds``; it has ``settling`` seconds to finish its first boot."""
    with task(reporter, "checks", guest.node.name) as checking:
        try:
            settle(guest, expected, settling, reporter)
            paths, units = expected.modes, expected.units
            facts = ask(
                guest.login,
                guest.node,
                expected.boot_mount,
                units,
                paths,
                expected.packages,
                expected.account_keys,
            )
            memory = guest.machine.resident()
            proof = Proof(guest.node.name, seconds, judge(expected, facts), memory=memory, facts=facts)
        except PiimgError as error:
            proof = unproven(expected, error)
        _log_outcomes(guest.node.name, proof.outcomes)
        checking.ok = proof.good
        return proof


def _log_outcomes(subject: str, outcomes: Sequence[CheckResult]) -> None:
    """Log the number of checks of a node, and each that found something wrong."""
    wrong = [f"{result.check}: {result.wrong}" for result in outcomes if result.wrong]
    _log.info(
        "%s: %d checks, %d wrong%s", subject, len(outcomes), len(wrong), "".join(f"; {w}" for w in wrong)
    )


def unproven(expected: Expected, error: PiimgError) -> Proof:
    """The results for a node without a login."""
    check = "host-key" if isinstance(error, HostKeyError) else ""
    return Proof(expected.node.name, None, unreached(expected, check, error.message), error)


def prove_all(lab: Lab, guests: Sequence[Guest], expected: Mapping[str, Expected]) -> list[Proof]:
    """Boot nodes and check each; ``expected`` is by name. A failing node does not affect the others."""

    def check(guest: Guest, up: float | PiimgError) -> Proof:
        wanted = expected[guest.node.name]
        if isinstance(up, StrayError):
            stray = replace(guest, login=guest.stray)
            return replace(prove(stray, wanted, lab.reporter, settling=_STRAY_SETTLING), trouble=up)
        if isinstance(up, PiimgError):
            return unproven(wanted, up)
        return prove(guest, wanted, lab.reporter, up)

    return bring_up_all(lab, guests, check)


def bring_up_all(
    lab: Lab, guests: Sequence[Guest], then: Callable[[Guest, float | PiimgError], Result]
) -> list[Result]:
    """Switch nodes on, the gateway first, at most ``AT_ONCE`` booting at a time; the results of ``then``.

    ``then`` gets the seconds that a node took, or the error when it did not come up. It is called while other
    nodes still boot, in the node's thread. Ctrl-C cuts the power of all nodes.
    """
    booting, interrupted = threading.Semaphore(AT_ONCE), threading.Event()

    def boot(guest: Guest) -> Result:
        up: float | PiimgError
        with booting:
            try:
                if interrupted.is_set():
                    raise Interrupted()
                up = bring_up(guest, lab.reporter)
                _calm(guest)
            except PiimgError as error:
                up = error
                if isinstance(error, StrayError):
                    _calm(replace(guest, login=guest.stray))
        return then(guest, up)

    ordered = sorted(guests, key=lambda guest: not lab.cluster.is_gateway(guest.node))
    with ThreadPoolExecutor(len(guests), thread_name_prefix="boot") as pool:
        futures = {guest.node.name: pool.submit(boot, guest) for guest in ordered}
        try:
            wait_for(futures.values(), until_one_fails=True)
            for ended in filter(Future.done, futures.values()):
                ended.result()  # raise the first error without waiting for the other nodes
            return [futures[guest.node.name].result() for guest in guests]
        except BaseException:
            interrupted.set()
            lab.switch.cut()
            for guest in guests:
                guest.machine.power_cut()
            raise
