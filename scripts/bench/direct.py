#!/usr/bin/env python3
"""Prepare all nodes of a manifest, and nothing else: no command of piimg does only that.

Prints the bytes in use of the node that has most. Usage: direct.py MANIFEST
"""

import sys
from pathlib import Path

from imagebuilder.cli.progress.choice import renderer
from imagebuilder.cli.session import Session
from imagebuilder.cli.sources import prepared_nodes

if __name__ == "__main__":
    session = Session(renderer("plain"), Path(sys.argv[1]))
    with prepared_nodes(session, ()) as nodes:
        print(max(sum(part.size for part in node.block_map) for node in nodes))
