"""A bare Debian as a tar archive: made by mmdebstrap once for the same options, and kept in the cache."""

import fcntl
import hashlib
import subprocess
from pathlib import Path

from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.system.files import replacing

SUITE = "bookworm"


def bare_debian(name: str, *options: str, suite: str = SUITE) -> Path:
    """The archive ``name``, made with these ``options`` of mmdebstrap; who comes meanwhile waits for it."""
    words = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", *options, suite]
    folder = Cache(default_folder()).of_tests("bare")
    archive = folder / f"{name}-{hashlib.sha256(repr(words).encode()).hexdigest()[:16]}.tar"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            for old in (*folder.glob(f"{name}-*.tar"), *folder.glob(f".{name}-*.partial")):
                old.unlink()  # of other options, or of one that was killed
            with replacing(archive) as temporary:
                subprocess.run([*words, temporary], check=True)
    return archive
