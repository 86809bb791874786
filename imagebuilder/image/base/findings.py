"""Findings: what an examination of a base image says of it, and what to do. Pure.

``KINDS`` has the name of every finding there is. docs/base-images.md has the same in one table, and a test
compares the two.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from imagebuilder.errors import PiimgError
from imagebuilder.model import Entry, Kind, Partition


class Weight(StrEnum):
    """What a finding means for a build."""

    REFUSED = "refused"  # the node could not boot, or nobody could log in
    WARNED = "warned"  # the node would differ from the manifest; piimg corrects it where it can


_REFUSED = (
    "layout",
    "cut-short",
    "boot-damaged",
    "boot-mtools",
    "root-damaged",
    "root-features",
    "root-larger",
    "journal",
    "release",
    "unreadable",
    "command-line",
    "root-name",
    "disk-id",
    "fstab-missing",
    "no-account",
    "no-home",
    "sshd",
    "no-network-program",
)
_WARNED = (
    "free-counts",
    "not-clean",
    "no-room",
    "fstab-device",
    "no-growth",
    "home",
    "machine-id",
    "random-seed",
    "other-network-program",
    "network-profile",
    "unmanaged",
    "netplan",
    "dhcpcd-block",
    "ifupdown",
    "interface-names",
    "imager",
    "imager-words",
    "cloud-init",
    "node-image",
)

KINDS: Mapping[str, Weight] = {
    **dict.fromkeys(_REFUSED, Weight.REFUSED),
    **dict.fromkeys(_WARNED, Weight.WARNED),
}
"""Every finding by name."""

LAYER = "base image"
"""What NODE.json has as the layer of an entry that corrects something in the base image."""


@dataclass(frozen=True)
class Finding:
    """One thing found in a base image: a name of ``KINDS``, a sentence, and what to do or what piimg does.

    ``entries`` correct it in each node image, before those of the overlay; the base image is never changed.
    """

    name: str
    sentence: str
    remedy: str
    entries: tuple[Entry, ...] = field(default=(), repr=False)

    @property
    def weight(self) -> Weight:
        """Refused or warned."""
        return KINDS[self.name]

    def document(self) -> dict[str, str]:
        """The finding as data, for `piimg inspect --json`."""
        return {
            "name": self.name,
            "weight": self.weight.value,
            "sentence": self.sentence,
            "remedy": self.remedy,
        }


def refusal(name: str, findings: Iterable[Finding]) -> PiimgError | None:
    """The error for the base image ``name`` with all it is refused for; None when that is nothing."""
    refused = [one for one in findings if one.weight is Weight.REFUSED]
    if not refused:
        return None
    if len(refused) == 1:
        (only,) = refused
        said = only.sentence if name in only.sentence else f"{name}: {only.sentence}"
        return PiimgError(said, only.remedy)
    lines = [f"{one.name}: {one.sentence}: {one.remedy}" for one in refused]
    return PiimgError(f"{name} cannot be used, for {len(refused)} reasons", "\n".join(lines))


def removal(partition: Partition, path: str) -> Entry:
    """The entry that takes ``path`` out of a node image."""
    return Entry(partition, path, Kind.REMOVE, LAYER, f"the examination of the {LAYER}", optional=True)


def rewriting(
    partition: Partition, path: str, content: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0
) -> Entry:
    """The entry that gives ``path`` of a node image another content."""
    source = f"the examination of the {LAYER}"
    return Entry(partition, path, Kind.FILE, LAYER, source, mode, uid, gid, content)
