"""The command line the two makers share: IMAGE FILE."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bases.layout import LAYOUTS, NEWEST, Layout, named
from imagebuilder.errors import PiimgError


def main(
    about: str,
    make: Callable[[Layout, Path], None],
    keep: Callable[[Layout], None] | None = None,
) -> int:
    """Read IMAGE and FILE, call ``make`` with them, and say in a line or two what went wrong.

    FILE can be left out when there is something to ``keep``, which is then called instead.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # so that what is held is let go
    program = Path(sys.argv[0]).name
    os.umask(0o022)
    parser = argparse.ArgumentParser(
        description=about,
        epilog=f"examples:\n  scripts/{program} trixie /tmp/trixie.img\n"
        f"  scripts/{program} bookworm-2024-11 /tmp/bookworm.img",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "image", metavar="IMAGE", choices=[*NEWEST, *LAYOUTS],
        help=f"{', '.join(LAYOUTS)}; or {', '.join(NEWEST)} for the newest of the release",
    )  # fmt: skip
    parser.add_argument(
        "file", metavar="FILE", type=Path, nargs="?" if keep else None,
        help=f"the image to write; replaced when it exists{'; or only cache it' if keep else ''}",
    )  # fmt: skip
    if keep:
        parser.add_argument(
            "--include", metavar="PACKAGE", action="append", default=[],
            help="a Debian package to install besides; may be given more than once",
        )  # fmt: skip
    arguments = parser.parse_args()
    try:
        layout = named(arguments.image)
        if keep:
            layout = replace(layout, included=tuple(sorted(set(arguments.include))))
        if keep is not None and arguments.file is None:
            keep(layout)
        else:
            make(layout, arguments.file)
    except PiimgError as error:
        print(f"{program}: {error.message}", *filter(None, [error.hint]), sep="\n  ", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"{program}: {error.filename or arguments.file or arguments.image}: {error.strerror}",
            file=sys.stderr,
        )
        return 1
    return 0
