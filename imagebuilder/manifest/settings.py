"""The shape of the settings that the cluster, a role and a node can have.

Lists and tables of the three levels are joined, cluster first; of single values the nearest level counts.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator

from imagebuilder.settings import MODEL_FILTERS, HeaderInterface, Journal
from imagebuilder.text import did_you_mean

_SHOWN = 60  # characters of a value in a message
_LINE_LIMIT = 98  # characters; the firmware ignores the rest of a line ("What is config.txt?")
_FILTERS = re.compile(
    r"all|none|tryboot|gpio[0-9]{1,2}=[01]|HDMI:[01]|0x[0-9a-fA-F]{1,16}|board-type=0x[0-9a-fA-F]{1,2}"
    r"|EDID=[A-Za-z0-9_.-]{1,20}"
)
_SOURCE = re.compile(r"[A-Za-z0-9/][!#-&(-\[\]-~]{0,254}")
_FOLDER = re.compile(r"(/[A-Za-z0-9._-]+)+")
_OPTION = re.compile(r"[!#-&(-+\--\[\]-~]+")  # printable ASCII without blanks, quotes, commas and backslashes
_SYSTEM_FOLDERS = frozenset(
    [
        "boot",
        "proc",
        "sys",
        "dev",
        "run",
        "etc",
        "usr",
        "bin",
        "sbin",
        "lib",
        "lib32",
        "lib64",
        "root",
        "lost+found",
    ]
)
_SYSTEM_PATHS = frozenset(["/home", "/var", "/var/lib"])
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9_]*(:[0-9])?=.*|initramfs \S+ \S+|include \S+")


def _filter(value: str) -> str:
    if value in MODEL_FILTERS or _FILTERS.fullmatch(value):
        return value
    meant = did_you_mean(value.strip("[]").lower(), (*MODEL_FILTERS, "all", "none", "tryboot"))
    raise ValueError(f"{value[:_SHOWN]!r} is not a filter of config.txt such as all, pi4 or cm5{meant}")


def _config_line(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError("has a character that is not printable ASCII, which the firmware cannot read")
    if value.startswith("["):
        raise ValueError(
            f'{value[:_SHOWN]!r} is a filter: write it as the key, such as pi4 = ["arm_boost=1"]'
        )
    if not _SETTING.fullmatch(value):
        raise ValueError(f'{value[:_SHOWN]!r} is not a line of config.txt such as "arm_boost=1"')
    if len(value) > _LINE_LIMIT:
        raise ValueError(f"is longer than {_LINE_LIMIT} characters, and the firmware ignores the rest")
    return value


def _header_interface(value: object) -> HeaderInterface:
    known = [each.value for each in HeaderInterface]
    if isinstance(value, str) and value in known:
        return HeaderInterface(value)
    meant = did_you_mean(value, known) if isinstance(value, str) else ""
    raise ValueError(f"takes {', '.join(known)}{meant}")


def _port(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 16:
        raise ValueError("takes a port number from 1 to 65535, such as 2222")
    return value


def _file(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("takes text in quotes")
    if not value or not value.isprintable() or value.startswith("~"):
        raise ValueError(f"{value[:_SHOWN]!r} is not the path of a file, relative to the manifest")
    return value


def _root_size(value: object) -> int:
    """The size in MiB."""
    size = re.fullmatch(r"([1-9][0-9]{0,6})([MG])", value, re.ASCII) if isinstance(value, str) else None
    mib = int(size[1]) * (1024 if size[2] == "G" else 1) if size else 0
    if not 2 << 10 <= mib <= 2 << 20:
        raise ValueError('takes a size from "2G" to "2048G" such as "8G"')
    return mib


def _source(value: str) -> str:
    if not _SOURCE.fullmatch(value):
        raise ValueError(
            f"{value[:_SHOWN]!r} is not what can be mounted, such as UUID=…, LABEL=data, /dev/sda1, "
            "10.0.0.1:/srv/share, //nas/share or tmpfs (no blanks)"
        )
    return value


def _mount_point(value: str) -> str:
    if not _FOLDER.fullmatch(value) or {".", ".."} & {*value.split("/")}:
        raise ValueError(f"{value[:_SHOWN]!r} is not an absolute path of A-Z, a-z, 0-9, '.', '_' and '-'")
    first = value.split("/")[1]
    if first in _SYSTEM_FOLDERS or value in _SYSTEM_PATHS:
        raise ValueError(f"{value} is a folder of the system: mount it elsewhere, such as /srv/data")
    return value


def _file_system(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,30}", value):
        raise ValueError(f"{value[:_SHOWN]!r} is not the type of a file system, such as ext4 or nfs4")
    return value


def _option(value: str) -> str:
    if not _OPTION.fullmatch(value):
        raise ValueError(f"{value[:_SHOWN]!r} is not one option of mount(8), such as noatime")
    if re.match("pass(word2?)?=", value):
        raise ValueError(
            "everybody can read fstab: name a file with the password, credentials=FILE, in a layer"
        )
    return value


ConfigFilter = Annotated[str, AfterValidator(_filter)]
ConfigLine = Annotated[str, AfterValidator(_config_line)]


class MountShape(BaseModel):
    """``[[cluster.mount]]``, ``[[role.NAME.mount]]`` or ``[[node.mount]]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, AfterValidator(_source)]
    path: Annotated[str, AfterValidator(_mount_point)]
    type: Annotated[str, AfterValidator(_file_system)]
    options: list[Annotated[str, AfterValidator(_option)]] = []


class SettingsShape(BaseModel):
    """The settings of ``[cluster]``, ``[role.NAME]`` and ``[[node]]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: dict[ConfigFilter, list[ConfigLine]] = {}
    root_size: Annotated[int, PlainValidator(_root_size)] | None = None
    data: Annotated[str, AfterValidator(_mount_point)] | None = None
    mount: list[MountShape] = []
    ca_certificates: list[Annotated[str, PlainValidator(_file)]] = []
    ssh_port: Annotated[int, PlainValidator(_port)] | None = None
    journal: Journal | None = None
    interfaces: list[Annotated[HeaderInterface, PlainValidator(_header_interface)]] = []
