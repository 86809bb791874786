"""Examination of a base image: first-boot settings on the boot partition, by Raspberry Pi Imager or by hand.

Sources: rpi-imager (the files for each init_format), raspberrypi-sys-mods and raspberrypi-net-mods (their
readers), systemd-run-generator(8), kernel-command-line(7).
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
_OUT = "removed from each node image"

FILES = ("custom.toml", "firstrun.sh", "rpi-preseed.toml", "userconf", "wpa_supplicant.conf")
"""Files that a first boot reads: names, accounts and networks. Not userconf.txt, which the overlay writes."""

_WORDS = re.compile(
    rb"systemd\.run(_success_action|_failure_action)?=.*|systemd\.unit=.*|systemd\.hostname=.*|ip=.*|ds=.*"
    rb"|cloud-init=.*|network-config=.*"
)
"""Words of cmdline.txt that run a program or set a name or a network."""

_SHIPPED_KEYS = {"ssh_pwauth", "disable_piwiz"}
_KEY = re.compile(rb"^([A-Za-z_]+):", re.MULTILINE)
_NETWORK = re.compile(
    rb"^[ \t]*(wifis|addresses|access-points|password|gateway4|routes)[ \t]*:", re.MULTILINE
)


def examine(reader: BaseReader) -> Iterator[Finding]:
    """The findings about the files of the boot partition."""
    identity = _identity(reader.boot_read(IDENTITY) or b"")
    if identity:
        yield Finding(
            "node-image",
            f"it is a node image already, {identity}: files that the overlay does not replace stay in it",
            "use the image that it was built from, if possible",
        )
    names = {name.lower(): name for name in reader.boot_names()}
    left = [names[name] for name in FILES if name in names]
    if left:
        yield Finding(
            "imager",
            f"the boot partition contains settings for a first boot: {', '.join(left)}",
            f"{_OUT}: the manifest defines names, accounts and networks",
            tuple(removal(_BOOT, f"/{name}") for name in left),
        )
    yield from _words(reader)
    yield from _cloud_init(reader)


def _identity(content: bytes) -> str:
    """Node and cluster in an image's identity file, in words; empty if it is invalid."""
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
    foreign = [word for word in words if foreign_word(word)]
    if foreign:
        shown = b" ".join(foreign).decode("utf-8", "replace")
        kept = b" ".join(word for word in words if not foreign_word(word)) + b"\n"
        yield Finding(
            "imager-words",
            f"cmdline.txt has words for a first boot: {printable(shown)}",
            _OUT,
            (rewriting(_BOOT, "/cmdline.txt", kept),),
        )


def foreign_word(word: bytes) -> bool:
    """Whether a word of cmdline.txt is from a custom setup. No I/O."""
    return _WORDS.fullmatch(word) is not None


def does_something(name: str, content: bytes) -> bool:
    """Whether cloud-init's user-data or network-config has more than the shipped settings. No I/O."""
    if name == "network-config":
        return _NETWORK.search(content) is not None
    keys = {key.decode() for key in _KEY.findall(content)}
    return bool(keys - _SHIPPED_KEYS) or (content.startswith(b"#!") and not content.startswith(b"#cloud"))


def _cloud_init(reader: BaseReader) -> Iterator[Finding]:
    changed = [
        name for name in ("user-data", "network-config")
        if does_something(name, reader.boot_read(f"/{name}") or b"")
    ]  # fmt: skip
    if changed:
        yield Finding(
            "cloud-init",
            f"the boot partition contains settings for cloud-init: {' and '.join(changed)}",
            f"{_OUT}: nodes do not use them, and they may contain passwords",
            tuple(removal(_BOOT, f"/{name}") for name in changed),
        )
