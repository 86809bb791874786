"""The command line the two makers share: RELEASE FILE."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bases.layout import LAYOUTS, Layout
from imagebuilder.errors import PiimgError


def main(
    about: str, releases: Iterable[str], make: Callable[[Layout, Path], None], keeps: bool = False
) -> int:
    """Read RELEASE and FILE, call ``make`` with them, and say in a line or two what went wrong.

    FILE can be left out, and is None, when ``make`` also ``keeps`` what it makes.
    """
    program = Path(sys.argv[0]).name
    os.umask(0o022)
    parser = argparse.ArgumentParser(
        description=about,
        epilog=f"example: scripts/{program} bookworm /tmp/bookworm.img",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("release", metavar="RELEASE", choices=list(releases), help=", ".join(releases))
    parser.add_argument(
        "file", metavar="FILE", type=Path, nargs="?" if keeps else None,
        help="the image to write; replaced when it exists" + "; without it, only the cache is filled" * keeps,
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        make(LAYOUTS[arguments.release], arguments.file)
    except PiimgError as error:
        print(f"{program}: {error.message}", *filter(None, [error.hint]), sep="\n  ", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{program}: {error.filename or arguments.release}: {error.strerror}", file=sys.stderr)
        return 1
    return 0
