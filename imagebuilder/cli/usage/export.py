"""How ``piimg export`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.completion import complete_nodes

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  piimg export ssh-config > ~/.ssh/picluster.conf
  piimg export known-hosts > ~/.ssh/picluster.known_hosts
  piimg export ssh-config --via 192.168.1.50 > ~/.ssh/picluster.conf
  piimg export ansible-inventory > inventory.yaml
  piimg export hosts | sudo tee -a /etc/hosts
  piimg export sbom --node worker1 > worker1.cdx.json
"""


@command("export", EXAMPLES)
@click.argument(
    "what", type=click.Choice(["ssh-config", "known-hosts", "hosts", "ansible-inventory", "sbom"])
)
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
@click.option("--node", "-n", metavar="NAME", shell_complete=complete_nodes, help="The node, for sbom.")
@click.pass_obj
def export(session: "Session", /, **given: Any) -> None:
    """Print a file for other programs: to reach the nodes, or to know what is in one.

    \b
    ssh-config         each node by its name, the workers through the gateway
    known-hosts        the nodes' host keys; ssh accepts no others
    ansible-inventory  all nodes, grouped by role; needs the two files above
    hosts              for /etc/hosts of a machine on the cluster's own LAN
    sbom               the software of a node as it was prepared last: CycloneDX

    Your machine is on the gateway's uplink side, usually the Wi-Fi at home. The
    gateway is found there as GATEWAY.local (multicast DNS), or at --via. In a
    cluster without a gateway each node is reached directly, at its address; a
    node with an address from DHCP at NODE.local.
    ssh reads the file when ~/.ssh/config begins with "Include picluster.conf".
    """
    from imagebuilder.cli.commands import export as work

    work.export(session, **given)
