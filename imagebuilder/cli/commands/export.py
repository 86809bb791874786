"""`piimg export`: files for other programs: to reach the cluster, or to know what is in a node."""

from pathlib import Path

from imagebuilder import export as files
from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.builder import prepared_in
from imagebuilder.cli.output import echo
from imagebuilder.cli.secrets import public_keys
from imagebuilder.cli.session import Session, chosen_nodes
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image.prepared import PreparedFiles, read_record
from imagebuilder.keys.credentials import login_key_file, public_host_keys

KINDS = SSH_CONFIG, KNOWN_HOSTS, HOSTS, INVENTORY, SBOM = (
    *("ssh-config", "known-hosts", "hosts", "ansible-inventory", "sbom"),
)
TAKES = {"--via": (SSH_CONFIG, KNOWN_HOSTS), "--known-hosts": (SSH_CONFIG,), "--node": (SBOM,)}
"""The files for which each option is valid."""


def export(session: Session, what: str, via: str | None, known_hosts: str | None, node: str | None) -> None:
    """Run ``piimg export``, called as ``usage/export.py`` says."""
    for option, given in (("--via", via), ("--known-hosts", known_hosts), ("--node", node)):
        if given is not None and what not in TAKES[option]:
            raise UsageError(
                f"{option} is not valid for {what}", f"use it with {' and '.join(TAKES[option])}"
            )
    echo(_sbom(session, node) if what == SBOM else _text(session, what, via, known_hosts), nl=False)


def _text(session: Session, what: str, via: str | None, known_hosts: str | None) -> str:
    cluster = session.cluster
    if what == HOSTS:
        return files.hosts(cluster)
    if what == INVENTORY:
        return files.ansible_inventory(cluster)
    keys = session.workspace.keys(keep=False)
    gateway = files.default_via(cluster)
    if via is not None:
        if gateway is None:
            raise UsageError("the cluster has no gateway: each node is reached at its address", "omit --via")
        gateway = files.via(via, files.gateway_port(cluster))
    if what == KNOWN_HOSTS:
        return files.known_hosts(cluster, public_host_keys(cluster, keys), gateway)
    login_key = login_key_file(cluster, keys, public_keys())
    return files.ssh_config(cluster, gateway, _place(session, known_hosts), login_key)


def _place(session: Session, known_hosts: str | None) -> str:
    """The path of the known hosts, valid in every folder where ssh is started."""
    if known_hosts is None:
        return files.default_known_hosts(session.cluster)
    return known_hosts if known_hosts.startswith("~") else str(Path(known_hosts).absolute())


def _sbom(session: Session, name: str | None) -> str:
    """The SBOM of a node as it was prepared last."""
    from imagebuilder.dressing.bases import packages_in  # only here: they take long to load
    from imagebuilder.sbom import cyclonedx

    if not name:
        raise UsageError("no node is named", "name one with --node NAME")
    (node,) = chosen_nodes(session.cluster, (name,), False)
    record = read_record(PreparedFiles(prepared_in(session.cluster), node.name))
    if record is None:
        raise PiimgError(f"{node.name} is not prepared", f"run: piimg build --node {node.name}")
    packages = packages_in(record.document, Cache(default_folder()))
    return cyclonedx(record.document, packages) + "\n"
