"""`piimg boot` where no node comes up: what it refuses, and in which words."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.boot.run import boards
from tests.support import judge, networks
from tests.support.cluster import Place, make_place

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, specimen: Callable[[str], Path]) -> Place:
    """A cluster folder with one node built, from a specimen that no kernel would start."""
    folder = tmp_path_factory.mktemp("boot")
    made = make_place(folder, folder / "cache")
    made.edit(r"^# password = .*", 'password = { secret = "user_password" }')
    made.good("build", "--node", "worker2", "--base", specimen("bookworm"))
    return made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no node is named"),
        (("--node", "worker9"), "has no node worker9"),
        (("--all", "--shell"), "--shell is for one node"),
        (("--node", "worker2", "--shell", "--console"), "exclude each other"),
        (("--node", "worker2", "--shell", "--json"), "there is no JSON"),
        (("--node", "worker2", "--console"), "needs a terminal"),
        (("--node", "master", "--machine", "raspi3b", "--images", "build"), "is missing"),
    ],
)
def test_what_makes_no_sense_is_refused(place: Place, words: tuple[str, ...], said: str) -> None:
    status = 2
    assert said in place.refused(status, "boot", *words)


@pytest.mark.parametrize(
    ("text", "node", "said"),
    [
        (networks.BY_WIFI, "worker4", "it is on the LAN by Wi-Fi"),
        (networks.ONE_PORT, "master", "its uplink is a VLAN"),
    ],
)
def test_what_is_not_emulated_is_refused(tmp_path: Path, text: str, node: str, said: str) -> None:
    place = make_place(tmp_path, tmp_path / "cache")
    place.manifest.write_text(text)
    assert f"{node} cannot be booted in emulation: {said}" in place.refused(2, "boot", "--node", node)


def test_a_node_must_be_built_first(place: Place) -> None:
    said = place.refused(2, "boot", "--node", "worker1", "--images", "build")
    assert "worker1.json" in said and "piimg build --node worker1" in said


def test_somebody_elses_keys_cannot_log_in(place: Place, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "other.pub").rename(tmp_path / ".ssh" / "other.pub")  # the private half is elsewhere
    env = {"HOME": str(tmp_path), "SSH_AUTH_SOCK": ""}
    said = place.refused(2, "boot", "--node", "worker2", env=env)
    assert "none of your private keys" in said and "--identity" in said


@ROOT
def test_without_room_nothing_is_begun(place: Place, tmp_path: Path) -> None:
    judge.said("mount", "-t", "tmpfs", "-o", "size=16m", "small", tmp_path)
    try:
        said = place.refused(
            1, "boot", "--node", "worker2", "--images", "build", env={"PIIMG_CACHE": str(tmp_path)}
        )
        assert "not enough space to fetch the companion kernel" in said and "PIIMG_CACHE" in said
        said = place.refused(
            1,
            "boot",
            "--node",
            "worker2",
            "--images",
            "build",
            "--machine",
            "raspi3b",
            env={"PIIMG_CACHE": str(tmp_path)},
        )
        assert "not enough space to boot 1 node:" in said
        assert list((tmp_path / "boot").iterdir()) == [tmp_path / "boot" / "lock"]
    finally:
        judge.said("umount", tmp_path)


@pytest.mark.parametrize("missing", ["qemu-system-aarch64", "qemu-img"])
def test_without_qemu_its_package_is_reported(place: Place, tmp_path: Path, missing: str) -> None:
    """On a machine that has everything else, and before a node is prepared."""
    for folder in ("/usr/bin", "/usr/sbin"):
        for program in Path(folder).iterdir():
            link = tmp_path / program.name
            if program.name != missing and not link.exists():
                link.symlink_to(program)
    code = (
        "from imagebuilder.system import process; process._SBIN = '/nowhere'\n"
        "from imagebuilder.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "boot", "--node", "worker1", "--machine", "raspi3b"], cwd=place.folder,
        env={**place.env, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    package = {"qemu-img": "qemu-utils", "qemu-system-aarch64": "qemu-system-arm"}[missing]
    assert done.returncode == 1, done.stderr
    assert f"not installed: {package}" in done.stderr
    assert f"apt-get install -y --no-install-recommends {package}" in done.stderr.replace("\n", " ")
    assert "not prepared yet" not in done.stderr


def test_one_node_has_two_processors_and_several_have_one_each() -> None:
    assert [boards("virt", nodes).processors for nodes in (1, 2, 6)] == [2, 1, 1]
