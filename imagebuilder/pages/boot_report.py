"""The results of ``piimg boot`` as a page: failures first, then boot times, checks, and what was measured.

What a node reports is not trusted: it is text on the page, whatever it contains. The facts about passwords
and keys are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from imagebuilder.boot.checks import CheckResult
from imagebuilder.boot.cluster import ClusterProof
from imagebuilder.boot.facts import Facts, RootFacts
from imagebuilder.boot.run import Proof
from imagebuilder.errors import PiimgError
from imagebuilder.model import Cluster
from imagebuilder.pages.plot import scale_of
from imagebuilder.pages.rendering import rendered
from imagebuilder.text import size
from imagebuilder.version import __version__

TOGETHER = "all nodes together"
_LIMIT = 400  # characters of a measured value


@dataclass(frozen=True)
class _Fault:
    """Something wrong: the check that found it (empty: there was no login), in words, and what to do next."""

    subject: str
    check: str
    about: str
    text: str
    hint: str = ""


@dataclass(frozen=True)
class _NodePart:
    """What the page says of one node. ``share`` is the length of its bar in percent."""

    name: str
    board: str
    address: str
    good: bool
    seconds: float | None
    share: str
    memory: str
    wrong: int
    judged: int
    outcomes: Sequence[CheckResult]
    measured: Sequence[tuple[str, str]]


def boot_page(cluster: Cluster, machine: str, proof: ClusterProof, made: datetime) -> str:
    """The results ``proof`` of booting nodes of ``cluster`` as one HTML page."""
    top = _axis([node.seconds for node in proof.nodes if node.seconds is not None])
    nodes = sorted((_part(cluster, node, top) for node in proof.nodes), key=lambda part: part.good)
    results = [result for node in proof.nodes for result in node.outcomes] + list(proof.together)
    faults = list(_faults(proof))
    values = {
        "cluster": cluster,
        "machine": machine,
        "good": proof.good,
        "faults": faults,
        "nodes": nodes,
        "together": _ordered(proof.together),
        "top": top,
        "passed": sum(result.good for result in results),
        "wrong": len(faults),
        "unseen": sum(not result.seen and not result.wrong for result in results),
        "made": made.astimezone().strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
    }
    return rendered("boot.html.j2", values)


def _axis(seconds: Sequence[float]) -> float:
    """The end of the axis of boot times, in seconds: a round number."""
    return max(10.0, scale_of(max(seconds, default=0.0)))


def _faults(proof: ClusterProof) -> Iterator[_Fault]:
    for node in proof.nodes:
        if node.trouble is not None:
            yield _trouble(node.node, node.trouble)
        yield from (_fault(node.node, result) for result in node.outcomes if result.wrong)
    yield from (_fault(TOGETHER, result) for result in proof.together if result.wrong)


def _trouble(node: str, error: PiimgError) -> _Fault:
    return _Fault(node, "", "no login, or no answer", error.message, error.hint)


def _fault(subject: str, result: CheckResult) -> _Fault:
    return _Fault(subject, result.check, result.about, result.wrong)


def _ordered(outcomes: Sequence[CheckResult]) -> list[CheckResult]:
    """Failures first, then what could not be judged, then notes; otherwise in the order of the checks."""
    return sorted(outcomes, key=lambda one: (not one.wrong, one.seen, not one.remark))


def _part(cluster: Cluster, proof: Proof, top: float) -> _NodePart:
    node = cluster.node(proof.node)
    share = 0.0 if proof.seconds is None else min(100.0, 100 * proof.seconds / top)
    return _NodePart(
        name=node.name,
        board=node.board.title,
        address=node.host,
        good=proof.good,
        seconds=proof.seconds,
        share=f"{share:.1f}%",
        memory=size(proof.memory) if proof.memory else "",
        wrong=sum(bool(outcome.wrong) for outcome in proof.outcomes),
        judged=sum(outcome.seen for outcome in proof.outcomes),
        outcomes=_ordered(proof.outcomes),
        measured=[(name, _cut(value)) for name, value in measured(proof.facts) if value]
        if proof.facts
        else [],
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LIMIT else f"{text[: _LIMIT - 1]}…"


def measured(facts: Facts) -> Iterator[tuple[str, str]]:
    """What the node reported, by name; a value is empty when it reported none. No key and no password."""
    yield "Host name", facts.hostname
    for link in (one for one in facts.links if one.ifname != "lo"):
        addresses = ", ".join(
            f"{one.local}/{one.prefixlen}{' (DHCP)' if one.dynamic else ''}" for one in link.addr_info
        )
        yield f"Address of {link.ifname}", addresses
    routes = (f"{route.gateway} through {route.dev}" for route in facts.routes if route.dst == "default")
    yield "Default route", ", ".join(routes)
    yield (
        "Name servers",
        ", ".join(
            line.removeprefix("nameserver").strip() for line in facts.resolv if line.startswith("nameserver")
        ),
    )
    if facts.account is not None:
        yield "Account", f"{facts.account.name}, {facts.account.home}, {facts.account.shell}"
    yield "Groups", " ".join(facts.groups)
    yield "Time zone", facts.timezone
    yield "Locale at login", facts.lang_at_login
    yield "Keyboard", facts.keyboard
    synchronised = {"yes": ", synchronised", "no": ", not synchronised"}.get(facts.ntp_synchronized, "")
    yield "Time from", f"{' '.join(facts.ntp_servers)}{synchronised}".removeprefix(", ")
    if facts.disk is not None:
        yield "Card", f"{size(facts.disk.size * 512)}, root partition {size(facts.disk.length * 512)}"
    swaps = (f"{swap.name} ({size(swap.kib * 1024)})" for swap in facts.swaps)
    yield "Swap", ", ".join(swaps) or "none"
    if facts.summary is not None:
        yield (
            "First boot",
            ", ".join(
                f"{script.name} {script.status}"
                + (f" after {script.attempts} attempts" if script.attempts > 1 else "")
                for script in facts.summary.scripts
            ),
        )
    yield "System", facts.system
    yield "Failed units", ", ".join(facts.failed) or "none"
    yield "Machine id", facts.machine_id
    if facts.root is not None:
        yield from _measured_by_root(facts.root)


def _measured_by_root(root: RootFacts) -> Iterator[tuple[str, str]]:
    yield "Disk id", root.disk_id
    yield "Root file system", size(root.file_system) if root.file_system else ""
    if root.gateway is not None:
        gateway = root.gateway
        yield (
            "Gateway",
            f"{'open' if gateway.open else 'closed'}, policy {gateway.policy}, uplink {gateway.uplink}",
        )
