"""`piimg export`: files that let the user's own machine reach the cluster."""

from pathlib import Path

import click

from imagebuilder import export as files
from imagebuilder.cli.output import echo
from imagebuilder.cli.secrets import public_keys
from imagebuilder.cli.session import Session
from imagebuilder.errors import UsageError
from imagebuilder.keys.credentials import login_key_file, public_host_keys

EXAMPLES = """\b
Examples:
  piimg export ssh-config > ~/.ssh/picluster.conf
  piimg export known-hosts > ~/.ssh/picluster.known_hosts
  piimg export ssh-config --via 192.168.1.50 > ~/.ssh/picluster.conf
  piimg export ansible-inventory > inventory.yaml
  piimg export hosts | sudo tee -a /etc/hosts
"""

SSH_CONFIG, KNOWN_HOSTS, HOSTS, INVENTORY = "ssh-config", "known-hosts", "hosts", "ansible-inventory"
TAKES = {"--via": (SSH_CONFIG, KNOWN_HOSTS), "--known-hosts": (SSH_CONFIG,)}
"""The files for which each option is valid."""


@click.command("export", epilog=EXAMPLES, short_help="Print what your own machine needs: ssh, Ansible.")
@click.argument("what", type=click.Choice([SSH_CONFIG, KNOWN_HOSTS, HOSTS, INVENTORY]))
@click.option(
    "--via",
    metavar="HOST[:PORT]",
    help="Where ssh reaches the gateway: a name or an address (default: GATEWAY.local).",
)
@click.option(
    "--known-hosts",
    metavar="FILE",
    help="The file with the host keys, for ssh (default: ~/.ssh/CLUSTER.known_hosts).",
)
@click.pass_obj
def export(session: Session, what: str, via: str | None, known_hosts: str | None) -> None:
    """Print a file that lets your own machine reach the nodes.

    \b
    ssh-config         each node by its name, the workers through the gateway
    known-hosts        the nodes' host keys; ssh accepts no others
    ansible-inventory  all nodes, grouped by role; needs the two files above
    hosts              for /etc/hosts of a machine on the cluster's own LAN

    Your machine is on the gateway's uplink side, usually the Wi-Fi at home. The
    gateway is found there as GATEWAY.local (multicast DNS), or at --via.
    ssh reads the file when ~/.ssh/config begins with "Include picluster.conf".
    """
    for option, given in (("--via", via), ("--known-hosts", known_hosts)):
        if given is not None and what not in TAKES[option]:
            raise UsageError(
                f"{option} is not valid for {what}", f"use it with {' and '.join(TAKES[option])}"
            )
    echo(_text(session, what, via, known_hosts), nl=False)


def _text(session: Session, what: str, via: str | None, known_hosts: str | None) -> str:
    cluster = session.cluster
    if what == HOSTS:
        return files.hosts(cluster)
    if what == INVENTORY:
        return files.ansible_inventory(cluster)
    keys = session.workspace.keys()
    gateway = files.default_via(cluster) if via is None else files.via(via)
    if what == KNOWN_HOSTS:
        return files.known_hosts(cluster, public_host_keys(cluster, keys), gateway)
    login_key = login_key_file(cluster, keys, public_keys())
    return files.ssh_config(cluster, gateway, _place(session, known_hosts), login_key)


def _place(session: Session, known_hosts: str | None) -> str:
    """The path of the known hosts, valid in every folder where ssh is started."""
    if known_hosts is None:
        return files.default_known_hosts(session.cluster)
    return known_hosts if known_hosts.startswith("~") else str(Path(known_hosts).absolute())
