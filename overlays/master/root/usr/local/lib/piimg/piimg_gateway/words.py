"""The status of the gateway, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

from piimg_gateway import others
from piimg_gateway.conf import Conf
from piimg_gateway.failure import Failure
from piimg_gateway.gate import Gate
from piimg_gateway.probe import Outcome, service


@dataclass(frozen=True)
class Status:
    """The status. ``left``: remaining seconds of the switch, or None. ``services``: the probe of each.

    ``problems``: problems besides those of ``gate``.
    """

    gate: Gate
    switched_on: bool
    left: int | None
    users: tuple[str, ...]
    services: tuple[tuple[str, str, int, Outcome], ...]
    problems: tuple[str, ...]


def try_services(conf: Conf) -> tuple[tuple[str, str, int, Outcome], ...]:
    """Probe whether the workers' packets to this node are let in."""
    found = []
    # workers need these services of this node also while the gateway is closed
    for name, protocol, port in (("ssh", "tcp", conf.ssh_port), ("time", "udp", 123)):
        try:
            outcome = service(conf, protocol, port)
        except (Failure, OSError) as error:
            outcome = Outcome(None, reason=str(error))
        if outcome.passing is False and not outcome.table and others.legacy_in_use():
            outcome = Outcome(False, others.LEGACY_TABLE, "INPUT", outcome.way)
        found.append((name, protocol, port, outcome))
    return tuple(found)


def stopper(outcome: Outcome) -> str:
    """The table and chain that dropped a probe, as text; empty for none."""
    return f"table {outcome.table}, chain {outcome.chain}" if outcome.table else ""


def obstacle(gate: Gate) -> str:
    """Why workers do not get out although they need it, in one line; empty when no reason is known."""
    outcome = gate.outcome
    if gate.problem or not gate.is_open:
        return gate.problem or "it is closed"
    if outcome.passing is not False:
        return ""
    return f"stopped by {stopper(outcome)}" if outcome.table else outcome.reason


def say(status: Status) -> str:
    """The status as text, one line for each fact."""
    gate = status.gate
    lines = [_verdict(gate)]
    if status.switched_on and status.left is None:
        lines.append('switched on until "piimg-gateway off" or the next boot')
    elif status.left is not None:
        lines.append(f"switched on for {(status.left + 59) // 60} more minutes")
    if status.users:
        lines.append(f"used by {' '.join(status.users)}")
    lines.append(f"policy {gate.conf.policy}")
    for name, protocol, port, outcome in status.services:
        if outcome.passing is False:
            what = stopper(outcome) or outcome.reason
            lines.append(f"workers do not reach {name} here (port {port}): stopped by {what}")
            if outcome.table:
                todo = others.advice_in(gate.conf, outcome.table, outcome.chain, protocol, port)
                lines.append(f"    do this: {todo}")
    lines += status.problems
    return "\n".join(lines)


def _verdict(gate: Gate) -> str:
    outcome = gate.outcome
    if gate.problem:
        return f"{'open' if gate.is_open else 'closed'}, but not as it should be: {gate.problem}"
    if not gate.is_open:
        return "closed"
    if outcome.passing:
        note = f" ({outcome.note})" if outcome.note else ""
        return f"open, and passing: {gate.conf.lan} goes out through {gate.conf.uplink}{note}"
    if outcome.passing is None:
        return f"open, not tried: {outcome.reason}"
    if outcome.table:
        todo = others.advice(gate.conf, outcome.table, outcome.chain)
        return f"open, but stopped by {stopper(outcome)}: do this: {todo}"
    return f"open, but no worker reaches the internet: {outcome.reason}"


def as_json(status: Status) -> str:
    """The status as JSON."""
    gate, outcome = status.gate, status.gate.outcome
    stopped = gate.is_open and bool(outcome.table)
    return json.dumps(
        {
            "open": gate.is_open,
            "passing": outcome.passing if gate.is_open else None,
            "stopped_by": {"table": outcome.table, "chain": outcome.chain} if stopped else None,
            "advice": others.advice(gate.conf, outcome.table, outcome.chain) if stopped else None,
            "reason": (outcome.reason or outcome.note or None) if gate.is_open else None,
            "problems": [problem for problem in (gate.problem, *status.problems) if problem],
            "policy": gate.conf.policy,
            "switched_on": status.switched_on,
            "seconds_left": status.left,
            "users": list(status.users),
            "reachable": {name: outcome.passing for name, _, _, outcome in status.services},
            "lan": str(gate.conf.lan),
            "lan_interface": gate.conf.lan_interface,
            "uplink": gate.conf.uplink,
        }
    )
