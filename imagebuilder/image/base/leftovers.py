"""What somebody left on the boot partition for a first boot: settings by Imager, or by hand.

Sources: rpi-imager (what it writes for each init_format), raspberrypi-sys-mods and raspberrypi-net-mods (who
reads it), systemd-run-generator(8), kernel-command-line(7).
"""

import json
import re
from collections.abc import Iterator

from imagebuilder.image.base.findings import Finding, removal, rewriting
from imagebuilder.image.base.reader import BaseReader
from imagebuilder.image.base.starting import words_of
from imagebuilder.image.inspect import IDENTITY
from imagebuilder.model import Partition
from imagebuilder.text import printable

_BOOT = Partition.BOOT
_OUT = "taken out of each node image"

FILES = ("custom.toml", "firstrun.sh", "rpi-preseed.toml", "userconf", "wpa_supplicant.conf")
"""Files that a first boot reads: names, accounts and networks. userconf.txt is the overlay's own."""

_WORDS = re.compile(
    rb"systemd\.run(_success_action|_failure_action)?=.*|systemd\.unit=.*|systemd\.hostname=.*|ip=.*|ds=.*"
    rb"|cloud-init=.*|network-config=.*"
)
"""Words of cmdline.txt that have another program run, another name, or another network."""

_SHIPPED_KEYS = {"ssh_pwauth", "disable_piwiz"}
_KEY = re.compile(rb"^([A-Za-z_]+):", re.MULTILINE)
_NETWORK = re.compile(
    rb"^[ \t]*(wifis|addresses|access-points|password|gateway4|routes)[ \t]*:", re.MULTILINE
)


def examine(reader: BaseReader) -> Iterator[Finding]:
    """The findings of the boot partition's files."""
    identity = _identity(reader.boot_read(IDENTITY) or b"")
    if identity:
        yield Finding(
            "node-image",
            f"it is a node already, {identity}: what was put there and is not written anew stays",
            "start from the image that it was built from, if you can",
        )
    there = {name.lower(): name for name in reader.boot_names()}
    left = [there[name] for name in FILES if name in there]
    if left:
        yield Finding(
            "imager",
            f"the boot partition holds settings for a first boot: {', '.join(left)}",
            f"{_OUT}: names, accounts and networks are the manifest's",
            tuple(removal(_BOOT, f"/{name}") for name in left),
        )
    yield from _words(reader)
    yield from _cloud_init(reader)


def _identity(content: bytes) -> str:
    """Which node of which cluster an image says it is, in words; empty when it does not."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    node, cluster = (printable(str(document.get(key))) for key in ("node", "cluster"))
    return f"{node} of {cluster}"


def _words(reader: BaseReader) -> Iterator[Finding]:
    words = words_of(reader.boot_read("/cmdline.txt") or b"")
    theirs = [word for word in words if foreign_word(word)]
    if theirs:
        said = b" ".join(theirs).decode("utf-8", "replace")
        kept = b" ".join(word for word in words if not foreign_word(word)) + b"\n"
        yield Finding(
            "imager-words",
            f"cmdline.txt has words for a first boot: {printable(said)}",
            _OUT,
            (rewriting(_BOOT, "/cmdline.txt", kept),),
        )


def foreign_word(word: bytes) -> bool:
    """Whether a word of cmdline.txt is of somebody's own set-up. Pure."""
    return _WORDS.fullmatch(word) is not None


def does_something(name: str, content: bytes) -> bool:
    """Whether cloud-init's user-data or network-config says more than what the images ship. Pure."""
    if name == "network-config":
        return _NETWORK.search(content) is not None
    keys = {key.decode() for key in _KEY.findall(content)}
    return bool(keys - _SHIPPED_KEYS) or (content.startswith(b"#!") and not content.startswith(b"#cloud"))


def _cloud_init(reader: BaseReader) -> Iterator[Finding]:
    theirs = [
        name for name in ("user-data", "network-config")
        if does_something(name, reader.boot_read(f"/{name}") or b"")
    ]  # fmt: skip
    if theirs:
        yield Finding(
            "cloud-init",
            f"the boot partition holds settings for cloud-init: {' and '.join(theirs)}",
            f"{_OUT}: nobody would read them there, and they may hold passwords",
            tuple(removal(_BOOT, f"/{name}") for name in theirs),
        )
