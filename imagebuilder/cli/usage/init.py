"""How ``piimg init`` is called."""

from collections.abc import Mapping
from typing import Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.completion import complete_ready_layers
from imagebuilder.cli.file_path import FilePath
from imagebuilder.cli.ready_layers import ready_layers

EXAMPLES = """\b
Examples:
  piimg init mycluster && cd mycluster && piimg plan
  piimg init mycluster --workers 3 --wifi HomeNetwork --country GB
  piimg init lab --yes --wired eth1 --network 10.8.0.0/24
  piimg init mycluster --with docker,k3s
"""


def _lists() -> Mapping[str, Mapping[str, str]]:
    return {"Ready layers": ready_layers()}


@command("init", EXAMPLES, _lists)
@click.argument("folder", metavar="DIR", type=FilePath(file_okay=False))
@click.option("--workers", type=click.IntRange(0), help="How many workers (default: 5).")
@click.option("--master-board", metavar="BOARD", help="The board of the master (default: pi-4b).")
@click.option("--worker-board", metavar="BOARD", help="The board of the workers (default: pi-3b+).")
@click.option("--timezone", metavar="ZONE", help="The time zone (default: this machine's).")
@click.option("--locale", metavar="LOCALE", help="The locale, such as en_GB.UTF-8 (default: yours).")
@click.option("--keyboard", metavar="LAYOUT", help="The keyboard layout (default: this machine's).")
@click.option("--network", metavar="NETWORK", help="The LAN of the cluster (default: 10.0.0.0/24).")
@click.option("--user", metavar="NAME", help="The account on every node (default: pi).")
@click.option(
    "--ssh-key",
    "ssh_keys",
    metavar="FILE",
    type=FilePath(exists=True, dir_okay=False),
    multiple=True,
    help="A public key that may log in (repeatable; default: those in ~/.ssh).",
)
@click.option("--wifi", metavar="SSID", help="The Wi-Fi that the master joins (default: this machine's).")
@click.option("--country", metavar="CC", help="The country of the Wi-Fi, two capital letters.")
@click.option(
    "--wifi-passphrase-file",
    "passphrase_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="The first line is the passphrase of the Wi-Fi; - for standard input. It is kept in secrets.toml.",
)
@click.option(
    "--wired", metavar="INTERFACE", help="The master reaches your home network by a cable here, such as eth1."
)
@click.option(
    "--with",
    "layers",
    metavar="LAYER,…",
    multiple=True,
    shell_complete=complete_ready_layers,
    help="Ready layers for the manifest, on the roles that they are for. May be given several times.",
)
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: take the defaults.")
def init(**given: Any) -> None:
    """Create a cluster folder DIR: manifest, overlays, secrets and .gitignore.

    At a terminal it asks for what no option gives; the defaults are those of this machine. The
    manifest, cluster.toml, has comments, and can be planned and flashed as it is. Existing files
    are never changed.
    """
    from imagebuilder.cli.commands import init as work

    work.init(**given)
