"""Examination of a base image: network programs and settings that conflict with the manifest.

``interfaces`` are those that the manifest sets up; None means any, if there is no manifest.
"""

import re
from collections.abc import Callable, Iterator, Sequence, Set
from fnmatch import fnmatchcase

from imagebuilder.errors import PiimgError
from imagebuilder.image import netplan
from imagebuilder.image.base.findings import Finding, removal, rewriting
from imagebuilder.image.base.reader import BaseReader
from imagebuilder.image.base.units import absent, enabled
from imagebuilder.model import Entry, Partition, Release
from imagebuilder.networks import DHCPCD, NETWORK_MANAGER, NETWORK_STACKS, NetworkStack
from imagebuilder.overlay import sections
from imagebuilder.text import printable

Interfaces = Set[str] | None

OURS = "piimg-"  # the prefix of piimg's own profiles

_ROOT = Partition.ROOT
_PROFILES = "/etc/NetworkManager/system-connections"
_SUPPLICANT = "/etc/wpa_supplicant"
_DHCPCD = "/etc/dhcpcd.conf"
_RULES = "/etc/udev/rules.d"
_LINKS = "/etc/systemd/network"
_WIRED = ("ethernet", "802-3-ethernet")
_WIRELESS = ("wifi", "802-11-wireless")
_OUT = "removed from each node image"
_PROGRAMS = {stack.name: stack.units for stack in NETWORK_STACKS} | {
    "systemd-networkd": ("systemd-networkd.service",),
    "ConnMan": ("connman.service",),
}
"""The programs that may set up a network, and their units."""


def examine(reader: BaseReader, release: Release, interfaces: Interfaces) -> Iterator[Finding]:
    """The findings about the network."""
    stack = release.facts.network
    yield from _programs(reader, stack)
    yield from _ifupdown(reader, interfaces)
    yield from _interface_names(reader)
    if stack is DHCPCD:
        yield from _dhcpcd(reader, interfaces)
    elif stack is NETWORK_MANAGER:
        yield from _profiles(reader, interfaces)
        yield from _unmanaged(reader, interfaces)
        yield from _netplan(reader, release, interfaces)


def _programs(reader: BaseReader, stack: NetworkStack) -> Iterator[Finding]:
    own, units = stack.name, stack.units
    reasons = [absent(reader, unit, stack.program) for unit in units]
    masked = [reason for reason in reasons if reason.endswith("masked")]
    why = masked[0] if masked else "" if "" in reasons else reasons[0]
    running = {name for name, names in _PROGRAMS.items() if enabled(reader, *names)}
    if not why and own not in running:
        why = f"{units[0]} is not enabled"
    others = sorted(running - {own})
    if why and not others:
        yield Finding(
            "no-network-program",
            f"no program sets up the network: {why}",
            f"install {own} in the base image, or unmask and enable {units[0]} there",
        )
    elif others:
        also = (
            f"{why}, and {' and '.join(others)} is enabled"
            if why
            else f"{' and '.join(others)} is enabled as well"
        )
        yield Finding(
            "other-network-program",
            f"{also}; piimg sets up {own} on this release",
            f"let only {own} set up the network, or configure the other program in your own layer",
        )


# --- NetworkManager ----------------------------------------------------------------------------------------


def keyfile_of(content: bytes) -> dict[str, dict[str, str]]:
    """The keys of a GLib key file, by group; invalid lines are skipped. No I/O."""
    groups: dict[str, dict[str, str]] = {}
    keys: dict[str, str] = {}
    for line in content.decode("utf-8", "replace").split("\n"):
        text = line.strip()
        if header := re.fullmatch(r"\[([^][]*)\]", text):
            keys = groups.setdefault(header[1], {})
        elif "=" in text and not text.startswith(("#", ";")):
            name, _, value = text.partition("=")
            keys[name.strip()] = value.strip()
    return groups


def profile_concerns(content: bytes, interfaces: Interfaces) -> bool:
    """Whether a profile may set up one of ``interfaces`` automatically (nm-settings-keyfile(5)). No I/O."""
    connection = keyfile_of(content).get("connection", {})
    if connection.get("autoconnect", "").lower() in ("false", "no", "0"):
        return False
    interface = connection.get("interface-name", "")
    if interface:
        return interface != "lo" and (interfaces is None or interface in interfaces)
    return connection.get("type", "") in (*_WIRED, *_WIRELESS)


def _profiles(reader: BaseReader, interfaces: Interfaces) -> Iterator[Finding]:
    foreign = [
        path for path in reader.files(_PROFILES)
        if not path.startswith(f"{_PROFILES}/{OURS}") and profile_concerns(_text(reader, path), interfaces)
    ]  # fmt: skip
    if foreign:
        yield Finding(
            "network-profile",
            f"NetworkManager has other profiles for the manifest's interfaces: {_listed(foreign)}",
            _OUT,
            tuple(removal(_ROOT, path) for path in foreign),
        )


def devices_match(specs: str, interface: str) -> bool:
    """Whether a "Device List" of NetworkManager.conf(5) includes ``interface``. No I/O."""
    kind = "wifi" if interface.startswith("wl") else "ethernet"
    included = excepted = False
    for spec in re.split(r"[,;\s]+", specs):
        device, is_except = (spec[7:], True) if spec.startswith("except:") else (spec, False)
        if device.startswith("interface-name:"):
            matches = fnmatchcase(interface, device[15:].lstrip("=~"))
        else:
            matches = device in ("*", f"type:{kind}", interface)
        included, excepted = included or (matches and not is_except), excepted or (matches and is_except)
    return included and not excepted


def _unmanaged(reader: BaseReader, interfaces: Interfaces) -> Iterator[Finding]:
    folder = "/etc/NetworkManager/conf.d"
    paths = ["/etc/NetworkManager/NetworkManager.conf"]
    paths += [path for path in reader.files(folder) if path.endswith(".conf")]
    names = sorted(interfaces if interfaces is not None else ("eth0", "wlan0"))
    for path in paths:
        groups = keyfile_of(_text(reader, path))
        specs = [groups.get("keyfile", {}).get("unmanaged-devices", "")]
        specs += [
            keys.get("match-device", "*") for group, keys in groups.items()
            if group.startswith("device") and keys.get("managed", "").lower() in ("0", "false", "no")
        ]  # fmt: skip
        hit = [name for name in names if any(devices_match(spec, name) for spec in specs)]
        if hit:
            yield Finding(
                "unmanaged",
                f"{printable(path)} makes NetworkManager ignore {' and '.join(hit)}",
                "remove that line from the base image, or list the file under remove in your own layer",
            )


def _netplan(reader: BaseReader, release: Release, interfaces: Interfaces) -> Iterator[Finding]:
    """The finding about netplan files, which ``[netplan] clear`` of os-trixie removes from node images."""
    files = [path for path in reader.files(netplan.FOLDER) if path.endswith(".yaml")]
    foreign = [
        path for path in files[: netplan.COUNT_LIMIT] if may_set_up(_netplan_file(reader, path), interfaces)
    ]
    if foreign:
        yield Finding(
            "netplan",
            f"netplan sets up the manifest's interfaces: {_listed(foreign)}",
            "removed from the image of each node with such an interface"
            if release.facts.clears_netplan
            else "remove it from the base image, or list it under remove in your own layer",
        )


def _netplan_file(reader: BaseReader, path: str) -> bytes | None:
    try:
        return reader.read(path) or b""
    except PiimgError:
        return None


def may_set_up(content: bytes | None, interfaces: Interfaces) -> bool:
    """Whether a netplan file may set up one of ``interfaces``. None is an unreadable file: it may. No I/O."""
    if content is None:
        return True
    try:
        if interfaces is None:
            return bool(netplan.definitions(content))
        return bool(netplan.sets_up(content, sorted(interfaces)))
    except netplan.NotUnderstoodError:
        return True


# --- dhcpcd ------------------------------------------------------------------------------------------------


def without_blocks(content: bytes, interfaces: Interfaces) -> bytes:
    """dhcpcd.conf without blocks for ``interfaces`` and without lines that exclude them. No I/O.

    dhcpcd.conf(5): a block begins with "interface NAME" and ends at the next such line, "ssid" or "profile".
    Comments stay.
    """
    raw = content.splitlines(keepends=True)
    texts = [line.decode("utf-8", "replace") for line in raw]
    dropped: set[int] = set()
    for section in sections.sections(texts, "interface X"):
        words = section.heading.split()
        if words[:1] == ["interface"] and len(words) > 1 and (interfaces is None or words[1] in interfaces):
            own = range(section.start, section.end)
            dropped |= {at for at in own if texts[at].strip() and not texts[at].lstrip().startswith("#")}
    for at, text in enumerate(texts):
        word, *patterns = re.split(r"[\s,]+", text.strip())
        if word in ("denyinterfaces", "allowinterfaces") and interfaces is not None:
            named = {name for name in interfaces if any(fnmatchcase(name, pattern) for pattern in patterns)}
            if named != (set() if word == "denyinterfaces" else set(interfaces)):
                dropped.add(at)
    return b"".join(line for at, line in enumerate(raw) if at not in dropped)


_NETWORK_BLOCK = re.compile(
    rb"^[ \t]*network[ \t]*=[ \t]*\{.*?(?:^[ \t]*\}[^\n]*(?:\n|\Z)|\Z)", re.MULTILINE | re.DOTALL
)


def without_networks(content: bytes) -> bytes:
    """A wpa_supplicant.conf(5) without its network blocks. No I/O."""
    return _NETWORK_BLOCK.sub(b"", content)


def _dhcpcd(reader: BaseReader, interfaces: Interfaces) -> Iterator[Finding]:
    for path in reader.files(_SUPPLICANT):
        if path.endswith(".conf"):
            sentence = f"{printable(path)} has other wireless networks"
            yield from _cleaned(reader, path, without_networks, "network-profile", sentence)
    yield from _cleaned(
        reader,
        _DHCPCD,
        lambda content: without_blocks(content, interfaces),
        "dhcpcd-block",
        "dhcpcd.conf has other settings for the manifest's interfaces",
    )


# --- ifupdown, udev ----------------------------------------------------------------------------------------


def logical_lines(content: bytes) -> list[tuple[str, bytes]]:
    """The lines of a file with backslash continuation: each joined, and its raw bytes. No I/O."""
    lines: list[tuple[str, bytes]] = []
    texts: list[str] = []
    raws: list[bytes] = []
    for line in content.splitlines(keepends=True):
        part = line.decode("utf-8", "replace").rstrip("\r\n")
        carried = part.endswith("\\")
        texts.append(part[:-1] if carried else part)
        raws.append(line)
        if not carried:
            lines.append(("".join(texts), b"".join(raws)))
            texts, raws = [], []
    return [*lines, ("".join(texts), b"".join(raws))] if raws else lines


_STANZA = re.compile(
    r"\s*(iface|mapping|auto|allow-\S+|source|source-directory|no-auto-down|no-scripts)\s+(.*)"
)


def without_stanzas(content: bytes, interfaces: Interfaces) -> bytes:
    """An interfaces(5) file without the stanzas of ``interfaces``; that of the loopback stays. No I/O."""
    kept: list[bytes] = []
    dropping = False
    for text, raw in logical_lines(content):
        stanza = _STANZA.match(text)
        if stanza is None:
            comment = not text.strip() or text.lstrip().startswith("#")
            kept += [raw] if comment or not dropping else []
            continue
        word, names = stanza[1], stanza[2].split()
        dropped = [name for name in names if name != "lo" and (interfaces is None or name in interfaces)]
        dropping = word == "iface" and names[0] in dropped if names else False
        if word == "auto" or word.startswith("allow-"):
            left = [name for name in names if name not in dropped]
            kept += ([raw] if not dropped else [f"{word} {' '.join(left)}\n".encode()]) if left else []
        elif not dropping:
            kept.append(raw)
    return b"".join(kept)


def _ifupdown(reader: BaseReader, interfaces: Interfaces) -> Iterator[Finding]:
    """The findings about ifupdown: NetworkManager and Debian's dhcpcd ignore interfaces configured there."""
    folder = "/etc/network/interfaces.d"
    for path in ("/etc/network/interfaces", *reader.files(folder)):
        yield from _cleaned(
            reader,
            path,
            lambda content: without_stanzas(content, interfaces),
            "ifupdown",
            f"{printable(path)} sets up the manifest's interfaces, so that other programs ignore them",
        )


def without_names(content: bytes) -> bytes:
    """A file of udev(7) rules without those that name network interfaces. No I/O."""
    rules = logical_lines(content)
    return b"".join(raw for text, raw in rules if text.lstrip()[:1] == "#" or not _names_net(text))


def _names_net(rule: str) -> bool:
    return bool(re.search(r'SUBSYSTEM==\s*"net"', rule) and re.search(r'\bNAME:?=\s*"', rule))


def _interface_names(reader: BaseReader) -> Iterator[Finding]:
    """The findings about udev rules: one from another machine gives the name eth0 to its port only."""
    text = "{} renames network interfaces: eth0 may be another interface or missing"
    for path in reader.files(_RULES):
        if path.endswith(".rules"):
            sentence = text.format(printable(path))
            yield from _cleaned(reader, path, without_names, "interface-names", sentence)
    for path in reader.files(_LINKS):
        status = reader.stat(path)
        if not path.endswith(".link") or status is None or status.kind != "regular":
            continue
        if keyfile_of(_text(reader, path)).get("Link", {}).get("Name"):
            sentence = text.format(printable(path))
            yield Finding("interface-names", sentence, _OUT, (removal(_ROOT, path),))


def _cleaned(
    reader: BaseReader, path: str, clean: Callable[[bytes], bytes], name: str, sentence: str
) -> Iterator[Finding]:
    """A finding if ``clean`` changes the file at ``path``; node images get the cleaned file."""
    resolved = reader.resolve(path)
    before = _text(reader, path)
    after = clean(before)
    if resolved is None or after == before:
        return
    place, status = resolved
    rest = [line for line in after.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
    entry: Entry = (
        removal(_ROOT, place)
        if not rest and name == "interface-names"
        else rewriting(_ROOT, place, after, status.mode & 0o777, status.uid, status.gid)
    )
    yield Finding(name, sentence, _OUT, (entry,))


def _text(reader: BaseReader, path: str) -> bytes:
    """The content of a file; empty if it is missing, not a regular file, or too large."""
    try:
        return reader.read(path) or b""
    except PiimgError:
        return b""


def _listed(paths: Sequence[str], most: int = 3) -> str:
    shown = [printable(path.rpartition("/")[2]) for path in paths[:most]]
    more = len(paths) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
