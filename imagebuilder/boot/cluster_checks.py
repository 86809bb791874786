"""The checks over several booted nodes: each reaches each, no two are twins, a power cut changes nothing.

What the gateway does is judged in ``gateway_checks.py``.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from imagebuilder.boot.checks import CheckResult
from imagebuilder.boot.expected import Expected
from imagebuilder.boot.facts import Facts
from imagebuilder.boot.probe import Runs
from imagebuilder.text import printable

ABOUT = {
    "reach": "each node reaches each by name, and knows it by its host key",
    "machine-ids": "no two nodes have the same machine id",
    "disk-ids": "no two cards have the same disk id",
    "host-keys": "no two nodes have the same host key",
    "unchanged": "after a power cut: no id and no key changed, nothing ran twice",
}
_PATIENCE = 20  # seconds for one node to answer another


@dataclass(frozen=True)
class Member:
    """A node that is up: what it should be, and the way to it."""

    expected: Expected
    login: Runs

    @property
    def name(self) -> str:
        """The node's name."""
        return self.expected.node.name

    def said(self, command: str, patience: float = 300.0) -> tuple[int, str]:
        """Exit status and output (both kinds) of a shell command on the node.

        A command's own status 255, such as that of an ssh on the node, is given as 254: by 255 the ssh that
        leads here says that it failed itself.
        """
        told = f'(\n{command}\n); status=$?; [ "$status" != 255 ] || status=254; exit "$status"'
        done = self.login.run(told, b"", patience)
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace").strip()


def outcome(check: str, wrong: str, about: Mapping[str, str] = ABOUT) -> CheckResult:
    """The outcome of a check over several nodes."""
    return CheckResult(check, about[check], wrong)


def reach(members: Sequence[Member]) -> CheckResult:
    """From every node to every node, itself too, by name: sshd answers there, with the host key of that name.

    Nobody logs in: a refusal for want of a key is the answer, and comes only after the host key was accepted.
    """
    names = [member.name for member in members]
    wrong = []
    for member in members:
        _, said = member.said(_greet(names), _PATIENCE * len(names) + 60)
        refused = dict(line.partition(" ")[::2] for line in said.splitlines())
        for name in names:
            if "Permission denied (publickey)" not in refused.get(name, ""):
                wrong.append(f"{member.name} does not reach {name}: {printable(refused.get(name, ''), 60)}")
    return outcome("reach", _first(wrong))


def _greet(names: Sequence[str]) -> str:
    options = "-F none -o BatchMode=yes -o PreferredAuthentications=none -o StrictHostKeyChecking=yes"
    files = "-o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts"
    ssh = f"ssh {options} {files} -o ConnectTimeout={_PATIENCE} -o LogLevel=ERROR"
    listed = " ".join(shlex.quote(name) for name in names)
    return f'for node in {listed}; do echo "$node $({ssh} "$node" true 2>&1 </dev/null | tail -n 1)"; done'


def differ(facts: Mapping[str, Facts]) -> tuple[CheckResult, ...]:
    """No two nodes share an id or a host key; ``facts`` are by node."""
    return (
        outcome("machine-ids", _twins((name, one.machine_id) for name, one in facts.items())),
        outcome("disk-ids", _twins((name, one.root.disk_id) for name, one in facts.items() if one.root)),
        outcome("host-keys", _twins((name, key) for name, one in facts.items() for key in _keys(one))),
    )


def _keys(facts: Facts) -> set[str]:
    return {" ".join(line.split()[1:3]) for line in facts.presented if not line.startswith("#")}


def _twins(values: Iterable[tuple[str, str]]) -> str:
    first: dict[str, str] = {}
    for name, value in values:
        if value in first:
            return f"{first[value]} and {name} have the same"
        first[value] = name
    return ""


def unchanged(
    before: Mapping[str, Facts], after: Mapping[str, Facts], wrong: Sequence[str] = ()
) -> CheckResult:
    """What must be the same after the power was cut and came back; both are by node.

    ``wrong`` is what was found already, such as nodes that did not come back.
    """
    changes = {name: _changed(before[name], facts) for name, facts in after.items()}
    found = [f"{name}: {said}" for name, said in changes.items() if said]
    return outcome("unchanged", _first([*wrong, *found]))


_SAME: tuple[tuple[str, Callable[[Facts], object]], ...] = (
    ("the machine id", lambda facts: facts.machine_id),
    ("the disk id", lambda facts: facts.root.disk_id if facts.root else ""),
    ("the host key", _keys),
    ("the keys that may log in", lambda facts: sorted(facts.authorized)),
    ("the password", lambda facts: facts.root.password if facts.root else ""),
    ("the address", lambda facts: [link.addr_info for link in facts.links if link.ifname != "lo"]),
    ("fstab", lambda facts: facts.fstab),
    ("cmdline.txt", lambda facts: facts.cmdline),
)


def _changed(before: Facts, after: Facts) -> str:
    if before.boot_id == after.boot_id:
        return "it was not restarted"
    for name, of in _SAME:
        if of(before) != of(after):
            return f"{name} changed"
    if missing := [stamp for stamp in before.stamps if stamp not in after.stamps]:
        return f"{printable(missing[0])} is no longer done"
    for name in before.stamps:
        runs = [sum(ran.name == name for ran in facts.ran) for facts in (before, after)]
        if runs[0] != runs[1]:
            return f"{printable(name)} ran again"
    return ""


def _first(wrong: Sequence[str]) -> str:
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return wrong[0] + more if wrong else ""
