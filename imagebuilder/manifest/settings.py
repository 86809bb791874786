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


ConfigFilter = Annotated[str, AfterValidator(_filter)]
ConfigLine = Annotated[str, AfterValidator(_config_line)]


class SettingsShape(BaseModel):
    """The settings of ``[cluster]``, ``[role.NAME]`` and ``[[node]]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: dict[ConfigFilter, list[ConfigLine]] = {}
    ca_certificates: list[Annotated[str, PlainValidator(_file)]] = []
    ssh_port: Annotated[int, PlainValidator(_port)] | None = None
    journal: Journal | None = None
    interfaces: list[Annotated[HeaderInterface, PlainValidator(_header_interface)]] = []
