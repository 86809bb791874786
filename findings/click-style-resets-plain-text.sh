#!/bin/sh
# Click 8.1.8 and 8.2.1, Python 3.11.
# click.style("x") with no colour and no attribute still appends a reset: "x" becomes "x" ESC [ 0 m. So
# click.secho(text, bold=condition or None) sends an escape sequence to the terminal with every plain line.
# A program that compares what a terminal was sent, or that writes lines in one piece, meets it.
# Exit status: 0 while it is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
status=0
for version in 8.1.8 8.2.1; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "click==$version" 2>/dev/null
    "$folder/$version/bin/python" - "$version" <<'PYTHON' || status=1
import sys

import click

styled = click.style("x")
print(f"click {sys.argv[1]}: click.style('x') gives {styled!r}, with bold=None {click.style('x', bold=None)!r}")
sys.exit(styled != "x\x1b[0m")
PYTHON
done
exit $status
