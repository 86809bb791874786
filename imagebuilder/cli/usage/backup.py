"""How ``piimg backup`` is called."""

from typing import TYPE_CHECKING, Any

import click

from imagebuilder.cli.command import command
from imagebuilder.cli.completion import complete_devices
from imagebuilder.cli.file_path import FilePath, OutputPath

if TYPE_CHECKING:
    from imagebuilder.cli.session import Session

EXAMPLES = """\b
Examples:
  sudo piimg backup /dev/sdb worker2.img.zst
  sudo piimg backup /dev/sdb worker2.img.zst --force --json
"""


@command("backup", EXAMPLES)
@click.argument("device", type=FilePath(readable=False), shell_complete=complete_devices)
@click.argument("file", type=OutputPath(dir_okay=False, readable=False))
@click.option("--force", "-f", is_flag=True, help="Replace FILE and the files beside it.")
@click.option("--json", "as_json", is_flag=True, help="Print what was backed up as one JSON document.")
@click.pass_obj
def backup(session: "Session", /, **given: Any) -> None:
    """Back up the card in DEVICE to FILE, whose name ends in .img.zst.

    To write it to a card again: piimg flash DEVICE --image FILE

    The card is only read, and must not be mounted. What is in use by its file systems is packed (ext4 and
    FAT; of other partitions everything), and read back. Beside FILE are its block map (FILE.bmap), its
    checksum (FILE.sha256) and whose card it is (FILE.json). They contain the keys of the node, and only you
    may read them. A card for the backup must be as large as the partitions of this one.
    """
    from imagebuilder.cli.commands import backup as work

    work.backup(session, **given)
