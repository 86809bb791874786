"""The Debian package: the tree of ``tree.py`` below /usr, with dpkg's metadata."""

import gzip
import hashlib
import os
from collections.abc import Iterator
from email.utils import formatdate
from importlib.metadata import Distribution, distributions
from pathlib import Path

from imagebuilder import __version__
from imagebuilder.requirements.uses import USES
from installing.command import TOP, epoch, run
from installing.tree import lay

PYTHON = Path("/usr/bin/python3")
ZSH = ("zsh/site-functions/_piimg", "zsh/vendor-completions/_piimg")  # zsh's own place, and Debian's
ALWAYS_THERE = {"apt", "coreutils", "dpkg", "util-linux"}  # or essential, to dpkg
SUMMARY = "from one cluster manifest to verified, bootable Raspberry Pi SD cards"

CONTROL = """Package: piimg
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {size}
Depends: {depends}
Suggests: {suggests}
Section: utils
Priority: optional
Description: {summary}
 piimg fetches and verifies a Raspberry Pi OS image once, puts each node's own
 files into a copy of it, and writes all cards at once with read-back.
 .
 Python packages that Debian does not have as new as piimg needs them are in
 /usr/lib/piimg, out of the way of all other programs.
"""

COMPILE = """#!/bin/sh
set -e
if [ "$1" = configure ]; then
    py3compile -p piimg /usr/lib/piimg
fi
"""

FORGET = """#!/bin/sh
set -e
py3clean -p piimg
"""


def make(work: Path, folder: Path) -> Path:
    """Build the package in the empty folder ``work``, and write it to ``folder``; its path."""
    root = work / "root"
    lay(root, Path("/usr"), PYTHON)
    _as_debian_has_it(root / "usr/share")
    libraries = _libraries(root, work)
    control = root / "DEBIAN"
    control.mkdir()
    architecture = run("dpkg", "--print-architecture").strip()
    (control / "control").write_text(_control(root, libraries, architecture), "utf-8")
    (control / "md5sums").write_text("".join(_sums(root)), "utf-8")
    for name, script in (("postinst", COMPILE), ("prerm", FORGET)):
        (control / name).write_text(script)
        (control / name).chmod(0o755)
    for path in (root, *root.rglob("*")):
        os.utime(path, (epoch(), epoch()), follow_symlinks=False)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"piimg_{__version__}_{architecture}.deb"
    date = {"SOURCE_DATE_EPOCH": str(epoch())}
    run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, target, env=date)
    return target


def _as_debian_has_it(share: Path) -> None:
    """Apply Debian's layout: the completion for zsh, compressed manual and changes, the copyright.

    And its rule that no package has another one's library in it: without libyaml, PyYAML parses in Python.
    """
    for extension in (share.parent / "lib/piimg/yaml").glob("_yaml.*.so"):
        extension.unlink()
    old, new = (share / place for place in ZSH)
    new.parent.mkdir()
    old.rename(new)
    old.parent.rmdir()
    for page in (share / "man/man1").iterdir():
        _compress(page)
    documents = share / "doc/piimg"
    maintainer, date = _maintainer(), formatdate(epoch())
    changes = f"piimg ({__version__}) unstable; urgency=medium\n\n  * What is new is in CHANGELOG.md.\n\n"
    (documents / "changelog").write_text(f"{changes} -- {maintainer}  {date}\n", "utf-8")
    _compress(documents / "changelog")
    (documents / "copyright").write_text(_copyright(share.parent / "lib/piimg"), "utf-8")


def _compress(file: Path) -> None:
    file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 9, mtime=0))
    file.unlink()


def _maintainer() -> str:
    name = os.environ.get("DEBFULLNAME") or "piimg maintainers"
    return f"{name} <{os.environ.get('DEBEMAIL') or 'piimg@example.org'}>"


def _libraries(root: Path, work: Path) -> str:
    """The Debian packages, with versions, of the C libraries that the compiled modules are linked with."""
    (work / "debian").mkdir()
    (work / "debian/control").write_text("Source: piimg\n\nPackage: piimg\nArchitecture: any\n")
    modules = sorted((root / "usr/lib/piimg").rglob("*.so"))
    for module in modules:
        run("strip", "--strip-unneeded", module)
    said = run("dpkg-shlibdeps", "-O", "--warnings=0", *(f"-e{module}" for module in modules), cwd=work)
    return said.strip().removeprefix("shlibs:Depends=")


def _control(root: Path, libraries: str, architecture: str) -> str:
    major, minor = run(PYTHON, "-c", "import sys; print(*sys.version_info[:2])").split()
    build = {*USES["build"].all_packages(root=True), *USES["build"].all_packages(root=False)}
    programs = sorted({*build, *USES["flash"].all_packages(root=True)} - ALWAYS_THERE)
    pythons = [f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{int(minor) + 1})"]
    kilobytes = sum(-(-path.lstat().st_size // 1024) for path in (root / "usr").rglob("*"))
    return CONTROL.format(
        version=__version__,
        architecture=architecture,
        maintainer=_maintainer(),
        size=kilobytes,
        depends=", ".join([*pythons, libraries, "libudev1", *programs]),
        suggests=", ".join(sorted({*USES["boot"].packages, "debian-archive-keyring"} - ALWAYS_THERE)),
        summary=SUMMARY,
    )


def _sums(root: Path) -> Iterator[str]:
    for path in sorted((root / "usr").rglob("*")):
        if path.is_file():
            yield f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n"


def _copyright(library: Path) -> str:
    """piimg's licence, and the licences of the bundled packages."""
    licence = (TOP / "LICENSE").read_text("utf-8")
    rows = [f"  {package.name} {package.version}: {_licence(package)}" for package in _bundled(library)]
    return (
        f"piimg is under this licence:\n\n{licence}\n"
        "The Python packages that come with it are under their own; the texts are in\n"
        f"/usr/lib/piimg/*.dist-info:\n\n{chr(10).join(rows)}\n\n"
        "Of these the GNU General Public License is in /usr/share/common-licenses/GPL-2.\n"
    )


def _bundled(library: Path) -> list[Distribution]:
    packages = [package for package in distributions(path=[str(library)]) if package.name != "piimg"]
    return sorted(packages, key=lambda package: package.name.lower())


def _licence(package: Distribution) -> str:
    """The licence in a package's metadata, from the newest of the three fields for it."""
    said = package.metadata.get("License-Expression") or package.metadata.get("License") or ""
    classes = [
        text.rpartition(" :: ")[2]
        for text in package.metadata.get_all("Classifier") or []
        if text.startswith("License :: ")
    ]
    return said.strip().partition("\n")[0] or ", ".join(classes) or "see there"
