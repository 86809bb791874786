"""Every shell script that is shipped or run: shellcheck clean, with line ends that a shell can read."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import TOP


def _scripts() -> Iterator[Path]:
    for folder in ("imagebuilder", "overlays", "scripts", ".ci"):
        for path in sorted((TOP / folder).rglob("*")):
            if path.is_file() and _is_shell(path):
                yield path


def _is_shell(path: Path) -> bool:
    with path.open("rb") as stream:
        first = stream.readline()
    return path.suffix == ".sh" or (
        first.startswith(b"#!") and first.split()[-1].rsplit(b"/")[-1] in (b"sh", b"bash")
    )


SCRIPTS = {str(path.relative_to(TOP)): path for path in _scripts()}


def test_the_scripts_are_found() -> None:
    assert "overlays/base/root/usr/local/bin/with-internet" in SCRIPTS
    assert "overlays/base/firstboot.d/05-account" in SCRIPTS
    assert "imagebuilder/boot/init" in SCRIPTS


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(
        ["shellcheck", "--color=never", *SCRIPTS.values()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_line_ends_are_unix(name: str) -> None:
    assert b"\r" not in SCRIPTS[name].read_bytes()
