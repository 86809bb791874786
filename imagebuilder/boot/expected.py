"""The expected state of a booted node: from the cluster manifest, the plan and the public keys.

Nothing here is read from a node image, because the node image is what is checked.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from imagebuilder.boot.facts import Mode
from imagebuilder.image import netplan
from imagebuilder.model import HOME, Cluster, Credentials, Entry, Kind, Node, NodePlan, Partition
from imagebuilder.settings import CA_CERTIFICATES

FIRSTBOOT = "/usr/local/lib/piimg/firstboot.d"
PROFILES = "/etc/NetworkManager/system-connections"
_UNIT = re.compile(
    r"/etc/systemd/system/(?P<wants>[^/]+\.wants/)?(?P<name>[^/]+\.(?:service|socket|timer|path|mount|target))"
)
_PUBLIC_MODES = (0o644, 0o755)


@dataclass(frozen=True)
class Surroundings:
    """Where the node was booted: whether its cluster's ``gateway`` and the ``internet`` are reachable."""

    gateway: bool = False
    internet: bool = False


@dataclass(frozen=True)
class PlannedScript:
    """A first-boot script of the plan, the need that it declares, and its layer."""

    name: str
    needs: str
    layer: str


@dataclass(frozen=True)
class Expected:
    """The expected state of one node. It contains no private keys.

    ``host_keys`` are by node, "ssh-ed25519 AAAA…"; ``password`` is the sha256 of the password hash, hex;
    ``base_disk_id`` is the disk id of the base image, which no booted node keeps (empty: not known).
    """

    cluster: Cluster
    plan: NodePlan
    host_keys: Mapping[str, str]
    authorized_keys: tuple[str, ...]
    password: str = field(repr=False)
    base_disk_id: str = ""
    account_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    around: Surroundings = Surroundings()

    @property
    def node(self) -> Node:
        """The node itself."""
        return self.plan.node

    @property
    def gateway(self) -> Node | None:
        """The node that is the cluster's gateway; None if there is none."""
        return self.cluster.gateway_node

    @property
    def is_gateway(self) -> bool:
        """Whether this node is the gateway."""
        return self.cluster.is_gateway(self.node)

    @property
    def boot_mount(self) -> str:
        """The mount point of the boot partition."""
        return self.plan.release.facts.boot_mount

    @property
    def ca_certificates(self) -> tuple[str, ...]:
        """The files with certificates of the manifest."""
        files = _root_files(self.plan)
        return tuple(entry.path for entry in files if entry.path.startswith(f"{CA_CERTIFICATES}/piimg-"))

    @property
    def scripts(self) -> tuple[PlannedScript, ...]:
        """The first-boot scripts, in the order they run."""
        entries = [entry for entry in _root_files(self.plan) if entry.path.startswith(f"{FIRSTBOOT}/")]
        return tuple(
            PlannedScript(PurePosixPath(entry.path).name, _needs(entry.content), entry.layer)
            for entry in entries
        )

    @property
    def runnable(self) -> tuple[str, ...]:
        """The names of the scripts that can run here: a script that cannot run blocks those after it."""
        names = []
        for script in self.scripts:
            if self.missing(script.needs):
                break
            names.append(script.name)
        return tuple(names)

    def missing(self, needs: str) -> str:
        """What a script with these needs waits for here, in words; empty when it need not wait."""
        if needs == "lan" and self.gateway and not (self.around.gateway or self.is_gateway):
            return "the gateway"
        if needs == "internet" and not self.around.internet:
            return "the internet"
        if needs == "time" and not self.around.internet:
            return "the time, which comes from the internet"
        return ""

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that are named for the node."""
        return tuple(self.plan.software.packages)

    @property
    def complete_layers(self) -> frozenset[str]:
        """The layers that bring what they need in the image: packages, build scripts or downloads."""
        software = self.plan.software
        places = {place for places in software.packages.values() for place in places}
        return frozenset(
            {layer for layer in self.plan.layers if f"layer {layer}" in places}
            | {script.layer for script in software.scripts}
            | {entry.layer for entry in self.plan.entries if entry.download}
        )

    @property
    def profiles(self) -> frozenset[str]:
        """The UUIDs of the profiles that the plan gives NetworkManager for the LAN."""
        keyfiles = [
            entry.content for entry in _root_files(self.plan) if entry.path.startswith(f"{PROFILES}/")
        ]
        profiles = [_settings(keyfile) for keyfile in keyfiles]
        own = [profile for profile in profiles if profile and profile.interface == self.node.interface]
        return frozenset(profile.uuid for profile in own)

    @property
    def units(self) -> tuple[str, ...]:
        """The cluster's units: those the plan writes or enables, and those that its settings depend on."""
        required = ["ssh.service", self.plan.release.facts.network.units[0]]
        planned = [match["name"] for entry in self.plan.entries if (match := _unit(entry))]
        return tuple(dict.fromkeys([*required, *planned]))

    @property
    def enabled(self) -> frozenset[str]:
        """Those of ``units`` that the plan enables."""
        return frozenset(m["name"] for entry in self.plan.entries if (m := _unit(entry)) and m["wants"])

    @property
    def modes(self) -> Mapping[str, Mode]:
        """Modes by path, for each secret and each unusual mode that the plan sets in the root partition."""
        modes = {}
        for entry in self.plan.entries:
            kinds = entry.kind in (Kind.FILE, Kind.DIRECTORY)
            private = entry.secret or entry.mode not in _PUBLIC_MODES
            if entry.partition is Partition.ROOT and kinds and private:
                modes[self._at_home(entry.path)] = Mode(entry.mode, entry.uid, entry.gid)
        return modes

    def _at_home(self, path: str) -> str:
        """The path on the node for a path of the plan: the first boot renames the account and its home."""
        inside = path == HOME or path.startswith(f"{HOME}/")
        return f"/home/{self.cluster.user.name}{path.removeprefix(HOME)}" if inside else path


def expect(
    cluster: Cluster,
    plan: NodePlan,
    credentials: Credentials,
    base_disk_id: str = "",
    around: Surroundings = Surroundings(),  # frozen
) -> Expected:
    """The expected state of the node of ``plan``. Only the public keys of the credentials are kept."""
    return Expected(
        cluster,
        plan,
        {name: public_key(pair.public) for name, pair in credentials.host_keys.items()},
        credentials.authorized_keys,
        hashlib.sha256(credentials.password_hash.encode()).hexdigest(),
        base_disk_id,
        credentials.account_keys,
        around,
    )


def public_key(line: str) -> str:
    """Type and key of a public key line, without its comment."""
    return " ".join(line.split()[:2])


def _settings(keyfile: bytes) -> netplan.Settings | None:
    try:
        return netplan.keyfile(keyfile)
    except netplan.NotUnderstoodError:
        return None  # a layer of the user may contain any keyfile


def _root_files(plan: NodePlan) -> list[Entry]:
    files = [e for e in plan.entries if e.partition is Partition.ROOT and e.kind is Kind.FILE]
    return sorted(files, key=lambda entry: entry.path)


def _unit(entry: Entry) -> "re.Match[str] | None":
    """The match for a unit that the entry writes (a file) or enables (a link in a target's folder)."""
    found = _UNIT.fullmatch(entry.path) if entry.partition is Partition.ROOT else None
    return found if found and entry.kind is (Kind.LINK if found["wants"] else Kind.FILE) else None


def _needs(content: bytes) -> str:
    """The need a script declares among its first twenty lines, read as piimg-firstboot does."""
    for line in content.split(b"\n")[:20]:
        if found := re.fullmatch(rb"# *needs: *([a-z0-9]*) *", line):
            return found[1].decode() or "none"
    return "none"
