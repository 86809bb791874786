#!/usr/bin/env python3
"""Install packages into a base image, and nothing else: no command of piimg does only that.

Usage: dress.py BASE CACHE PACKAGE...
"""

import sys
import threading
from pathlib import Path

from imagebuilder.base.cache import Cache
from imagebuilder.dressing.dress import dressed
from imagebuilder.dressing.request import Request
from imagebuilder.events import Silent
from imagebuilder.image.base.opening import open_base

if __name__ == "__main__":
    file, folder, packages = Path(sys.argv[1]), Path(sys.argv[2]), tuple(sorted(sys.argv[3:]))
    base = open_base(file, file.name, "0" * 64, Silent(), index=folder / f"{file.name}.known")
    print(dressed(base, Request(packages), Cache(folder), Silent(), threading.Event(), refresh=True).path)
