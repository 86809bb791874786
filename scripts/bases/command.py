"""The command line the two makers share: RELEASE FILE."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bases.layout import LAYOUTS, Layout
from imagebuilder.errors import PiimgError


def main(
    about: str,
    releases: Iterable[str],
    make: Callable[[Layout, Path], None],
    keep: Callable[[Layout], None] | None = None,
) -> int:
    """Read RELEASE and FILE, call ``make`` with them, and say in a line or two what went wrong.

    FILE can be left out when there is something to ``keep``, which is then called instead.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # so that what is held is let go
    program = Path(sys.argv[0]).name
    os.umask(0o022)
    parser = argparse.ArgumentParser(
        description=about,
        epilog=f"example: scripts/{program} bookworm /tmp/bookworm.img",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("release", metavar="RELEASE", choices=list(releases), help=", ".join(releases))
    parser.add_argument(
        "file", metavar="FILE", type=Path, nargs="?" if keep else None,
        help=f"the image to write; replaced when it exists{'; or only cache it' if keep else ''}",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        layout = LAYOUTS[arguments.release]
        if keep is not None and arguments.file is None:
            keep(layout)
        else:
            make(layout, arguments.file)
    except PiimgError as error:
        print(f"{program}: {error.message}", *filter(None, [error.hint]), sep="\n  ", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"{program}: {error.filename or arguments.file or arguments.release}: {error.strerror}",
            file=sys.stderr,
        )
        return 1
    return 0
