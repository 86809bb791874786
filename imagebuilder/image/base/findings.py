"""Findings: the results of the examination of a base image, with what to do. No I/O.

``KINDS`` has the names of all findings. docs/base-images.md has them in a table; a test compares the two.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from imagebuilder.errors import PiimgError
from imagebuilder.model import Entry, Kind, Partition


class Weight(StrEnum):
    """The effect of a finding on a build."""

    REFUSED = "refused"  # the node could not boot, or login would be impossible
    WARNED = "warned"  # the node would differ from the manifest; piimg corrects it where possible


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
"""The weight of each finding, by name."""

LAYER = "base image"
"""The layer, in NODE.json, of an entry that corrects the base image."""


@dataclass(frozen=True)
class Finding:
    """A finding about a base image: a name of ``KINDS``, a sentence, and what to do or what piimg does.

    The sentence does not name the image: "it" is the image. ``entries`` correct it in each node image, before
    the entries of the overlay. The base image is never changed.
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
    """The error with all reasons to refuse the base image ``name``; None if there are none."""
    refused = [finding for finding in findings if finding.weight is Weight.REFUSED]
    if not refused:
        return None
    if len(refused) == 1:
        (only,) = refused
        return PiimgError(f"{name}: {only.sentence}", only.remedy)
    lines = [f"{finding.name}: {finding.sentence}: {finding.remedy}" for finding in refused]
    return PiimgError(f"{name} cannot be used, for {len(refused)} reasons", "\n".join(lines))


def removal(partition: Partition, path: str) -> Entry:
    """The entry that removes ``path`` from a node image."""
    return Entry(partition, path, Kind.REMOVE, LAYER, f"the examination of the {LAYER}", optional=True)


def rewriting(
    partition: Partition, path: str, content: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0
) -> Entry:
    """The entry that replaces the content of ``path`` in a node image."""
    source = f"the examination of the {LAYER}"
    return Entry(partition, path, Kind.FILE, LAYER, source, mode, uid, gid, content)
