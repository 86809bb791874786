"""The checks of a booted node: a name, a description and a function that compares facts and expectation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagebuilder.boot import login_checks as login
from imagebuilder.boot import network_checks as network
from imagebuilder.boot import system_checks as system
from imagebuilder.boot.expected import Expected
from imagebuilder.boot.facts import Facts
from imagebuilder.settings import Journal, SwapKind

Judge = Callable[[Expected, Facts], str]


def _nothing(expected: Expected, facts: Facts) -> str:
    return ""


def _always(expected: Expected) -> bool:
    return True


@dataclass(frozen=True)
class Check:
    """One check of a node. ``judge`` returns what is wrong in one line, or an empty string.

    ``remark`` returns a note that is not a failure. ``needs_root``: its facts need sudo on the node.
    ``applies`` returns whether the check applies to a node.
    """

    name: str
    about: str
    judge: Judge
    remark: Judge = _nothing
    needs_root: bool = False
    applies: Callable[[Expected], bool] = _always


@dataclass(frozen=True)
class CheckResult:
    """The result of a check. ``wrong`` is empty when it passed; ``seen`` is whether it could be judged."""

    check: str
    about: str
    wrong: str = ""
    remark: str = ""
    seen: bool = True

    @property
    def good(self) -> bool:
        """Whether it was judged and passed."""
        return self.seen and not self.wrong


def _is_static(expected: Expected) -> bool:
    return expected.node.address is not None


def _sets_swap(expected: Expected) -> bool:
    return expected.node.swap.kind is not SwapKind.DEFAULT


def _has_time_service(expected: Expected) -> bool:
    return expected.gateway is None or bool({"master", "worker"} & set(expected.plan.layers))


def _has_packages(expected: Expected) -> bool:
    return bool(expected.packages)


CHECKS: tuple[Check, ...] = (
    Check("manifest", "the card is this node's, built from this manifest", system.manifest),
    Check("hostname", "the host name", network.hostname),
    Check("address", "its only address on the LAN", network.address),
    Check("mask", "the prefix length of the LAN", network.mask),
    Check(
        "static",
        "the address is static, not from DHCP",
        network.static,
        network.stored,
        needs_root=True,
        applies=_is_static,
    ),
    # by DHCP it is the router's: QEMU's DHCP server names none in a network that leads nowhere (restrict=on)
    Check("route", "the default route", network.route, applies=_is_static),
    Check(
        "ipv6",
        "the address and the default route of IPv6",
        network.ipv6,
        applies=lambda expected: expected.cluster.address6(expected.node) is not None,
    ),
    Check("dns", "name servers and search domain", network.dns),
    Check("hosts", "the names of all nodes", network.hosts),
    Check("user", "the account, its home, shell and groups", login.user),
    Check("sudo", "the account may become root", login.sudo),
    Check("password", "the account's password, or none", login.password, needs_root=True),
    Check("keys", "the keys that may log in", login.authorized_keys),
    Check(
        "accounts",
        "the other accounts, their groups and keys",
        login.accounts,
        needs_root=True,
        applies=lambda expected: bool(expected.cluster.accounts),
    ),
    Check("password-login", "sshd refuses passwords", login.password_login, needs_root=True),
    Check("ssh-port", "the port of sshd", login.ssh_port, needs_root=True),
    Check("host-key", "sshd presents the host key made for the node", login.host_key),
    Check("known-hosts", "it knows the host keys of all nodes", login.known_hosts),
    Check("machine-id", "it has a machine id", system.machine_id),
    Check("disk-id", "a unique disk id, also in fstab and cmdline.txt", system.disk_id, needs_root=True),
    Check("grown", "the root file system reaches the end of the card", system.grown, needs_root=True),
    Check("consumed", "files and words for the first boot are removed", system.consumed),
    Check("modes", "modes of key files, keyfiles and sudoers", system.modes, needs_root=True),
    Check(
        "time",
        "the time source",
        network.time_source,
        network.time_waits,
        needs_root=True,
        applies=_has_time_service,
    ),
    Check("timezone", "the time zone", system.timezone),
    Check("locale", "the locale", system.locale),
    Check("keyboard", "the keyboard layout", system.keyboard),
    Check("swap", "swap as in the manifest", system.swap, applies=_sets_swap),
    Check(
        "mounts",
        "the mounts of the manifest",
        system.mounts,
        system.absent,
        applies=lambda expected: bool(expected.node.mounts),
    ),
    Check(
        "ca-certificates",
        "programs trust the certificates of the manifest",
        system.ca_certificates,
        needs_root=True,
        applies=lambda expected: bool(expected.ca_certificates),
    ),
    Check(
        "journal",
        "the journal is kept on the card",
        system.journal,
        needs_root=True,
        applies=lambda expected: expected.node.journal is Journal.PERSISTENT,
    ),
    Check("first-boot", "the first-boot scripts: once, in order, done", system.first_boot, system.waits),
    Check("packages", "its packages are installed", system.packages, applies=_has_packages),
    Check("services", "no unit of the cluster failed", system.services, system.other_failures),
    Check(
        "gateway",
        "open or closed according to its policy",
        network.gateway,
        network.gateway_users,
        needs_root=True,
        applies=lambda expected: expected.is_gateway,
    ),
)


def judge(expected: Expected, facts: Facts) -> tuple[CheckResult, ...]:
    """The result of every check that applies to the node, in the order of ``CHECKS``."""
    outcomes = []
    for check in checks_for(expected):
        if check.needs_root and facts.root is None:
            outcomes.append(CheckResult(check.name, check.about, remark="only root sees it", seen=False))
        else:
            wrong = check.judge(expected, facts)
            outcomes.append(CheckResult(check.name, check.about, wrong, check.remark(expected, facts)))
    return tuple(outcomes)


def unreached(expected: Expected, check: str, wrong: str) -> tuple[CheckResult, ...]:
    """The results for a node without a login: ``check`` gets the reason, no other is judged."""
    return tuple(
        CheckResult(applied.name, applied.about, wrong)
        if applied.name == check
        else CheckResult(applied.name, applied.about, remark="no login was possible", seen=False)
        for applied in checks_for(expected)
    )


def checks_for(expected: Expected) -> tuple[Check, ...]:
    """The checks that apply to the node."""
    return tuple(check for check in CHECKS if check.applies(expected))


def failing(outcomes: Sequence[CheckResult]) -> set[str]:
    """The names of the checks that found something wrong."""
    return {outcome.check for outcome in outcomes if outcome.wrong}
