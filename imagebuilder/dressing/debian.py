"""Formats of dpkg and apt: the list of installed packages, apt's simulation, its sources. No I/O.

deb822(5), sources.list(5), apt-get(8), dpkg(1).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from imagebuilder.errors import PiimgError
from imagebuilder.software import Installed

Action = Literal["unpack", "configure", "remove"]

_LINE = re.compile(r"(Inst|Conf|Remv|Purg) (\S+)(?: \[[^]]*\])?(?: \((\S+) (?:.* )?\[(\S+)\]\))?")
_ACTIONS: Mapping[str, Action] = {"Inst": "unpack", "Conf": "configure", "Remv": "remove", "Purg": "remove"}
_SIGNED_BY = re.compile(r"(signed-by=)([^\s\]]+)", re.IGNORECASE)
_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9-]*):[ \t]*(.*)")


@dataclass(frozen=True)
class Package:
    """A package as apt names it (``name``, with an architecture only if it is a foreign one)."""

    name: str
    version: str = ""
    architecture: str = ""

    @property
    def archive(self) -> str:
        """The name of its file in apt's cache: apt-pkg/acquire-item.cc, QuoteString."""
        name = self.name.partition(":")[0]
        return f"{_quoted(name)}_{_quoted(self.version)}_{_quoted(self.architecture, '.')}.deb"


@dataclass(frozen=True)
class Step:
    """One run of dpkg: the packages that it unpacks, configures or removes, in order."""

    action: Action
    packages: tuple[Package, ...]


def _quoted(text: str, more: str = "") -> str:
    unquoted = (c if c.isascii() and c.isprintable() and c not in f"_:% {more}" else None for c in text)
    return "".join(
        c if c is not None else "".join(f"%{byte:02x}" for byte in text[at].encode())
        for at, c in enumerate(unquoted)
    )


def steps_of(simulation: str) -> tuple[Step, ...]:
    """The runs of dpkg for what ``apt-get --simulate`` printed, in apt's order.

    Raises PiimgError when a package would be installed without version and architecture.
    """
    steps: list[Step] = []
    for line in simulation.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        action, package = _ACTIONS[match[1]], Package(match[2], match[3] or "", match[4] or "")
        if action == "unpack" and not package.version:
            raise PiimgError(
                f"apt-get prints a line that is not understood: {line[:200]}",
                "this is a fault of piimg: report it with the output of piimg doctor --report bug.json",
            )
        if steps and steps[-1].action == action:
            steps[-1] = Step(action, (*steps[-1].packages, package))
        else:
            steps.append(Step(action, (package,)))
    return tuple(steps)


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a deb822 text: field names in lower case, continuation lines with their newlines."""
    fields: dict[str, str] = {}
    last = ""
    for line in (*text.split("\n"), ""):
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += f"\n{line}"
        elif match := _FIELD.match(line):
            last = match[1].lower()
            fields[last] = match[2]


def installed(status: str) -> tuple[Installed, ...]:
    """The packages that are installed according to a status file of dpkg, by name."""
    found = [
        Installed(fields["package"], fields.get("version", ""), fields.get("architecture", ""))
        for fields in stanzas(status)
        if "package" in fields and fields.get("status", "").split()[2:] == ["installed"]
    ]
    return tuple(sorted(found, key=lambda package: (package.name, package.architecture)))


def architecture_of(status: str) -> str:
    """The architecture of a system: that of its dpkg; empty if it has none."""
    return next((one.architecture for one in installed(status) if one.name == "dpkg"), "")


def installed_size(shown: str) -> int:
    """The bytes that packages take when they are installed, by the output of ``apt-cache show``."""
    sizes = (fields.get("installed-size", "0") for fields in stanzas(shown))
    return sum(int(size) for size in sizes if size.isascii() and size.isdigit()) * 1024


def with_automatic(states: str, packages: Iterable[Installed]) -> str:
    """apt's extended_states with ``packages`` marked as installed automatically, so that autoremove works."""
    known = {(fields.get("package"), fields.get("architecture")) for fields in stanzas(states)}
    text = states if not states or states.endswith("\n\n") else f"{states.rstrip()}\n\n"
    for package in packages:
        if (package.name, package.architecture) not in known:
            text += f"Package: {package.name}\nArchitecture: {package.architecture}\nAuto-Installed: 1\n\n"
    return text


def with_keys(sources: str, deb822: bool, here: Callable[[str], str | None]) -> str:
    """A file of apt's sources with each key file that it names replaced by a copy.

    ``here`` returns the copy of a path of the image; None leaves the path out, which makes apt refuse the
    source. A fingerprint, or a key in the file itself, stays.
    """
    if not deb822:
        return _SIGNED_BY.sub(lambda match: match[1] + _copies(match[2].split(","), here), sources)
    lines = []
    for line in sources.split("\n"):
        match = _FIELD.match(line)
        named = match[2].strip() if match and match[1].lower() == "signed-by" else ""
        copies = _copies(re.split(r"[,\s]+", named), here) if named.startswith("/") else ""
        lines.append(f"Signed-By: {copies}" if copies else line)
    return "\n".join(lines)


def _copies(names: Sequence[str], here: Callable[[str], str | None]) -> str:
    copies = (here(name) if name.startswith("/") else name for name in names)
    return ",".join(copy for copy in copies if copy) or "/nonexistent.gpg"
