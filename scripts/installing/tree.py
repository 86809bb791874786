"""The tree of installed files: the program with its Python packages, manual, completion, documentation.

    PREFIX/bin/piimg            starts Python with nothing on its path but what is below
    PREFIX/lib/piimg/           imagebuilder and all it imports, as requirements.lock pins it
    PREFIX/share/…              manual pages, completion for three shells, the documents

Debian 12 has click, pyudev and Jinja2 as piimg needs them, but not pydantic 2, cryptography 42, requests 2.31
or libpass; so all are taken as they were tested, rather than half of them.
"""

import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from imagebuilder import __version__
from imagebuilder.cli.main import piimg
from installing.command import TOP, epoch, run
from installing.man import pages

LAUNCHER = """#!{python} -IS
import sys

sys.path.insert(0, "{library}")
from imagebuilder.cli.start import main

sys.exit(main())
"""

SHELLS = {
    "bash": "bash-completion/completions/piimg",
    "zsh": "zsh/site-functions/_piimg",
    "fish": "fish/vendor_completions.d/piimg.fish",
}
"""The completion file of each shell, below PREFIX/share."""


def lay(root: Path, prefix: Path, python: Path) -> None:
    """Install piimg below ``root``, to be run from ``prefix`` with the interpreter ``python``."""
    place = root / prefix.relative_to("/")
    with tempfile.TemporaryDirectory() as name:
        _program(place, prefix, python, Path(name))
    share(place / "share")


def share(folder: Path) -> None:
    """Write manual pages, completion and documentation to ``folder``."""
    manual(folder / "man/man1")
    completion(folder)
    documents = folder / "doc/piimg"
    documents.mkdir(parents=True, exist_ok=True)
    for file in ("README.md", "CHANGELOG.md"):
        shutil.copy(TOP / file, documents / file)
    for name in ("docs", "packaging"):  # beside each other, so that links between them work
        shutil.copytree(TOP / name, documents / name, dirs_exist_ok=True)


def manual(folder: Path) -> None:
    """Write the manual pages to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    day = time.strftime("%Y-%m-%d", time.gmtime(epoch()))
    for file, text in pages(piimg, __version__, day):
        (folder / file).write_text(text, "utf-8")


def completion(folder: Path) -> None:
    """Write the completions for bash, zsh and fish, below the share folder ``folder``."""
    program = Path(sys.executable).with_name("piimg")
    for shell, place in SHELLS.items():
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        text = run(program, env={"_PIIMG_COMPLETE": f"{shell}_source"})
        file.write_text(_for_autoload(text) if shell == "zsh" else text, "utf-8")


def _for_autoload(text: str) -> str:
    """click's script for zsh, as a file that zsh loads at the first Tab.

    Its last lines ask how they were called: at the second Tab they believe they are sourced, and offer
    nothing.
    """
    functions, mark, _ = text.partition("\nif [[ $zsh_eval_context[-1] == loadautofunc ]]")
    if not mark:
        raise ValueError("click's script for zsh has changed: check whether it still needs this edit")
    return f'{functions}\n_piimg() {{\n    _piimg_completion "$@"\n}}\n\n_piimg "$@"\n'


def _program(place: Path, prefix: Path, python: Path, work: Path) -> None:
    library = place / "lib/piimg"
    shutil.rmtree(library, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq"]  # errors only
    date = {"SOURCE_DATE_EPOCH": str(epoch())}
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work, TOP, env=date)
    (work / "lock").write_text("".join(locked(needed())))
    into = [*pip, "--python", python, "install", "--no-deps", "--no-compile", "--target", library]
    # Without debugging information, which names the folder it was built in; with Debian's own build tools.
    # Not from pip's cache, where a pyparted may lie that another interpreter's build tools have made.
    built = {**date, "CFLAGS": "-g0"}
    run(*into, "--no-cache-dir", "--no-build-isolation", "--require-hashes", "-r", work / "lock", env=built)
    shutil.rmtree(library / "bin")  # programs of the packages, which piimg does not need
    run(*into, "--no-index", "--find-links", work, f"piimg=={__version__}", env=date)
    shutil.rmtree(library / "bin")
    launcher = place / "bin/piimg"
    launcher.parent.mkdir(parents=True, exist_ok=True)
    launcher.write_text(LAUNCHER.format(python=python, library=prefix / "lib/piimg"))
    launcher.chmod(0o755)


def needed() -> set[str]:
    """The names of the packages that piimg imports, and those of what they import.

    Raises PackageNotFoundError when one is not installed here: run `make setup` again.
    """
    found: set[str] = set()
    project = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["web"]]
    left = [Requirement(text) for text in texts]
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        environments = [{**default_environment(), "extra": extra} for extra in ("", *one.extras)]
        if name in found or not any(one.marker is None or one.marker.evaluate(env) for env in environments):
            continue
        found.add(name)
        left += [Requirement(text) for text in distribution(name).requires or ()]
    return found


def locked(names: set[str]) -> Iterator[str]:
    """The lines of requirements.lock for ``names``. Raises LookupError when one is not there."""
    left, taking = set(names), False
    for line in (TOP / "requirements.lock").read_text().splitlines(keepends=True):
        if start := re.match(r"([A-Za-z0-9._-]+)==", line):
            name = canonicalize_name(start[1])
            taking = name in names
            left.discard(name)
        elif not line.startswith((" ", "\t")):
            taking = False
        if taking:
            yield line
    if left:
        raise LookupError(f"not in requirements.lock: {', '.join(sorted(left))}")
