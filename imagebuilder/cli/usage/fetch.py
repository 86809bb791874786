"""How ``piimg fetch`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.completion import complete_bases

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  piimg fetch                                   the manifest's base image
  piimg fetch raspios-trixie-arm64-lite         the newest of that name
  piimg fetch ./my-base.img.xz --sha256 HEX     a file of your own
  piimg fetch "Raspberry Pi OS Lite (64-bit)" --catalogue official
  piimg fetch --list
"""


@command("fetch", EXAMPLES)
@click.argument("what", metavar="[NAME|URL|FILE]", required=False, shell_complete=complete_bases)
@click.option("--list", "listing", is_flag=True, help="Show the known names, and what is cached.")
@click.option(
    "--prune",
    is_flag=True,
    help="Free unfinished work, bases without a name that no prepared node needs, old kernels.",
)
@click.option("--all", "everything", is_flag=True, help="With --prune: free all that is cached.")
@click.option("--sha256", default="", metavar="HEX", help="The checksum of the file, as it is downloaded.")
@click.option("--insecure-no-checksum", "insecure", is_flag=True, help="Accept a file that has no checksum.")
@click.option(
    "--catalogue",
    "vendor_catalogue",
    default="",
    metavar="URL|FILE",
    help="Look NAME up in Raspberry Pi's catalogue (os_list JSON); `official` is the one on their server.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def fetch(session: "Session", /, **given: Any) -> None:
    """Put a base image into the cache: download (resumed), check, unpack.

    The image is a NAME (of images.toml), a URL (with ://), or a FILE (starts with / ./ ../ ~, or ends in
    .img .wic .xz .gz .zst .zip). Default: the base image of the manifest.
    """
    from imagebuilder.cli.commands import fetch as work

    work.fetch(session, **given)
