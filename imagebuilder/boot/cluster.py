"""Check a whole cluster: each node, all nodes together, the gateway, and the state after a power cut."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from imagebuilder.boot import cluster_checks, gateway_checks
from imagebuilder.boot.checks import CheckResult
from imagebuilder.boot.cluster_checks import Member
from imagebuilder.boot.expected import Expected
from imagebuilder.boot.facts import Facts
from imagebuilder.boot.gateway_checks import Scene, judge_gateway
from imagebuilder.boot.network import INTERNET_PORT, internet
from imagebuilder.boot.run import Guest, Lab, Proof, prove_all
from imagebuilder.errors import PiimgError
from imagebuilder.progress import task

_log = logging.getLogger(__name__)

TOGETHER = "cluster"
"""The name of the checks over all nodes in events."""


@dataclass(frozen=True)
class ClusterProof:
    """The results for a cluster: for each node, and for all nodes together."""

    nodes: tuple[Proof, ...]
    together: tuple[CheckResult, ...]

    @property
    def good(self) -> bool:
        """Whether no check of a node found anything wrong, and every one of all nodes together was judged."""
        return all(proof.good for proof in self.nodes) and all(result.good for result in self.together)


def prove_cluster(lab: Lab, guests: Sequence[Guest], expected: Mapping[str, Expected]) -> ClusterProof:
    """Boot all nodes of a cluster, check each and all together, then cut their power, boot and check again.

    ``expected`` is by name. The checks over several nodes are only judged when all nodes are up.
    """
    proofs = tuple(prove_all(lab, guests, expected))
    has_gateway = any(one.cluster.gateway for one in expected.values())
    abouts = [cluster_checks.ABOUT, *([gateway_checks.ABOUT] if has_gateway else [])]
    facts = {proof.node: proof.facts for proof in proofs if proof.facts is not None}
    if len(facts) < len(guests):
        return ClusterProof(proofs, tuple(_unseen(abouts, "not all nodes came up")))
    with task(lab.reporter, "checks", TOGETHER) as checking:
        outcomes: list[CheckResult] = []
        try:
            for result in _judged(lab, guests, expected, proofs, facts):
                outcomes.append(result)
        except PiimgError as error:  # a node stopped answering: the remaining checks must not count as passed
            seen = {result.check for result in outcomes}
            outcomes += [result for result in _unseen(abouts, error.message) if result.check not in seen]
        wrong = [result.check for result in outcomes if result.wrong]
        _log.info("cluster: %d checks, wrong: %s", len(outcomes), ", ".join(wrong) or "none")
        checking.ok = all(result.good for result in outcomes)
    return ClusterProof(proofs, tuple(outcomes))


def _judged(
    lab: Lab,
    guests: Sequence[Guest],
    expected: Mapping[str, Expected],
    proofs: Sequence[Proof],
    facts: Mapping[str, Facts],
) -> Iterator[CheckResult]:
    members = [Member(expected[guest.node.name], guest.login) for guest in guests]
    yield cluster_checks.reach(members)
    yield from cluster_checks.differ(facts)
    gateway = next((member for member in members if member.expected.is_gateway), None)
    worker = next((member for member in members if not member.expected.is_gateway), None)
    if lab.cluster.gateway and gateway and worker:
        host = internet(lab.cluster.gateway)
        yield from judge_gateway(Scene(gateway, worker, host, INTERNET_PORT))
    yield _power_cut(lab, guests, expected, proofs, facts)


def _power_cut(
    lab: Lab,
    guests: Sequence[Guest],
    expected: Mapping[str, Expected],
    proofs: Sequence[Proof],
    facts: Mapping[str, Facts],
) -> CheckResult:
    """Cut the power of all nodes and boot them again: no new faults, the same ids and keys."""
    for guest in guests:
        guest.machine.power_cut()
    wrong, after = [], {}
    for second, first in zip(prove_all(lab, guests, expected), proofs, strict=True):
        if second.trouble is not None:
            wrong.append(f"{second.node} did not come back: {second.trouble.message}")
            continue
        if second.facts is not None:
            after[second.node] = second.facts
        known = {result.check for result in first.outcomes if result.wrong}
        new = [result for result in second.outcomes if result.wrong and result.check not in known]
        wrong += [f"{second.node}: {result.check}: {result.wrong}" for result in new]
    return cluster_checks.unchanged(facts, after, wrong)


def _unseen(abouts: Iterable[Mapping[str, str]], why: str) -> Iterator[CheckResult]:
    for about in abouts:
        for check, text in about.items():
            yield CheckResult(check, text, remark=why, seen=False)
