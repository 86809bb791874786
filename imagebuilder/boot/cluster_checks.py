"""The checks over several booted nodes: they reach each other, share no ids, and keep them after a power cut.

The gateway is checked in ``gateway_checks.py``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from imagebuilder.boot.checks import CheckResult
from imagebuilder.boot.expected import Expected
from imagebuilder.boot.facts import Facts
from imagebuilder.boot.probe import Runs
from imagebuilder.model import Node
from imagebuilder.text import printable

ABOUT = {
    "reach": "every node reaches every node by name, and accepts its host key",
    "machine-ids": "no two nodes have the same machine id",
    "disk-ids": "no two cards have the same disk id",
    "host-keys": "no two nodes have the same host key",
    "unchanged": "after a power cut: no id and no key changed, no script ran twice",
}
_PATIENCE = 20  # seconds for one node to answer another


@dataclass(frozen=True)
class Member:
    """A node that is up: its expected state, and the login to it."""

    expected: Expected
    login: Runs

    @property
    def name(self) -> str:
        """The node's name."""
        return self.expected.node.name

    def said(self, command: str, patience: float = 300.0) -> tuple[int, str]:
        """Exit status and output (stdout, then stderr) of a shell command on the node.

        A command's own status 255, such as that of an ssh on the node, is returned as 254: the ssh that runs
        the command uses 255 for its own failures.
        """
        wrapped = f'(\n{command}\n); status=$?; [ "$status" != 255 ] || status=254; exit "$status"'
        done = self.login.run(wrapped, b"", patience)
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace").strip()


def outcome(check: str, wrong: str, about: Mapping[str, str] = ABOUT) -> CheckResult:
    """The result of a check over several nodes."""
    return CheckResult(check, about[check], wrong)


def reach(members: Sequence[Member]) -> CheckResult:
    """Every node connects to all nodes, itself included, by name: sshd answers with the host key of the name.

    No login is made: sshd refuses the missing key, which it does only after the host key was accepted.
    """
    # multicast DNS is not in every base image: nodes with an address from DHCP are not looked up by others
    nodes = [member.expected.node for member in members if member.expected.node.address]
    names = [node.name for node in nodes]
    wrong = []
    for member in members:
        _, output = member.said(_connect_to(nodes), _PATIENCE * len(names) + 60)
        refused = dict(line.partition(" ")[::2] for line in output.splitlines())
        for name in names:
            if "Permission denied (publickey)" not in refused.get(name, ""):
                wrong.append(f"{member.name} does not reach {name}: {printable(refused.get(name, ''), 60)}")
    return outcome("reach", _first(wrong))


def _connect_to(nodes: Sequence[Node]) -> str:
    options = "-F none -o BatchMode=yes -o PreferredAuthentications=none -o StrictHostKeyChecking=yes"
    files = "-o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts"
    ssh = f"ssh {options} {files} -o ConnectTimeout={_PATIENCE} -o LogLevel=ERROR"
    return "; ".join(
        f'echo "{node.name} $({ssh} -p {node.ssh_port} {node.name} true 2>&1 </dev/null | tail -n 1)"'
        for node in nodes
    )


def differ(facts: Mapping[str, Facts]) -> tuple[CheckResult, ...]:
    """No two nodes share an id or a host key; ``facts`` are by node."""
    return (
        outcome("machine-ids", _duplicate((name, node.machine_id) for name, node in facts.items())),
        outcome(
            "disk-ids", _duplicate((name, node.root.disk_id) for name, node in facts.items() if node.root)
        ),
        outcome("host-keys", _duplicate((name, key) for name, node in facts.items() for key in _keys(node))),
    )


def _keys(facts: Facts) -> set[str]:
    return {" ".join(line.split()[1:3]) for line in facts.presented if not line.startswith("#")}


def _duplicate(values: Iterable[tuple[str, str]]) -> str:
    first: dict[str, str] = {}
    for name, value in values:
        if value in first:
            return f"{first[value]} and {name} have the same"
        first[value] = name
    return ""


def unchanged(
    before: Mapping[str, Facts], after: Mapping[str, Facts], wrong: Sequence[str] = ()
) -> CheckResult:
    """The check of everything that must be the same after a power cut; ``before`` and ``after`` are by node.

    ``wrong`` is what was found already, such as nodes that did not come back.
    """
    changes = {name: _changed(before[name], facts) for name, facts in after.items()}
    changed = [f"{name}: {change}" for name, change in changes.items() if change]
    return outcome("unchanged", _first([*wrong, *changed]))


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
