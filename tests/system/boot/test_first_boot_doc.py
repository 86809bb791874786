"""The story that docs/first-boot.md tells of a script: written, seen to fail in emulation, fixed."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS
from tests.support.checkout import TOP
from tests.support.cluster import make_place
from tests.system.boot.conftest import CACHE

pytestmark = pytest.mark.checks

TEXT = (TOP / "docs" / "first-boot.md").read_text("utf-8")
IMAGES = ("--images", "build")  # the base image is not kept
SHARED = {"PIIMG_CACHE": str(CACHE.folder)}


def reported() -> tuple[list[str], list[str]]:
    """The two scripts of the document, and the lines it shows of what `piimg boot` says of the first."""
    story = TEXT.partition("## From the first line to a card")[2].partition("\n## ")[0]
    scripts = re.findall(r"^```sh\n(.*?)^```", story, flags=re.MULTILINE | re.DOTALL)
    shown = re.search(r"^    \$ piimg boot --node worker2\n((?:    .*\n|\n)+)", story, flags=re.MULTILINE)
    assert shown is not None
    return scripts, [line.strip() for line in shown[1].splitlines() if line.strip(" …")]


@pytest.mark.timeout(1200)
def test_the_script_fails_as_reported_and_is_fixed_as_reported(tmp_path: Path) -> None:
    (broken, fixed), shown = reported()
    base = tmp_path / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", "bookworm", base], check=True)
    place = make_place(tmp_path, tmp_path / "cache")
    script = place.folder / "overlays" / "worker" / "firstboot.d" / "60-scratch"
    script.write_text(broken)
    (line,) = [
        line
        for line in place.good("plan", "--full", "--node", "worker2").splitlines()
        if "60-scratch" in line
    ]
    assert "worker (own)" in line
    place.good("build", "--node", "worker2", "--base", base)
    done = place.run("boot", *IMAGES, "--node", "worker2", env=SHARED)
    assert done.returncode == 1, done.stderr
    said = [re.sub(r"\s+", " ", line) for line in done.stdout.splitlines()]
    for line in shown:
        seconds = re.sub(r"\d+ s$", r"\\d+ s", re.sub(r"\s+", " ", re.escape(line).replace(r"\ ", " ")))
        assert any(re.fullmatch(seconds, one) for one in said), (line, done.stdout)
    bad = [line.split()[0] for line in said if len(line.split()) > 1 and line.split()[1] == "BAD"]
    assert bad == ["first-boot"], done.stdout

    script.write_text(fixed)
    place.good("build", "--node", "worker2", "--base", base)
    place.good("boot", *IMAGES, "--node", "worker2", env=SHARED)
