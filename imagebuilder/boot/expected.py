"""What a booted node should be: from the cluster manifest, the plan and the public halves of the credentials.

Nothing here is read from a node image: that is what is to be proven.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from imagebuilder.boot.facts import Mode
from imagebuilder.image import netplan
from imagebuilder.model import HOME, Cluster, Credentials, Entry, Kind, Node, NodePlan, Partition

FIRSTBOOT = "/usr/local/lib/piimg/firstboot.d"
PROFILES = "/etc/NetworkManager/system-connections"
_UNIT = re.compile(
    r"/etc/systemd/system/(?P<wants>[^/]+\.wants/)?(?P<name>[^/]+\.(?:service|socket|timer|path|mount|target))"
)
_PUBLIC_MODES = (0o644, 0o755)


@dataclass(frozen=True)
class Surroundings:
    """What there is where the node was booted: its cluster's ``gateway``; a way to the ``internet``."""

    gateway: bool = False
    internet: bool = False


@dataclass(frozen=True)
class PlannedScript:
    """A first-boot script the plan gives the node, and what it says it needs."""

    name: str
    needs: str


@dataclass(frozen=True)
class Expected:
    """What one node should be. Only public halves of keys are in it.

    ``host_keys`` are by node, "ssh-ed25519 AAAA…"; ``password`` is the sha256 of the password hash, hex;
    ``base_disk_id`` is the disk id the node image came with, which no booted node keeps (empty: not known).
    """

    cluster: Cluster
    plan: NodePlan
    host_keys: Mapping[str, str]
    authorized_keys: tuple[str, ...]
    password: str = field(repr=False)
    base_disk_id: str = ""
    around: Surroundings = Surroundings()

    @property
    def node(self) -> Node:
        """The node itself."""
        return self.plan.node

    @property
    def gateway(self) -> Node:
        """The node that is the cluster's gateway."""
        return self.cluster.node(self.cluster.gateway.node)

    @property
    def is_gateway(self) -> bool:
        """Whether this node is it."""
        return self.node.name == self.gateway.name

    @property
    def boot_mount(self) -> str:
        """Where the boot partition is mounted."""
        return self.plan.release.facts.boot_mount

    @property
    def scripts(self) -> tuple[PlannedScript, ...]:
        """The first-boot scripts, in the order they run."""
        found = [entry for entry in _root_files(self.plan) if entry.path.startswith(f"{FIRSTBOOT}/")]
        return tuple(PlannedScript(PurePosixPath(entry.path).name, _needs(entry.content)) for entry in found)

    @property
    def runnable(self) -> tuple[str, ...]:
        """The names of the scripts that can run where the node is: one that cannot holds up all behind it."""
        names = []
        for script in self.scripts:
            if self.missing(script.needs):
                break
            names.append(script.name)
        return tuple(names)

    def missing(self, needs: str) -> str:
        """What a script with these needs waits for where the node is, in words; empty when nothing."""
        if needs == "lan" and not (self.around.gateway or self.is_gateway):
            return "the gateway"
        if needs == "internet" and not self.around.internet:
            return "the internet"
        if needs == "time" and not self.around.internet:
            return "the time, which comes from the internet"
        return ""

    @property
    def profiles(self) -> frozenset[str]:
        """The UUIDs of the profiles that the plan gives NetworkManager for the LAN."""
        found = [one for one in _root_files(self.plan) if one.path.startswith(f"{PROFILES}/")]
        settings = [_settings(one.content) for one in found]
        return frozenset(one.uuid for one in settings if one and one.interface == self.node.interface)

    @property
    def units(self) -> tuple[str, ...]:
        """The units that are ours: what the plan puts there or enables, and what carries its settings."""
        carriers = ["ssh.service", self.plan.release.facts.network.units[0]]
        found = [match["name"] for entry in self.plan.entries if (match := _unit(entry))]
        return tuple(dict.fromkeys([*carriers, *found]))

    @property
    def enabled(self) -> frozenset[str]:
        """Those of them that the plan enables."""
        return frozenset(m["name"] for one in self.plan.entries if (m := _unit(one)) and m["wants"])

    @property
    def modes(self) -> Mapping[str, Mode]:
        """Of every path of the root partition that the plan does not give an everyday mode."""
        found = {}
        for entry in self.plan.entries:
            kinds = entry.kind in (Kind.FILE, Kind.DIRECTORY)
            private = entry.secret or entry.mode not in _PUBLIC_MODES
            if entry.partition is Partition.ROOT and kinds and private:
                found[self._at_home(entry.path)] = Mode(entry.mode, entry.uid, entry.gid)
        return found

    def _at_home(self, path: str) -> str:
        """Where a path of the plan is on the node: the first boot gives the account its name and its home."""
        inside = path == HOME or path.startswith(f"{HOME}/")
        return f"/home/{self.cluster.user.name}{path.removeprefix(HOME)}" if inside else path


def expect(
    cluster: Cluster,
    plan: NodePlan,
    credentials: Credentials,
    base_disk_id: str = "",
    around: Surroundings = Surroundings(),  # frozen
) -> Expected:
    """What ``plan`` should have made of its node. Of the credentials only public halves are kept."""
    return Expected(
        cluster,
        plan,
        {name: public_key(pair.public) for name, pair in credentials.host_keys.items()},
        credentials.authorized_keys,
        hashlib.sha256(credentials.password_hash.encode()).hexdigest(),
        base_disk_id,
        around,
    )


def public_key(line: str) -> str:
    """Type and key of a public key line, without its comment."""
    return " ".join(line.split()[:2])


def _settings(keyfile: bytes) -> netplan.Settings | None:
    try:
        return netplan.keyfile(keyfile)
    except netplan.NotUnderstoodError:
        return None  # a layer of somebody's own may put there what it likes


def _root_files(plan: NodePlan) -> list[Entry]:
    files = [e for e in plan.entries if e.partition is Partition.ROOT and e.kind is Kind.FILE]
    return sorted(files, key=lambda entry: entry.path)


def _unit(entry: Entry) -> "re.Match[str] | None":
    """The name of a unit that the entry puts there (a file), or enables (a link in a target's folder)."""
    found = _UNIT.fullmatch(entry.path) if entry.partition is Partition.ROOT else None
    return found if found and entry.kind is (Kind.LINK if found["wants"] else Kind.FILE) else None


def _needs(content: bytes) -> str:
    """The need a script declares among its first twenty lines, read as piimg-firstboot does."""
    for line in content.split(b"\n")[:20]:
        if found := re.fullmatch(rb"# *needs: *([a-z0-9]*) *", line):
            return found[1].decode() or "none"
    return "none"
