"""How ``piimg secrets`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Example:
  piimg secrets set wifi_psk                  asks twice, without showing it
"""


@command("secrets", EXAMPLES)
@click.argument("action", metavar="set", type=click.Choice(["set"]))
@click.argument("name", metavar="NAME")
@click.pass_obj
def secrets(session: "Session", /, **given: Any) -> None:
    """Keep the value of the secret NAME of the manifest in secrets.toml, which only you can read (mode 0600).

    It is asked for twice at a terminal, else read from standard input. It is never shown.
    """
    from imagebuilder.cli.commands import secrets as work

    work.secrets(session, **given)
