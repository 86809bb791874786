"""The order of things: a private folder, the switch, boards with their cards, logins, and all gone again."""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base.room import check_room, writing
from imagebuilder.boot.kernel import Kernel, companion
from imagebuilder.boot.login import Login, known_hosts
from imagebuilder.boot.machine import Disk, Hardware, Machine, machine, overlay
from imagebuilder.boot.network import Service, Switch, switched, uplink
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Finished, Reporter, Started
from imagebuilder.model import Cluster, Node
from imagebuilder.system import journal
from imagebuilder.system.process import ToolError

AT_ONCE = 2  # nodes booting at a time
PATIENCE = 600.0  # seconds from power-on to the first login
SETTLING = 900.0  # seconds from there until all first-boot scripts have ended
_ROOM = 1 << 30  # bytes a node may write to its card while it boots


@dataclass(frozen=True)
class Lab:
    """All that booted nodes have in common. ``folder`` is private to this run, and gone at its end."""

    folder: Path
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
    """A node with its board and the way to log in."""

    node: Node
    machine: Machine
    login: Login


@contextlib.contextmanager
def lab(
    cluster: Cluster,
    nodes: Sequence[Node],
    *,
    cache: Path,
    host_keys: Mapping[str, str],
    identities: tuple[Path, ...],
    reporter: Reporter,
    hardware: Hardware | None = None,
    services: tuple[Service, ...] = (),
) -> Iterator[Lab]:
    """A place to boot ``nodes`` in, on one virtual switch. ``host_keys`` are the expected ones, by node.

    Raises PiimgError when QEMU, the companion kernel or room is missing.
    """
    hardware = hardware or Hardware()
    if hardware.kind != "virt" and any(_is_gateway(cluster, node) for node in nodes):
        raise UsageError(
            f"{cluster.gateway.node} is the gateway and has two ports: {hardware.kind} has one",
            "boot it with --machine virt",
        )
    kernel = companion(cache, reporter) if hardware.kind == "virt" else None
    with private_folder(cache / "boot", len(nodes)) as folder:
        known = folder / "known_hosts"
        known_hosts(known, {node.name: host_keys[node.name] for node in nodes})
        with switched(folder, cluster, nodes) as switch:
            yield Lab(folder, cluster, hardware, kernel, switch, known, identities, services, reporter)


@contextlib.contextmanager
def private_folder(parent: Path, nodes: int) -> Iterator[Path]:
    """A folder in ``parent`` for one run; `piimg cleanup` removes it when piimg was killed."""
    with writing(f"use the cache {parent}"):
        parent.mkdir(parents=True, exist_ok=True)
        check_room(parent, nodes * _ROOM, f"boot {nodes} node{'s' * (nodes > 1)}")
    with tempfile.TemporaryDirectory(prefix="run-", dir=parent) as name:
        folder = Path(name)
        info = folder.stat()
        with journal.hold("folder", path=name, device=info.st_dev, inode=info.st_ino):
            yield folder


@contextlib.contextmanager
def guest(lab: Lab, node: Node, disk: Disk) -> Iterator[Guest]:
    """The board of ``node`` with ``disk`` for its card, switched off; its power is cut at the end."""
    ports = [lab.switch.port(node)]
    if _is_gateway(lab.cluster, node):
        ports.append(uplink(node, lab.cluster.gateway.uplink, lab.services))
    login = Login(
        node.name, lab.cluster.user.name, lab.switch.doors[node.name], lab.known_hosts, lab.identities
    )
    with machine(node.name, lab.folder, lab.hardware, lab.kernel, disk, ports) as board:
        yield Guest(node, board, login)


def node_disk(lab: Lab, node: Node, image: Path) -> Disk:
    """A card for ``node`` that begins as its node image is; the image is never written to."""
    return overlay(image, lab.folder / f"{node.name}.qcow2", lab.hardware.card)


def bring_up(guest: Guest, reporter: Reporter) -> float:
    """Switch a node on and wait until somebody can log in; the seconds it took.

    Raises HostKeyError, or PiimgError with the console's last lines.
    """
    begun, ok = time.monotonic(), False
    reporter.emit(Started("boot", guest.node.name))
    try:
        guest.machine.power_on()
        wait_for_login(guest)
        ok = True
    finally:
        reporter.emit(Finished("boot", guest.node.name, ok))
    return time.monotonic() - begun


def wait_for_login(guest: Guest, patience: float = PATIENCE) -> None:
    """Wait until somebody can log in to a node that was switched on."""
    try:
        guest.login.wait(patience, guest.machine.check)
    except PiimgError as error:
        if error.hint:
            raise
        shown = "\n".join(f"  {line}" for line in guest.machine.tail())
        raise type(error)(error.message, f"its console said last:\n{shown}") from error


def settle(guest: Guest, patience: float = SETTLING) -> None:
    """Wait until the node has started all it starts and its first-boot scripts have ended.

    Raises PiimgError when ``patience``, in seconds, is over.
    """
    deadline = time.monotonic() + patience
    question = "systemctl is-system-running; systemctl is-active piimg-firstboot.service"
    while True:
        guest.machine.check()
        with contextlib.suppress(ToolError):
            states = guest.login.run(question, patience=60).stdout.decode().split()
            if (
                len(states) == 2
                and states[0] in ("running", "degraded")
                and states[1] in ("inactive", "failed")
            ):
                return
        if time.monotonic() > deadline:
            raise PiimgError(
                f"{guest.node.name} is still starting after {patience:.0f} seconds",
                "a first-boot script may take long: look with --shell",
            )
        time.sleep(2)


def bring_up_all(lab: Lab, guests: Sequence[Guest]) -> dict[str, float]:
    """Switch nodes on, the gateway first, at most ``AT_ONCE`` booting; the seconds each took, by name.

    The first failure, or Ctrl-C, cuts the power of all.
    """
    ordered = sorted(guests, key=lambda one: not _is_gateway(lab.cluster, one.node))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="boot") as pool:
        futures = {one.node.name: pool.submit(bring_up, one, lab.reporter) for one in ordered}
        try:
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for one in guests:
                one.machine.power_cut()
            raise


def _is_gateway(cluster: Cluster, node: Node) -> bool:
    return node.name == cluster.gateway.node
