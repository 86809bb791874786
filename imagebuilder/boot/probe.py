"""Collect the facts of a running node over one login, and parse the answer strictly.

The script ``ask`` runs on the node. It prints one fact per line, KEY VALUE. An answer that is incomplete, or
has a line that the script does not print, is refused.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from imagebuilder.boot.facts import (
    AccountFacts,
    DiskFacts,
    ExtraAccount,
    Facts,
    GatewayFacts,
    Link,
    Mode,
    Profile,
    Ran,
    RootFacts,
    Route,
    Summary,
    SwapArea,
    Unit,
)
from imagebuilder.errors import PiimgError
from imagebuilder.model import Node
from imagebuilder.text import printable

ASK = Path(__file__).resolve().parent / "ask"
COMMAND = "sh -c 'ASK=$(cat) && eval \"$ASK\"'"
"""Runs the script on the node: it arrives on standard input, and can run itself as root."""

PATIENCE = 600.0  # seconds; an answer takes 10 in emulation, and longer when a name server does not answer
LIMIT = 1 << 20  # bytes of an answer
_FIRST, _LAST = "piimg-facts 1", "end facts"

_ONCE = {
    *("hostname", "hostname-file", "boot-id", "machine-id", "login", "passwd", "groups", "links", "routes"),
    *("links6", "routes6"),
    "profile",
    *(
        "timezone",
        "timezone-file",
        "lang-at-login",
        "keyboard",
        "keyboard-variant",
        "ntp",
        "ntp-synchronized",
        "ntp-servers",
    ),
    *("disk", "identity", "summary", "system", "sudo"),
}
_LISTED = {
    *("resolv", "hosts", "known-host", "presented", "offered", "authorized", "lang", "locale", "fstab"),
    "mounted",
    *("cmdline", "swap", "on-boot", "stamp", "ran", "failed", "unit", "lease", "job"),
    "package",
}
_ROOT_ONCE = {"password", "disk-id", "file-system", "gateway"}
_ROOT_LISTED = {
    *("sshd", "mode", "chrony", "table", "journal", "certificate"),
    *("account", "account-groups", "account-key"),
}


class FactsError(PiimgError):
    """The answer of a node is not a valid list of facts."""


class Runs(Protocol):
    """A login: it runs a shell command on the node, with ``data`` as its standard input."""

    def run(
        self, command: str, data: bytes = b"", patience: float = 300.0
    ) -> "subprocess.CompletedProcess[bytes]": ...


def ask(
    login: Runs,
    node: Node,
    boot: str,
    units: Iterable[str],
    paths: Iterable[str],
    packages: Iterable[str] = (),
    accounts: Iterable[str] = (),
) -> Facts:
    """Collect the facts of a node; see ``ask`` for the settings. Raises FactsError, or as ``login`` does."""
    done = login.run(COMMAND, question(node, boot, units, paths, packages, accounts), PATIENCE)
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise FactsError(f"the node reports no facts: exit status {done.returncode}: {printable(last)}")
    return parse(done.stdout)


def question(
    node: Node,
    boot: str,
    units: Iterable[str],
    paths: Iterable[str],
    packages: Iterable[str] = (),
    accounts: Iterable[str] = (),
) -> bytes:
    """The script ``ask``, preceded by its settings."""
    settings = {
        "INTERFACE": node.interface,
        "SSH_PORT": str(node.ssh_port),
        "BOOT": boot,
        "UNITS": " ".join(units),
        "ACCOUNTS": " ".join(accounts),
        "PATHS": "\n".join(paths),
        "PACKAGES": " ".join(packages),
    }
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
    return "".join(lines).encode() + ASK.read_bytes()


def glance(boot: str) -> str:
    """The shell command for ``glanced``: the progress of a node's boot, at little cost."""
    jobs = "systemctl list-jobs --plain --no-legend | sed -n 's/^ *[0-9]* *\\([^ ]*\\) .* running *$/\\1/p'"
    return f"systemctl is-system-running; echo $({jobs}); cat {shlex.quote(f'{boot}/piimg-firstboot.json')}"


def glanced(output: bytes) -> tuple[str, tuple[str, ...], Summary | None]:
    """systemd's state of the system, the units with running jobs, and the state of the first-boot scripts."""
    state, _, rest = output[:LIMIT].decode("utf-8", "replace").partition("\n")
    jobs, _, summary = rest.partition("\n")
    return state, tuple(jobs.split()), _summary(summary)


def _with_variant(layout: str, variant: str) -> str:
    """A layout and its variant as the manifest spells them."""
    return f"{layout}({variant})" if variant else layout


def parse(answer: bytes) -> Facts:
    """Parse an answer of ``ask``. Raises FactsError unless it is complete and valid."""
    lists = _values(answer)
    once = {key: values[0] for key, values in lists.items() if len(values) == 1}
    account = _account(once["passwd"])
    return Facts(
        hostname=once["hostname"],
        hostname_file=once["hostname-file"],
        boot_id=once["boot-id"],
        machine_id=once["machine-id"],
        login=once["login"],
        account=account,
        groups=tuple(once["groups"].split()),
        links=_from_ip("links", _LINKS, once["links"]),
        routes=_from_ip("routes", _ROUTES, once["routes"]),
        links6=_from_ip("links6", _LINKS, once["links6"]),
        routes6=_from_ip("routes6", _ROUTES, once["routes6"]),
        profile=_profile(once["profile"]),
        leases=lists["lease"],
        resolv=lists["resolv"],
        hosts=lists["hosts"],
        known_hosts=lists["known-host"],
        presented=lists["presented"],
        offered=lists["offered"],
        authorized=lists["authorized"],
        timezone=once["timezone"],
        timezone_file=once["timezone-file"],
        lang_at_login=once["lang-at-login"],
        lang=lists["lang"],
        locales=lists["locale"],
        keyboard=_with_variant(once["keyboard"], once["keyboard-variant"]),
        ntp=once["ntp"],
        ntp_synchronized=once["ntp-synchronized"],
        ntp_servers=tuple(once["ntp-servers"].split()),
        disk=DiskFacts(*numbers) if (numbers := _numbers("disk", once["disk"], 3)) else None,
        fstab=lists["fstab"],
        mounted=tuple((path, kind) for path, _, kind in (line.rpartition(" ") for line in lists["mounted"])),
        cmdline=lists["cmdline"],
        swaps=tuple(_swap(line) for line in lists["swap"]),
        on_boot=lists["on-boot"],
        identity=_object(once["identity"]),
        summary=_summary(once["summary"]),
        stamps=lists["stamp"],
        ran=tuple(_ran(line) for line in lists["ran"]),
        system=once["system"],
        jobs=lists["job"],
        failed=tuple(line.split()[0] for line in lists["failed"] if line.split()),
        units=_units(lists["unit"]),
        packages=dict(_package(line) for line in lists["package"]),
        root=_root(lists, once) if once["sudo"] == "yes" else None,
    )


# --- the lines ----------------------------------------------------------------------------------------------


def _values(answer: bytes) -> dict[str, tuple[str, ...]]:
    """The values of each key. Raises FactsError for a missing or unknown key, or a wrong number of values."""
    if len(answer) > LIMIT:
        raise FactsError(f"the node's answer is longer than {LIMIT} bytes")
    lines = answer.decode("utf-8", "replace").split("\n")
    if lines[0] != _FIRST:
        raise FactsError(f"the node's answer begins with {printable(lines[0])!r}, not with facts")
    if lines[-2:] != [_LAST, ""]:
        raise FactsError("the node's answer is incomplete")
    found: dict[str, list[str]] = {key: [] for key in _ONCE | _LISTED | _ROOT_ONCE | _ROOT_LISTED}
    for line in lines[1:-2]:
        key, blank, value = line.partition(" ")
        if not blank or key not in found:
            raise FactsError(f"the node's answer has an unknown line: {printable(line)!r}")
        found[key].append(value)
    if found["sudo"] not in (["yes"], ["no"]):
        raise FactsError("the node's answer does not report whether sudo works")
    has_root = found["sudo"] == ["yes"]
    for key in sorted(_ONCE | _ROOT_ONCE):
        if len(found[key]) != (1 if key in _ONCE or has_root else 0):
            raise FactsError(f"the node's answer has {len(found[key])} lines of {key}")
    if not has_root and any(found[key] for key in _ROOT_LISTED):
        raise FactsError("the node's answer has facts of root, but reports that sudo does not work")
    return {key: tuple(values) for key, values in found.items()}


def _root(lists: Mapping[str, tuple[str, ...]], once: Mapping[str, str]) -> RootFacts:
    sizes = _numbers("file-system", once["file-system"], 2)
    gateway = _validated(_GATEWAY, once["gateway"]) if once["gateway"] else None
    return RootFacts(
        password=once["password"].partition(" ")[0],
        disk_id=once["disk-id"],
        file_system=sizes[0] * sizes[1] if sizes else 0,
        sshd=dict(line.partition(" ")[::2] for line in lists["sshd"]),
        modes=dict(_mode(line) for line in lists["mode"]),
        chrony=lists["chrony"],
        gateway=gateway,
        tables=lists["table"],
        journal=lists["journal"],
        accounts=_accounts(lists),
        ca_certificates=lists["certificate"],
        ssh_ports=tuple(line.removeprefix("port ") for line in lists["sshd"] if line.startswith("port ")),
    )


def _account(line: str) -> AccountFacts | None:
    """A line of passwd(5)."""
    parts = line.split(":")
    if len(parts) != 7 or not re.fullmatch(r"[0-9]{1,10}", parts[3], re.ASCII):
        return None
    return AccountFacts(parts[0], int(parts[3]), parts[5], parts[6])


def _accounts(lists: Mapping[str, tuple[str, ...]]) -> tuple[ExtraAccount, ...]:
    lines = [line.split() for line in lists["account-groups"]]
    groups = {words[0]: tuple(words[1:]) for words in lines if words}
    keys: dict[str, list[str]] = {}
    for line in lists["account-key"]:
        name, _, key = line.partition(" ")
        keys.setdefault(name, []).append(key)
    found = []
    for line in lists["account"]:
        parts = line.split(":")
        if len(parts) != 7 or not re.fullmatch(r"[0-9]{1,10}", parts[2], re.ASCII):
            raise FactsError(f"the node's answer is not understood: account {printable(line)!r}")
        name = parts[0]
        found.append(
            ExtraAccount(
                *(name, int(parts[2]), parts[5], parts[6]), groups.get(name, ()), tuple(keys.get(name, ()))
            )
        )
    return tuple(found)


def _profile(line: str) -> Profile | None:
    """UUID, method and file; the name of the file may contain blanks."""
    if not line.strip():
        return None
    words = line.split(" ", 2)
    if len(words) != 3:
        raise FactsError(f"the node's answer is not understood: profile {printable(line)!r}")
    return Profile(words[0].lower(), words[1], words[2])


def _numbers(key: str, text: str, count: int) -> list[int] | None:
    """``count`` numbers; None when the node printed none."""
    if not text.strip():
        return None
    words = text.split()
    if len(words) != count or not all(re.fullmatch(r"[0-9]{1,15}", word, re.ASCII) for word in words):
        raise FactsError(f"the node's answer is not understood: {key} {printable(text)!r}")
    return [int(word) for word in words]


def _mode(line: str) -> tuple[str, Mode]:
    found = re.fullmatch(r"([0-7]{1,4}) ([0-9]{1,10}) ([0-9]{1,10}) (/.*)", line, re.ASCII)
    if not found:
        raise FactsError(f"the node's answer is not understood: mode {printable(line)!r}")
    return found[4], Mode(int(found[1], 8), int(found[2]), int(found[3]))


def _ran(line: str) -> Ran:
    found = re.fullmatch(r'[0-9TZ:-]+ "([^"]*)": (?:try [0-9]+ .*|exit status ([0-9]{1,3}))', line, re.ASCII)
    if not found:
        raise FactsError(f"the node's answer is not understood: ran {printable(line)!r}")
    return Ran(found[1], None if found[2] is None else int(found[2]))


def _swap(line: str) -> SwapArea:
    found = re.fullmatch(r"(\S+) (\S+) ([0-9]{1,15}) (\S+)", line, re.ASCII)
    if not found:
        raise FactsError(f"the node's answer is not understood: swap {printable(line)!r}")
    return SwapArea(found[1], found[2], int(found[3]), found[4])


def _package(line: str) -> tuple[str, str]:
    """The name of a package and its state: dpkg-query(1), db:Status-Status."""
    found = re.fullmatch(r"([a-z-]{1,40}) ([a-z0-9][a-z0-9+.-]{1,200})", line, re.ASCII)
    if not found:
        raise FactsError(f"the node's answer is not understood: package {printable(line)!r}")
    return found[2], found[1]


def _units(lines: Sequence[str]) -> tuple[Unit, ...]:
    """Paragraphs of KEY=VALUE, as printed by systemctl show."""
    units: list[Unit] = []
    values: dict[str, str] = {}
    for line in (*lines, ""):
        if line:
            key, _, value = line.partition("=")
            values[key] = value
        elif values:
            keys = ("Id", "LoadState", "ActiveState", "Result", "UnitFileState")
            units.append(Unit(*(values.get(key, "") for key in keys)))
            values = {}
    return tuple(units)


# --- values in JSON -----------------------------------------------------------------------------------------

_T = TypeVar("_T")
_LINKS = TypeAdapter(tuple[Link, ...])
_ROUTES = TypeAdapter(tuple[Route, ...])
_SUMMARY = TypeAdapter(Summary)
_GATEWAY = TypeAdapter(GatewayFacts)


def _from_ip(key: str, kind: TypeAdapter[_T], text: str) -> _T:
    """The JSON output of ip(8), which is empty when there is nothing to list."""
    found = _validated(kind, text or "[]")
    if found is None:
        raise FactsError(f"the node's answer is not understood: {key} {printable(text)!r}")
    return found


def _summary(text: str) -> Summary | None:
    """The summary of the first boot; None when it is missing or invalid."""
    return _validated(_SUMMARY, text)


def _validated(kind: TypeAdapter[_T], text: str) -> _T | None:
    try:
        return kind.validate_json(text)
    except ValidationError:
        return None


def _object(text: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
