"""The order of things for a whole cluster: each node, all of them together, the gateway, a power cut."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from imagebuilder.boot import cluster_checks, gateway_checks
from imagebuilder.boot.checks import CheckResult
from imagebuilder.boot.cluster_checks import Member
from imagebuilder.boot.expected import Expected
from imagebuilder.boot.facts import Facts
from imagebuilder.boot.gateway_checks import Scene, judge_gateway
from imagebuilder.boot.network import INTERNET, INTERNET_PORT
from imagebuilder.boot.run import Guest, Lab, Proof, prove_all
from imagebuilder.errors import PiimgError
from imagebuilder.progress import task

_log = logging.getLogger(__name__)

TOGETHER = "cluster"
"""What events call the checks over all nodes."""


@dataclass(frozen=True)
class ClusterProof:
    """What came of a cluster: of each node by itself, and of all of them together."""

    nodes: tuple[Proof, ...]
    together: tuple[CheckResult, ...]

    @property
    def good(self) -> bool:
        """Whether no check found anything wrong, and none could not be judged."""
        return all(proof.good for proof in self.nodes) and all(one.good for one in self.together)


def prove_cluster(lab: Lab, guests: Sequence[Guest], expected: Mapping[str, Expected]) -> ClusterProof:
    """Bring up all nodes of a cluster, check each and all, then cut their power and check again.

    ``expected`` is by name. What is over several nodes is only judged when all of them are up.
    """
    proofs = tuple(prove_all(lab, guests, expected))
    facts = {proof.node: proof.facts for proof in proofs if proof.facts is not None}
    if len(facts) < len(guests):
        return ClusterProof(proofs, tuple(_unseen("not all nodes came up")))
    with task(lab.reporter, "checks", TOGETHER) as checking:
        outcomes: list[CheckResult] = []
        try:
            for one in _judged(lab, guests, expected, proofs, facts):
                outcomes.append(one)
        except PiimgError as error:  # a node that stops answering: what was not judged by then is not good
            seen = {one.check for one in outcomes}
            outcomes += [one for one in _unseen(error.message) if one.check not in seen]
        wrong = [one.check for one in outcomes if one.wrong]
        _log.info("cluster: %d checks, wrong: %s", len(outcomes), ", ".join(wrong) or "none")
        checking.ok = all(one.good for one in outcomes)
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
    if gateway and worker:
        yield from judge_gateway(Scene(gateway, worker, INTERNET, INTERNET_PORT))
    yield _power_cut(lab, guests, expected, proofs, facts)


def _power_cut(
    lab: Lab,
    guests: Sequence[Guest],
    expected: Mapping[str, Expected],
    proofs: Sequence[Proof],
    facts: Mapping[str, Facts],
) -> CheckResult:
    """Cut the power of all nodes and switch them on again: each is as right as before, and the same."""
    for guest in guests:
        guest.machine.power_cut()
    wrong, after = [], {}
    for again, before in zip(prove_all(lab, guests, expected), proofs, strict=True):
        if again.trouble is not None:
            wrong.append(f"{again.node} did not come back: {again.trouble.message}")
            continue
        if again.facts is not None:
            after[again.node] = again.facts
        known = {one.check for one in before.outcomes if one.wrong}
        found = [one for one in again.outcomes if one.wrong and one.check not in known]
        wrong += [f"{again.node}: {one.check}: {one.wrong}" for one in found]
    return cluster_checks.unchanged(facts, after, wrong)


def _unseen(why: str) -> Iterator[CheckResult]:
    for about in (cluster_checks.ABOUT, gateway_checks.ABOUT):
        for check, text in about.items():
            yield CheckResult(check, text, remark=why, seen=False)
