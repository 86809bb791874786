"""netplan files and NetworkManager profiles: which interface each sets up, and how. No I/O.

Files are not trusted: size and depth are bounded, aliases are refused (a few lines can expand to gigabytes),
and every value stays the text that is in the file.

Sources: netplan's YAML reference (netplan.readthedocs.io), nm-settings-keyfile(5), and libnetplan's
``src/parse-nm.c``, which makes a ``90-NM-UUID.yaml`` of a profile and keeps under ``passthrough`` what
netplan has no word for.
"""

import configparser
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import yaml

FOLDER = "/etc/netplan"
LIMIT = 64 << 10  # bytes of a file; those of NetworkManager have about 1,000
COUNT_LIMIT = 256  # files in the folder
_DEPTH = 16  # levels of nodes; netplan's own files have nine

_PHYSICAL = ("ethernets", "wifis", "modems", "nm-devices")
_VIRTUAL = ("bonds", "bridges", "vlans", "vrfs", "tunnels", "dummy-devices", "virtual-ethernets")
_YES = ("true", "yes", "on", "y")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SECTIONS = {"802-3-ethernet": "ethernet", "802-11-wireless": "wifi"}
_SECTIONS |= {"802-11-wireless-security": "wifi-security"}


class NotUnderstoodError(ValueError):
    """A file cannot be parsed; the message is the reason, in a few words."""


@dataclass(frozen=True)
class Settings:
    """The settings of an interface in a profile. ``gateway`` is empty without a default route, ``network``
    (the SSID as bytes) without Wi-Fi."""

    uuid: str
    interface: str
    method: str
    addresses: tuple[str, ...]
    gateway: str
    servers: tuple[str, ...]
    network: bytes = b""
    key: str = field(default="", repr=False)

    @property
    def words(self) -> str:
        """The settings in words, without the Wi-Fi key."""
        said = ", ".join(self.addresses) if self.method == "manual" else f"method {self.method}"
        said += f" via {self.gateway}" if self.gateway else ""
        said += f", name servers {' '.join(self.servers)}" if self.servers else ""
        shown = self.network.decode("utf-8", "replace")
        return f"{self.interface}: {said}" + (f", Wi-Fi {shown}" if shown else "")


@dataclass(frozen=True)
class Definition:
    """An interface definition of a netplan file: its kind (``ethernets``, …), its id and its content."""

    kind: str
    id: str
    said: Mapping[str, Any]

    @property
    def uuid(self) -> str:
        """The UUID of the NetworkManager profile from which it was made; empty if there is none."""
        said = _mapping(self.said, "networkmanager").get("uuid") or self.id.removeprefix("NM-")
        return said.lower() if isinstance(said, str) and _UUID.fullmatch(said) else ""

    def sets_up(self, interface: str) -> bool:
        """Whether it sets up ``interface``, or may: MACs and drivers are known only on the machine."""
        if self.kind in _VIRTUAL:
            return interface in (self.id, *_texts(self.said.get("interfaces")))
        named = _mapping(self.said, "networkmanager", "passthrough").get("connection.interface-name")
        if isinstance(named, str):
            return named == interface
        if not isinstance(self.said.get("match"), dict):
            return self.id == interface
        if patterns := _texts(self.said["match"].get("name")):
            return any(fnmatchcase(interface, pattern) for pattern in patterns)
        if isinstance(name := self.said.get("set-name"), str):
            return name == interface
        return self.kind == ("wifis" if interface.startswith("wl") else "ethernets")

    @property
    def settings(self) -> Settings:
        """Its settings: those of netplan, overridden by those in ``passthrough`` for NetworkManager."""
        said, match = self.said, _mapping(self.said, "match")
        values = {"connection.uuid": self.uuid, "connection.interface-name": self.id}
        if isinstance(name := match.get("name"), str):
            values["connection.interface-name"] = name
        addresses = [text for text in _texts(said.get("addresses")) if ":" not in text]
        values |= {f"ipv4.address{number}": text for number, text in enumerate(addresses, start=1)}
        lent = str(said.get("dhcp4", "")).lower() in _YES
        values["ipv4.method"] = "auto" if lent else "manual" if addresses else "disabled"
        values["ipv4.gateway"] = next(_gateways(said), "")
        values["ipv4.dns"] = ";".join(_texts(_mapping(said, "nameservers").get("addresses")))
        for ssid, point in _mapping(said, "access-points").items():
            auth = _mapping(point, "auth") if isinstance(point, dict) else {}
            password = auth.get("password", point.get("password") if isinstance(point, dict) else None)
            values |= {"wifi.ssid": str(ssid), "wifi-security.psk": str(password or "")}
            values |= _texts_of(_mapping(point, "networkmanager", "passthrough"))
        return _settings(values | _texts_of(_mapping(said, "networkmanager", "passthrough")))


def definitions(raw: bytes) -> tuple[Definition, ...]:
    """The interface definitions of a netplan file. Raises NotUnderstoodError."""
    network = _mapping(_document(raw), "network")
    return tuple(
        Definition(kind, str(name), said)
        for kind in (*_PHYSICAL, *_VIRTUAL)
        for name, said in _mapping(network, kind).items()
        if isinstance(said, dict)
    )


def sets_up(raw: bytes, interfaces: Sequence[str]) -> tuple[str, ...]:
    """Those of ``interfaces`` that a netplan file sets up, or may. Raises NotUnderstoodError."""
    parsed = definitions(raw)
    return tuple(name for name in interfaces if any(definition.sets_up(name) for definition in parsed))


def keyfile(raw: bytes) -> Settings:
    """The settings in a keyfile of NetworkManager. Raises NotUnderstoodError."""
    parser = configparser.RawConfigParser(
        delimiters=("=",), comment_prefixes=("#",), strict=False, default_section=""
    )
    try:
        parser.read_string(raw[: LIMIT + 1].decode())
    except (UnicodeDecodeError, configparser.Error) as error:
        raise NotUnderstoodError("no keyfile of NetworkManager") from error
    values = {
        f"{_SECTIONS.get(section, section)}.{key}": value
        for section in parser.sections()
        for key, value in parser.items(section)
    }
    return _settings(values)


def _settings(values: Mapping[str, str]) -> Settings:
    """The settings from values by their names in a keyfile, such as ``ipv4.address1``."""
    addresses, gateway = [], values.get("ipv4.gateway", "")
    for key in sorted(key for key in values if re.fullmatch(r"ipv4\.address(es)?[0-9]+", key)):
        address, _, way = values[key].partition(",")
        addresses.append(address.strip())
        gateway = gateway or way.strip()
    for key in sorted(key for key in values if re.fullmatch(r"ipv4\.routes?[0-9]+", key)):
        target, _, way = values[key].partition(",")
        if target.strip() == "0.0.0.0/0":
            gateway = gateway or way.partition(",")[0].strip()
    if values.get("ipv4.never-default", "").lower() in _YES:
        gateway = ""
    servers = re.split(r"[;, ]+", values.get("ipv4.dns", "").strip("; ,"))
    return Settings(
        uuid=values.get("connection.uuid", "").lower(),
        interface=values.get("connection.interface-name", ""),
        method=values.get("ipv4.method", ""),
        addresses=tuple(addresses),
        gateway=gateway,
        servers=tuple(filter(None, servers)),
        network=_ssid(values.get("wifi.ssid", "")),
        key=values.get("wifi-security.psk", ""),
    )


def _ssid(value: str) -> bytes:
    """The bytes of an SSID, which a keyfile has as text or as ``72;111;109;101;``."""
    numbers = value.split(";")[:-1]
    if re.fullmatch(r"([0-9]{1,3};)+", value, re.ASCII) and all(int(number) < 256 for number in numbers):
        return bytes(map(int, numbers))
    return value.replace("\\;", ";").encode()


def _gateways(said: Mapping[str, Any]) -> Iterator[str]:
    routes = said.get("routes")
    for route in routes if isinstance(routes, list) else []:
        if isinstance(route, dict) and route.get("to") in ("default", "0.0.0.0/0"):
            yield str(route.get("via", ""))
    if isinstance(said.get("gateway4"), str):
        yield said["gateway4"]


# --- the document -------------------------------------------------------------------------------------------


class _Loader(yaml.BaseLoader):
    """A YAML loader that keeps all values as text, refuses aliases and bounds the depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise NotUnderstoodError("has aliases")
        self.depth += 1
        if self.depth > _DEPTH:
            raise NotUnderstoodError("is nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _document(raw: bytes) -> Mapping[str, Any]:
    if len(raw) > LIMIT:
        raise NotUnderstoodError(f"has more than {LIMIT >> 10} KiB")
    try:
        found = yaml.load(raw, _Loader)
    except NotUnderstoodError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotUnderstoodError("is no YAML") from error
    if found in (None, ""):
        return {}
    if not isinstance(found, dict):
        raise NotUnderstoodError("is no netplan file")
    return found


def _mapping(said: object, *keys: str) -> Mapping[str, Any]:
    """The mapping below ``keys``; empty if there is none."""
    for key in keys:
        said = said.get(key) if isinstance(said, dict) else None
    return said if isinstance(said, dict) else {}


def _texts(said: object) -> list[str]:
    """The texts of a value or a list; an address of netplan may be a mapping with the address as its key."""
    if isinstance(said, str):
        return [said]
    listed = said if isinstance(said, list) else []
    return [
        text
        for item in listed
        for text in (item if isinstance(item, dict) else [item])
        if isinstance(text, str)
    ]


def _texts_of(said: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in said.items() if isinstance(value, str)}
