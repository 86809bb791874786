"""How ``piimg init`` is called."""

from typing import Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.file_path import FilePath

EXAMPLES = """\b
Example:
  piimg init mycluster && cd mycluster && piimg plan
"""


@command("init", EXAMPLES)
@click.argument("folder", metavar="DIR", type=FilePath(file_okay=False))
def init(**given: Any) -> None:
    """Create a cluster folder DIR: manifest, overlays, secrets and .gitignore.

    The manifest, cluster.toml, is commented line by line. Existing files are never changed.
    """
    from imagebuilder.cli.commands import init as work

    work.init(**given)
