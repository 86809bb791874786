"""Planning needs no disk: `piimg init`, `plan`, `sheet` and `export` need neither libparted nor udev."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import TOP
from tests.support.cluster import Place, make_place

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("parted", "_ped", "pyudev"):
            raise ModuleNotFoundError(f"no module named {name}", name=name)

sys.meta_path.insert(0, Missing())
from imagebuilder.cli.main import main
main()
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    ssh = tmp_path / ".ssh"
    ssh.mkdir(mode=0o700)
    (ssh / "id_ed25519.pub").write_text(f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43} me\n")
    return make_place(tmp_path, tmp_path / "cache")


def run(place: Place, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *words],
        cwd=place.folder,
        env={**place.env, "PYTHONPATH": str(TOP)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ("plan",),
        ("plan", "--full", "--node", "worker2"),
        ("plan", "--show", "/etc/hosts", "--node", "worker2"),
        ("plan", "--graph"),
        ("plan", "--json"),
        ("sheet", "--output", "-"),
        ("export", "hosts"),
        ("export", "ansible-inventory"),
    ],
    ids=" ".join,
)
def test_what_plans_needs_neither(place: Place, words: tuple[str, ...]) -> None:
    done = run(place, *words)
    assert done.returncode == 0, done.stderr
    assert "worker2" in done.stdout


def test_a_new_cluster_needs_neither(place: Place) -> None:
    done = run(place, "init", "another", "--yes", "--wired", "eth1")
    assert done.returncode == 0, done.stderr
    assert (place.folder / "another" / "cluster.toml").exists()


def test_what_needs_them_says_so(place: Place, tmp_path: Path) -> None:
    """And not by a traceback: here they are missing indeed."""
    done = run(place, "cards")
    assert done.returncode == 1
    assert done.stderr.startswith("piimg: cannot list the disks: no module named pyudev")
    image = tmp_path / "x.img"
    image.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1 << 20))
    done = run(place, "inspect", f"{image}")
    assert done.returncode == 1
    assert f"cannot read the partition table of {image}: no module named parted" in done.stderr
    assert "Traceback" not in done.stderr
