"""The checks of a booted node: a name, what it is about, and a judge over what should be and what is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagebuilder.boot import login_checks as login
from imagebuilder.boot import network_checks as network
from imagebuilder.boot import system_checks as system
from imagebuilder.boot.expected import Expected
from imagebuilder.boot.facts import Facts
from imagebuilder.model import SwapKind

Judge = Callable[[Expected, Facts], str]


def _nothing(expected: Expected, facts: Facts) -> str:
    return ""


def _always(expected: Expected) -> bool:
    return True


@dataclass(frozen=True)
class Check:
    """One thing that must be so. ``judge`` says what is wrong in one line, or nothing.

    ``remark`` says what is worth knowing though it is no failure; ``needs_root``: the facts it looks at are
    only there where sudo lets the account in; ``applies`` says to which nodes it does.
    """

    name: str
    about: str
    judge: Judge
    remark: Judge = _nothing
    needs_root: bool = False
    applies: Callable[[Expected], bool] = _always


@dataclass(frozen=True)
class CheckResult:
    """What came of a check. ``wrong`` is empty when it is right; ``seen``: whether it could be judged."""

    check: str
    about: str
    wrong: str = ""
    remark: str = ""
    seen: bool = True

    @property
    def good(self) -> bool:
        """Whether it was judged and is right."""
        return self.seen and not self.wrong


def _names_swap(expected: Expected) -> bool:
    return expected.node.swap.kind is not SwapKind.DEFAULT


def _serves_or_takes_time(expected: Expected) -> bool:
    return bool({"master", "worker"} & set(expected.plan.layers))


CHECKS: tuple[Check, ...] = (
    Check("manifest", "the card is this node's, built from this manifest", system.manifest),
    Check("hostname", "its name", network.hostname),
    Check("address", "its one address on the LAN", network.address),
    Check("mask", "the length of the network's prefix", network.mask),
    Check("static", "the address is its own, not from DHCP", network.static, network.stored, needs_root=True),
    Check("route", "the way out", network.route),
    Check("dns", "name servers and search domain", network.dns),
    Check("hosts", "the names of all nodes", network.hosts),
    Check("user", "the account, its home, shell and groups", login.user),
    Check("sudo", "the account may become root", login.sudo),
    Check("password", "the account's password, or none", login.password, needs_root=True),
    Check("keys", "whose keys may log in", login.authorized_keys),
    Check("password-login", "nobody logs in over ssh with a password", login.password_login, needs_root=True),
    Check("host-key", "sshd shows the host key made ahead", login.host_key),
    Check("known-hosts", "it knows the host keys of all nodes", login.known_hosts),
    Check("machine-id", "it has a machine id", system.machine_id),
    Check("disk-id", "a disk id of its own, in fstab and cmdline.txt too", system.disk_id, needs_root=True),
    Check("grown", "root reaches the end of the card", system.grown, needs_root=True),
    Check("consumed", "what the first boot reads once is gone", system.consumed),
    Check("modes", "modes of key files, keyfiles and sudoers", system.modes, needs_root=True),
    Check(
        "time",
        "where the time comes from",
        network.time_source,
        network.time_waits,
        needs_root=True,
        applies=_serves_or_takes_time,
    ),
    Check("timezone", "the time zone", system.timezone),
    Check("locale", "the language", system.locale),
    Check("keyboard", "the keyboard", system.keyboard),
    Check("swap", "where memory goes that is not used", system.swap, applies=_names_swap),
    Check("first-boot", "the first-boot scripts: once, in order, done", system.first_boot, system.waits),
    Check("services", "no unit of ours failed", system.services, system.strangers),
    Check(
        "gateway",
        "open or closed as its policy says",
        network.gateway,
        network.gateway_users,
        needs_root=True,
        applies=lambda expected: expected.is_gateway,
    ),
)


def judge(expected: Expected, facts: Facts) -> tuple[CheckResult, ...]:
    """What comes of every check that applies to the node, in the order of ``CHECKS``."""
    outcomes = []
    for check in checks_for(expected):
        if check.needs_root and facts.root is None:
            outcomes.append(CheckResult(check.name, check.about, remark="only root sees it", seen=False))
        else:
            wrong = check.judge(expected, facts)
            outcomes.append(CheckResult(check.name, check.about, wrong, check.remark(expected, facts)))
    return tuple(outcomes)


def unreached(expected: Expected, check: str, wrong: str) -> tuple[CheckResult, ...]:
    """The outcomes of a node nobody could log in to: one check says why, and no other could be judged."""
    return tuple(
        CheckResult(one.name, one.about, wrong)
        if one.name == check
        else CheckResult(one.name, one.about, remark="nobody could log in", seen=False)
        for one in checks_for(expected)
    )


def checks_for(expected: Expected) -> tuple[Check, ...]:
    """The checks that apply to the node."""
    return tuple(check for check in CHECKS if check.applies(expected))


def failing(outcomes: Sequence[CheckResult]) -> set[str]:
    """The names of the checks that found something wrong."""
    return {outcome.check for outcome in outcomes if outcome.wrong}
