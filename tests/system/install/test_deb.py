"""The Debian package, and that on a bare Debian nothing else is needed."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder import __version__
from tests.system.install.bare import Bare

pytestmark = [pytest.mark.timeout(1800), pytest.mark.install]

EPOCH = 1767225600  # the first day of 2026
NODE = "worker2"


@pytest.fixture(scope="module")
def packed(copies: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package, packed twice from the same sources: in two folders, into two others."""
    made = []
    for folder in copies:
        target = tmp_path_factory.mktemp("dist")
        words = [sys.executable, str(folder / "scripts/make-deb"), str(target)]
        env = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
        said = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
        made.append(Path(said.strip()))
    one, another = made
    return one, another


@pytest.fixture(scope="module")
def system(
    packed: tuple[Path, Path],
    debian: Path,
    tmp_path_factory: pytest.TempPathFactory,
    specimen: Callable[[str], Path],
) -> Iterator[Bare]:
    """A bare Debian on which nothing was done but to install the package."""
    folder = tmp_path_factory.mktemp("system")
    extra = folder / "extra"
    extra.mkdir()
    shutil.copy(packed[0], extra / packed[0].name)
    shutil.copy(specimen("bookworm"), extra / "base.img")
    bare = Bare((extra, debian), folder / "bare")
    bare.good(f"apt-get update -qq; apt-get install -y -qq --no-install-recommends /{packed[0].name}")
    bare.good("ln -s ../proc/self/mounts /etc/mtab")  # which every Debian has that was ever booted
    yield bare
    shutil.rmtree(folder)


def test_the_same_sources_give_the_same_bytes(packed: tuple[Path, Path]) -> None:
    one, another = (hashlib.sha256(path.read_bytes()).hexdigest() for path in packed)
    assert one == another


def test_lintian_finds_no_error(packed: tuple[Path, Path]) -> None:
    done = subprocess.run(["lintian", packed[0]], capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if line.startswith("E:")] == []
    assert done.returncode == 0, done.stderr


def test_it_runs_and_has_what_it_needs(system: Bare) -> None:
    assert system.good("piimg --version") == f"piimg, version {__version__}\n"
    assert system.doctor("build flash") == {}
    assert system.doctor("build", user="alice") == {}


def test_its_python_packages_are_nobody_elses(system: Bare) -> None:
    """Neither does the system's Python see them, nor piimg what a user has put in its way."""
    assert system.run("python3 -c 'import click'").returncode == 1
    system.good(
        "mkdir -p hostile/click; echo 'raise SystemExit(77)' >hostile/click/__init__.py; "
        "cd hostile; PYTHONPATH=$PWD PYTHONHOME=/nowhere piimg --version; piimg doctor build",
        user="alice",
    )


def test_it_builds_a_node_and_writes_it_to_a_card(system: Bare) -> None:
    """As root and as an ordinary user, with the same result; and the card is good."""
    words = f"--progress plain build --node {NODE} --base /base.img --output build"
    build = f"piimg init c; cd c; SOURCE_DATE_EPOCH={EPOCH} piimg {words}"
    digest = f'python3 -c \'import json; print(json.load(open("build/{NODE}.json"))["tree_digest"])\''
    keys = "mkdir -p state; cp -r /keys/. state/"
    system.good(f"{build}; mkdir /keys; cp -r state/. /keys; chmod -R a+rX /keys")
    again = build.replace("cd c; ", f"cd c; {keys}; ")
    by_root, by_alice = (system.good(f"{again}; {digest}", user=user) for user in ("root", "alice"))
    assert by_root.splitlines()[-1] == by_alice.splitlines()[-1]
    card = "truncate -s 1G /card; card=$(losetup --find --show --direct-io=on /card)"
    away = "trap 'losetup -d $card; rm /card' EXIT"
    flash = f"piimg flash --virtual --yes --node {NODE} --images build $card"
    written = system.good(f"{again}; {card}; {away}; {flash}")
    assert "good" in written


def test_manual_and_completion_are_where_they_are_looked_for(system: Bare) -> None:
    system.good("apt-get install -y -qq --no-install-recommends man-db bash-completion")
    assert system.good("man -w piimg") == "/usr/share/man/man1/piimg.1.gz\n"
    assert system.good("man -w piimg flash") == "/usr/share/man/man1/piimg-flash.1.gz\n"
    found = (
        ". /usr/share/bash-completion/bash_completion; _completion_loader piimg; "
        "COMP_WORDS=(piimg bui); COMP_CWORD=1; _piimg_completion piimg; echo ${COMPREPLY[@]}"
    )
    assert system.good(f"bash -c '{found}'") == "build\n"
    system.good("test -s /usr/share/zsh/vendor-completions/_piimg")
    system.good("test -s /usr/share/fish/vendor_completions.d/piimg.fish")


def plain(text: str) -> str:
    """Text in which a name of a Python package is written in one way only (PEP 503)."""
    return re.sub(r"[-_.]+", "-", text.lower())


def test_whose_work_it_holds_is_said(system: Bare) -> None:
    said = system.good("cat /usr/share/doc/piimg/copyright")
    packages = system.good("ls -d /usr/lib/piimg/*.dist-info").split()
    for package in packages:
        name, _, version = Path(package).name.removesuffix(".dist-info").partition("-")
        if name != "piimg":
            assert plain(f"  {name} {version}: ") in plain(said)
    assert "see there" not in said


def test_it_goes_without_leaving_anything(system: Bare) -> None:
    """But for the empty folders of the journal, which lie where nothing outlives a restart."""
    assert system.good("find /usr/lib/piimg -name '*.pyc' | head -1")  # compiled when it was installed
    system.good("apt-get purge -y -qq piimg")
    left = set(system.good("find / -xdev -name '*piimg*' -not -name '*.deb'").split())
    assert left <= {"/run/piimg", "/tmp/piimg-1000"}
    assert system.good(f"find {' '.join(left)} -mindepth 1") == ""
