"""A release: the sdist, the wheel and the Debian package of a commit, and SHA256SUMS."""

import hashlib
import re
import shutil
import sys
from pathlib import Path

from installing.command import TOP, run

_TAG = re.compile(r"v(\d+\.\d+\.\d+)")
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


def make(commit: str, work: Path, folder: Path) -> list[Path]:
    """Build the release of ``commit`` in the empty folder ``work``, and write it to ``folder``; its files."""
    sources = _sources(commit, work)
    _check_tag(commit, sources)
    env = {
        "SOURCE_DATE_EPOCH": run(
            "git", "-C", TOP, "show", "-s", "--format=%ct", f"{commit}^{{commit}}"
        ).strip()
    }
    made = work / "dist"
    run(sys.executable, "-m", "hatchling", "build", "--directory", made, env=env, cwd=sources)
    run(sys.executable, sources / "scripts/make-deb", made, env=env)
    files = sorted(made.iterdir())
    folder.mkdir(parents=True, exist_ok=True)
    sums = folder / "SHA256SUMS"
    sums.write_text(
        "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    )
    return [*(Path(shutil.copy2(file, folder / file.name)) for file in files), sums]


def _sources(commit: str, work: Path) -> Path:
    """The files of ``commit``, in a folder of ``work``."""
    sources, archive = work / "sources", work / "sources.tar"
    sources.mkdir()
    run("git", "-C", TOP, "archive", "--format=tar", "--output", archive, commit)
    run("tar", "-x", "-f", archive, "-C", sources)
    return sources


def _check_tag(commit: str, sources: Path) -> None:
    """Exit with a message when a tag is of another version, or CHANGELOG.md does not have the version."""
    tag = _TAG.fullmatch(commit)
    if not tag:
        return
    found = _VERSION.search((sources / "imagebuilder/version.py").read_text())
    if not found or found[1] != tag[1]:
        sys.exit(f"{commit} has the version {found[1] if found else 'unknown'}")
    if f"\n## [{tag[1]}] - " not in (sources / "CHANGELOG.md").read_text():
        sys.exit(f"CHANGELOG.md of {commit} has no heading for {tag[1]}")
