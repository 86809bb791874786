"""The order of things: a private folder, the switch, boards with their cards, logins, and all gone again."""

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
from imagebuilder.errors import Interrupted, PiimgError, UsageError
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
_STARTING = 300.0  # seconds that a node may go on starting when all its scripts have ended
_SLOW = 120.0  # seconds; then it is reported what a node waits for
_CALMING = 240  # seconds that the next nodes wait for one to have started
_LOOK = 5.0  # seconds between two looks; each costs the node a second in emulation
_STRAYS_AFTER = 60.0  # seconds until a node is also looked for where DHCP would put it
_STRAY_GREETING = 3.0  # seconds for an sshd there; it is asked again and again
_STRAY_SETTLING = 60.0  # seconds; its scripts wait for a LAN they will not find
_UP = ("running", "degraded")  # systemd's words for having started all it starts
_ROOM = 256 << 20  # bytes; what a node writes to its card while it boots is a fifth of it

Result = TypeVar("Result")


@dataclass(frozen=True)
class Lab:
    """All that booted nodes have in common.

    ``folder`` and ``sockets`` are private to this run, and gone at its end. The path of ``sockets`` is short:
    that of a socket has room for a hundred bytes (unix(7)).
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
    """A node with its board and the way to log in; ``stray`` leads to it when DHCP gave it its address."""

    node: Node
    machine: Machine
    login: Login
    stray: Login


class StrayError(PiimgError):
    """A node is up, but at an address that was lent to it."""


@dataclass(frozen=True)
class Proof:
    """What came of a node. ``seconds`` it took to the first login; ``memory`` its board took then, in bytes.

    ``trouble`` is why nobody could log in to it, or ask it.
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
    """A place to boot ``nodes`` in, on one virtual switch. ``host_keys`` are the expected ones, by node.

    Raises PiimgError when QEMU, the companion kernel or room is missing.
    """
    hardware = hardware or boards("virt", len(nodes))
    if hardware.kind != "virt" and any(_is_gateway(cluster, node) for node in nodes):
        raise UsageError(
            f"{cluster.gateway.node} is the gateway and has two ports: {hardware.kind} has one",
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
    """The boards for so many nodes: one alone boots faster on two processors, two at a time do not."""
    return Hardware(kind, processors=2 if nodes == 1 else 1)


@contextlib.contextmanager
def private_folder(parent: Path, nodes: int) -> Iterator[Path]:
    """A folder in ``parent`` for one run; `piimg cleanup` removes it when piimg was killed."""
    with writing(f"use the cache {parent}"):
        parent.mkdir(parents=True, exist_ok=True)
        check_room(parent, nodes * _ROOM, f"boot {nodes} node{'s' * (nodes > 1)}")
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
    """The board of ``node`` with ``disk`` for its card, switched off; its power is cut at the end."""
    ports = [lab.switch.port(node)]
    if _is_gateway(lab.cluster, node):
        ports.append(uplink(node, lab.cluster.gateway.uplink, lab.services))
    user, control = lab.cluster.user.name, lab.sockets / str(lab.cluster.nodes.index(node))
    door = lab.switch.doors[node.name]
    login = Login(node.name, user, door, lab.known_hosts, lab.identities, control)
    stray = replace(login, port=lab.switch.lent, control=control.with_suffix(".stray"))
    with machine(node.name, lab.folder, lab.hardware, lab.kernel, disk, ports) as board:
        try:
            yield Guest(node, board, login, stray)
        finally:
            login.hang_up()
            stray.hang_up()


def node_disk(lab: Lab, node: Node, image: Path) -> BoardDisk:
    """A card for ``node`` that begins as its node image is; the image is never written to."""
    return overlay(image, lab.folder / f"{node.name}.qcow2", lab.hardware.card)


def bring_up(guest: Guest, reporter: Reporter) -> float:
    """Switch a node on and wait until somebody can log in; the seconds it took.

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
    """Wait until somebody can log in to a node that was switched on.

    Raises StrayError when DHCP gave it an address, HostKeyError, or PiimgError with its console's last lines.
    """
    strays_from = time.monotonic() + _STRAYS_AFTER

    def check() -> None:
        guest.machine.check()
        if time.monotonic() > strays_from:
            _find_stray(guest)

    try:
        guest.login.wait(patience, check)
    except PiimgError as error:
        if error.hint:
            raise
        shown = "\n".join(f"  {line}" for line in guest.machine.tail())
        raise type(error)(error.message, f"its console said last:\n{shown}") from error


def _find_stray(guest: Guest) -> None:
    """Raises StrayError when the node is where one ends up whose address is from DHCP."""
    with contextlib.suppress(HostKeyError, ToolError):  # somebody else is there, or nobody
        if guest.stray.answers(_STRAY_GREETING):
            raise StrayError(
                f"{guest.node.name} took an address from DHCP and is not at {guest.node.address}",
                "the checks say what it has; did its network settings reach it?",
            )


def _calm(guest: Guest) -> None:
    """Wait until a node has started all it starts: what that costs, the next ones would lack.

    Not for ever: it may itself wait for one of them. What is wrong with it is for ``prove`` to say.
    """
    with contextlib.suppress(ToolError, HostKeyError):
        guest.login.run(f"timeout {_CALMING} systemctl is-system-running --wait", patience=_CALMING + 60)


def settle(
    guest: Guest, expected: Expected, patience: float = SETTLING, reporter: Reporter | None = None
) -> None:
    """Wait until a node has started all it starts, and every first-boot script has ended that can run here.

    When ``patience``, in seconds, is over, or a node goes on starting though its scripts have ended, it is
    for the checks to say what is wrong. Raises PiimgError when the node goes down meanwhile.
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
                said = f"still {printable(state)}: it waits for {printable(', '.join(jobs))}"
                reporter.emit(Message("info", said, guest.node.name))
                reported = True
        time.sleep(_LOOK)


def _have_ended(expected: Expected, summary: Summary | None) -> bool:
    ended = {one.name for one in summary.scripts if one.status in ("done", "failed")} if summary else set()
    return bool(summary and summary.finished) or ended >= set(expected.runnable)


def prove(
    guest: Guest,
    expected: Expected,
    reporter: Reporter,
    seconds: float | None = None,
    settling: float = SETTLING,
) -> Proof:
    """Check a node that is up; ``seconds`` is what that took. It is given ``settling`` seconds to finish."""
    with task(reporter, "checks", guest.node.name) as checking:
        try:
            settle(guest, expected, settling, reporter)
            paths, units = expected.modes, expected.units
            facts = ask(guest.login, guest.node.interface, expected.boot_mount, units, paths)
            memory = guest.machine.resident()
            proof = Proof(guest.node.name, seconds, judge(expected, facts), memory=memory, facts=facts)
        except PiimgError as error:
            proof = unproven(expected, error)
        _log_outcomes(guest.node.name, proof.outcomes)
        checking.ok = proof.good
        return proof


def _log_outcomes(subject: str, outcomes: Sequence[CheckResult]) -> None:
    """Log the checks of a node: how many there were, and each that found something wrong."""
    wrong = [f"{one.check}: {one.wrong}" for one in outcomes if one.wrong]
    _log.info(
        "%s: %d checks, %d wrong%s", subject, len(outcomes), len(wrong), "".join(f"; {w}" for w in wrong)
    )


def unproven(expected: Expected, error: PiimgError) -> Proof:
    """What is known of a node nobody could log in to."""
    check = "host-key" if isinstance(error, HostKeyError) else ""
    return Proof(expected.node.name, None, unreached(expected, check, error.message), error)


def prove_all(lab: Lab, guests: Sequence[Guest], expected: Mapping[str, Expected]) -> list[Proof]:
    """Bring nodes up and check each; ``expected`` is by name. One never keeps the others from it."""

    def check(guest: Guest, up: float | PiimgError) -> Proof:
        wanted = expected[guest.node.name]
        if isinstance(up, StrayError):
            found = replace(guest, login=guest.stray)
            return replace(prove(found, wanted, lab.reporter, settling=_STRAY_SETTLING), trouble=up)
        if isinstance(up, PiimgError):
            return unproven(wanted, up)
        return prove(guest, wanted, lab.reporter, up)

    return bring_up_all(lab, guests, check)


def bring_up_all(
    lab: Lab, guests: Sequence[Guest], then: Callable[[Guest, float | PiimgError], Result]
) -> list[Result]:
    """Switch nodes on, the gateway first, at most ``AT_ONCE`` booting at a time; what ``then`` made of each.

    ``then`` is given the seconds that a node took, or why it did not come up. It is called while others still
    boot, in a thread of its own. Ctrl-C cuts the power of all.
    """
    booting, broken_off = threading.Semaphore(AT_ONCE), threading.Event()

    def one(guest: Guest) -> Result:
        up: float | PiimgError
        with booting:
            try:
                if broken_off.is_set():
                    raise Interrupted()
                up = bring_up(guest, lab.reporter)
                _calm(guest)
            except PiimgError as error:
                up = error
                if isinstance(error, StrayError):
                    _calm(replace(guest, login=guest.stray))
        return then(guest, up)

    ordered = sorted(guests, key=lambda guest: not _is_gateway(lab.cluster, guest.node))
    with ThreadPoolExecutor(len(guests), thread_name_prefix="boot") as pool:
        futures = {guest.node.name: pool.submit(one, guest) for guest in ordered}
        try:
            wait_for(futures.values(), until_one_fails=True)
            for ended in filter(Future.done, futures.values()):
                ended.result()  # what failed is raised before anything is waited for
            return [futures[guest.node.name].result() for guest in guests]
        except BaseException:
            broken_off.set()
            lab.switch.cut()
            for guest in guests:
                guest.machine.power_cut()
            raise


def _is_gateway(cluster: Cluster, node: Node) -> bool:
    return node.name == cluster.gateway.node
