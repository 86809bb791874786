"""Asking a running node for its facts, through one login, and reading its answer strictly.

The script ``ask`` is run on the node. It says one fact a line, KEY VALUE; an answer that is not whole, or has
anything in it that the script does not say, is refused.
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
from imagebuilder.text import printable

ASK = Path(__file__).resolve().parent / "ask"
COMMAND = "sh -c 'ASK=$(cat) && eval \"$ASK\"'"
"""Runs the question on the node: the script arrives on standard input, and can hand itself on to root."""

PATIENCE = 600.0  # seconds; an answer takes 10 in emulation, and longer where a name server is waited for
LIMIT = 1 << 20  # bytes of an answer
_FIRST, _LAST = "piimg-facts 1", "end facts"

_ONCE = {
    *("hostname", "hostname-file", "boot-id", "machine-id", "login", "passwd", "groups", "links", "routes"),
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
    *("cmdline", "swap", "on-boot", "stamp", "ran", "failed", "unit", "lease", "job"),
}
_ROOT_ONCE = {"password", "disk-id", "file-system", "gateway"}
_ROOT_LISTED = {"sshd", "mode", "chrony", "table"}


class FactsError(PiimgError):
    """A node answered, but not with facts."""


class Runs(Protocol):
    """A login: runs a shell command on the node, with ``data`` as its standard input."""

    def run(
        self, command: str, data: bytes = b"", patience: float = 300.0
    ) -> "subprocess.CompletedProcess[bytes]": ...


def ask(login: Runs, interface: str, boot: str, units: Iterable[str], paths: Iterable[str]) -> Facts:
    """Ask a node for its facts; see ``ask`` for the four. Raises FactsError, or what ``login`` raises."""
    done = login.run(COMMAND, question(interface, boot, units, paths), PATIENCE)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise FactsError(f"the node cannot be asked: exit status {done.returncode}: {printable(said)}")
    return parse(done.stdout)


def question(interface: str, boot: str, units: Iterable[str], paths: Iterable[str]) -> bytes:
    """The script with what it is to look at."""
    settings = {"INTERFACE": interface, "BOOT": boot, "UNITS": " ".join(units), "PATHS": "\n".join(paths)}
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
    return "".join(lines).encode() + ASK.read_bytes()


def glance(boot: str) -> str:
    """The shell command whose answer ``glanced`` reads: how far a node is, at little cost."""
    jobs = "systemctl list-jobs --plain --no-legend | sed -n 's/^ *[0-9]* *\\([^ ]*\\) .* running *$/\\1/p'"
    return f"systemctl is-system-running; echo $({jobs}); cat {shlex.quote(f'{boot}/piimg-firstboot.json')}"


def glanced(said: bytes) -> tuple[str, tuple[str, ...], Summary | None]:
    """systemd's word for the state of the system, the units it is still at, and how far the scripts are."""
    state, _, rest = said[:LIMIT].decode("utf-8", "replace").partition("\n")
    jobs, _, summary = rest.partition("\n")
    return state, tuple(jobs.split()), _summary(summary)


def _with_variant(layout: str, variant: str) -> str:
    """A layout and its variant as the manifest spells them."""
    return f"{layout}({variant})" if variant else layout


def parse(answer: bytes) -> Facts:
    """Read an answer of ``ask``. Raises FactsError unless it is a whole one."""
    said = _said(answer)
    once = {key: values[0] for key, values in said.items() if len(values) == 1}
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
        profile=_profile(once["profile"]),
        leases=said["lease"],
        resolv=said["resolv"],
        hosts=said["hosts"],
        known_hosts=said["known-host"],
        presented=said["presented"],
        offered=said["offered"],
        authorized=said["authorized"],
        timezone=once["timezone"],
        timezone_file=once["timezone-file"],
        lang_at_login=once["lang-at-login"],
        lang=said["lang"],
        locales=said["locale"],
        keyboard=_with_variant(once["keyboard"], once["keyboard-variant"]),
        ntp=once["ntp"],
        ntp_synchronized=once["ntp-synchronized"],
        ntp_servers=tuple(once["ntp-servers"].split()),
        disk=DiskFacts(*numbers) if (numbers := _numbers("disk", once["disk"], 3)) else None,
        fstab=said["fstab"],
        cmdline=said["cmdline"],
        swaps=tuple(_swap(line) for line in said["swap"]),
        on_boot=said["on-boot"],
        identity=_object(once["identity"]),
        summary=_summary(once["summary"]),
        stamps=said["stamp"],
        ran=tuple(_ran(line) for line in said["ran"]),
        system=once["system"],
        jobs=said["job"],
        failed=tuple(line.split()[0] for line in said["failed"] if line.split()),
        units=_units(said["unit"]),
        root=_root(said, once) if once["sudo"] == "yes" else None,
    )


# --- the lines ----------------------------------------------------------------------------------------------


def _said(answer: bytes) -> dict[str, tuple[str, ...]]:
    """The values of each key, all keys there and in their number."""
    if len(answer) > LIMIT:
        raise FactsError(f"the node's answer is longer than {LIMIT} bytes")
    lines = answer.decode("utf-8", "replace").split("\n")
    if lines[0] != _FIRST:
        raise FactsError(f"the node's answer begins with {printable(lines[0])!r}, not with facts")
    if lines[-2:] != [_LAST, ""]:
        raise FactsError("the node's answer breaks off")
    found: dict[str, list[str]] = {key: [] for key in _ONCE | _LISTED | _ROOT_ONCE | _ROOT_LISTED}
    for line in lines[1:-2]:
        key, blank, value = line.partition(" ")
        if not blank or key not in found:
            raise FactsError(f"the node's answer has an unknown line: {printable(line)!r}")
        found[key].append(value)
    if found["sudo"] not in (["yes"], ["no"]):
        raise FactsError("the node's answer does not say whether sudo let it in")
    has_root = found["sudo"] == ["yes"]
    for key in sorted(_ONCE | _ROOT_ONCE):
        if len(found[key]) != (1 if key in _ONCE or has_root else 0):
            raise FactsError(f"the node's answer has {len(found[key])} lines of {key}")
    if not has_root and any(found[key] for key in _ROOT_LISTED):
        raise FactsError("the node's answer has what only root can see, without sudo")
    return {key: tuple(values) for key, values in found.items()}


def _root(said: Mapping[str, tuple[str, ...]], once: Mapping[str, str]) -> RootFacts:
    sizes = _numbers("file-system", once["file-system"], 2)
    gateway = _validated(_GATEWAY, once["gateway"]) if once["gateway"] else None
    return RootFacts(
        password=once["password"].partition(" ")[0],
        disk_id=once["disk-id"],
        file_system=sizes[0] * sizes[1] if sizes else 0,
        sshd=dict(line.partition(" ")[::2] for line in said["sshd"]),
        modes=dict(_mode(line) for line in said["mode"]),
        chrony=said["chrony"],
        gateway=gateway,
        tables=said["table"],
    )


def _account(line: str) -> AccountFacts | None:
    """A line of passwd(5)."""
    parts = line.split(":")
    if len(parts) != 7 or not re.fullmatch(r"[0-9]{1,10}", parts[3], re.ASCII):
        return None
    return AccountFacts(parts[0], int(parts[3]), parts[5], parts[6])


def _profile(line: str) -> Profile | None:
    """UUID, method and file, which may have blanks in its name."""
    if not line.strip():
        return None
    words = line.split(" ", 2)
    if len(words) != 3:
        raise FactsError(f"the node's answer is not understood: profile {printable(line)!r}")
    return Profile(words[0].lower(), words[1], words[2])


def _numbers(key: str, text: str, count: int) -> list[int] | None:
    """``count`` numbers; None when the node could not say them."""
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


def _units(lines: Sequence[str]) -> tuple[Unit, ...]:
    """Paragraphs of KEY=VALUE, as systemctl show prints them."""
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


# --- what is JSON -------------------------------------------------------------------------------------------

_T = TypeVar("_T")
_LINKS = TypeAdapter(tuple[Link, ...])
_ROUTES = TypeAdapter(tuple[Route, ...])
_SUMMARY = TypeAdapter(Summary)
_GATEWAY = TypeAdapter(GatewayFacts)


def _from_ip(key: str, kind: TypeAdapter[_T], text: str) -> _T:
    """What ip(8) prints as JSON; nothing at all when there is nothing to list."""
    found = _validated(kind, text or "[]")
    if found is None:
        raise FactsError(f"the node's answer is not understood: {key} {printable(text)!r}")
    return found


def _summary(text: str) -> Summary | None:
    """None when there is no summary, or one that no first boot wrote."""
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
