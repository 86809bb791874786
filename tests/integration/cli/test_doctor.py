"""`piimg doctor` on this machine, with real things taken away. In bare systems: tests/system/install."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.requirements.uses import USES
from imagebuilder.system.process import PACKAGES, run

PIIMG = [sys.executable, "-c", "from imagebuilder.cli.main import main; main()"]
UNUSED = {"gpg"}  # users export keys with it; piimg itself does not run it

HOME = Path("/mnt")
ROOMY = f"mount -t tmpfs -o size=20g tmpfs {HOME}; cd {HOME}; "
"""The room on this machine's disks is not what these tests are about."""

# Become an ordinary user once everything is imported: the interpreter itself may lie in root's home.
AS_USER = """
import importlib, os, parted, pyudev
from imagebuilder.cli.main import main
for name in ("cli.usage.doctor", "cli.commands.doctor", "image.partitions", "device.discovery"):
    importlib.import_module(f"imagebuilder.{name}")
os.setgroups([]), os.setgid(65534), os.setuid(65534)
main()
"""


def doctor(*words: str, before: str = "", argv: Sequence[str] = PIIMG) -> dict[str, Any]:
    """What the doctor says when ``before`` was done to a namespace of its own, and its exit code."""
    if os.geteuid() != 0:
        pytest.skip("taking things away needs root")
    script = f'{ROOMY}{before}\nexec "$@"'
    away = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", script, "sh"]
    env = {**os.environ, "HOME": str(HOME), "PIIMG_CACHE": str(HOME / "cache")}
    env.pop("XDG_RUNTIME_DIR", None)
    done = subprocess.run(
        [*away, *argv, "doctor", "--json", *words], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if document["ready"] else 1)
    assert document["ready"] == all(one["ready"] for one in document["uses"] if not one["optional"])
    assert all(one["ready"] == (not one["missing"]) for one in document["uses"])
    assert {one["use"] for one in document["uses"] if one["optional"]} == (
        set() if words else {"packages", "web", "pdf"}
    )
    return {one["use"]: one for one in document["uses"]}


def fixes(use: dict[str, Any]) -> dict[str, str]:
    """What is missing for a use, with what fixes it."""
    return {one["what"]: one["fix"] for one in use["missing"]}


def test_every_program_that_piimg_may_run_is_in_the_table() -> None:
    named = {package for use in USES.values() for root in (True, False) for package in use.all_packages(root)}
    assert named | UNUSED == set(PACKAGES.values())


def test_a_machine_that_has_all_of_it_is_ready_and_left_as_it_was() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    before = _held()
    said = doctor()
    assert {"build", "flash", "boot"} <= set(said) <= set(USES)
    assert {use: fixes(one) for use, one in said.items()} == {use: {} for use in said}
    assert _held() == before


def _held() -> tuple[list[str], list[str]]:
    """The loop devices of doctors, and piimg's notes of what it holds."""
    listed = run(["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"]).stdout.decode()
    loops = [line for line in listed.splitlines() if "piimg-doctor-" in line]
    return loops, sorted(str(path) for path in Path("/run/piimg").glob("*"))


@pytest.mark.parametrize(
    ("program", "package", "uses"),
    [
        ("mcopy", "mtools", {"build", "boot", "flash", "backup", "station"}),
        ("losetup", "mount", {"build", "packages", "flash", "station"}),
        ("qemu-img", "qemu-utils", {"boot"}),
        ("xz", "xz-utils", {"build"}),
        ("unzip", "unzip", {"build"}),
    ],
)
def test_a_program_that_is_missing_is_named_by_its_package(
    program: str, package: str, uses: set[str]
) -> None:
    said = doctor(before=f"mount --bind /dev/null $(readlink -f $(command -v {program}))")
    lacking = {use: fixes(one) for use, one in said.items() if not one["ready"]}
    assert set(lacking) == uses & set(said)
    for found in lacking.values():
        [(what, fix)] = found.items()
        assert what == f"not installed: {package}"
        assert fix.endswith(f"apt-get install -y --no-install-recommends {package}")


def test_a_machine_without_fuse_builds_as_root_but_not_as_a_user() -> None:
    hidden = "mount -t tmpfs none /dev; mknod -m 0666 /dev/null c 1 3; "
    nodes = "mknod -m 0660 /dev/loop-control c 10 237"
    assert doctor("build", before=hidden + nodes)["build"]["ready"]
    user = doctor("build", before=f"{hidden}chown 65534 .", argv=[sys.executable, "-c", AS_USER])
    assert list(fixes(user["build"])) == ["/dev/fuse is missing"]


def test_what_only_packages_need_counts_only_if_packages_are_named() -> None:
    """``doctor`` above compares the exit code with what is not optional."""
    away = "chown 65534 .; mount --bind /dev/null $(readlink -f $(command -v newuidmap))"
    for words in ((), ("packages",)):
        said = doctor(*words, before=away, argv=[sys.executable, "-c", AS_USER])
        assert "not installed: uidmap" in fixes(said["packages"])


def test_a_user_may_build_but_not_write_cards_until_in_the_group() -> None:
    as_user = [sys.executable, "-c", AS_USER]
    said = doctor(before="chown 65534 .", argv=as_user)
    assert said["build"]["ready"] and said["boot"]["ready"]
    for use in {"flash", "station"} & set(said):
        [(what, fix)] = fixes(said[use]).items()
        assert what == "this user has no permission to write to cards"
        assert "usermod -aG disk nobody" in fix
    [what] = fixes(said["backup"])
    assert what == "this user has no permission to read cards"
    in_group = [
        sys.executable,
        "-c",
        AS_USER.replace("setgroups([])", "setgroups([__import__('grp').getgrnam('disk').gr_gid])"),
    ]
    assert doctor("flash", before="chown 65534 .", argv=in_group)["flash"]["ready"]


@pytest.mark.parametrize(
    "drop",
    [
        ["unshare", "--user", "--map-root-user"],
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"],
    ],
    ids=["user-namespace", "no-capability"],
)
def test_a_root_that_may_not_mount_is_reported_so(drop: list[str]) -> None:
    found = fixes(doctor("build", argv=[*drop, *PIIMG])["build"])
    assert list(found) == ["this root user may not mount file systems"]


def test_too_little_room_is_reported_of_once_a_disk() -> None:
    small = f"mount -t tmpfs -o size=1g tmpfs {HOME}; cd {HOME}"
    said = doctor(before=small)
    for use, needed in (("build", 8), ("boot", 3)):
        [what] = fixes(said[use])
        assert what.startswith(f"{HOME} has 1.0 GiB free") and what.endswith(f"needs about {needed} GiB")
    assert said["flash"]["ready"]


def test_a_use_that_there_is_not_is_wrong_usage() -> None:
    done = subprocess.run([*PIIMG, "doctor", "bulid"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'bulid' is not one of 'build', 'packages', 'flash', 'backup', 'boot'" in done.stderr


def test_the_text_says_the_same(tmp_path: Path) -> None:
    """One heading a use; below it what is missing, and further in what fixes it."""
    env = {**os.environ, "PIIMG_CACHE": str(tmp_path)}
    words = [*PIIMG, "doctor"]
    text = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    data = subprocess.run(
        [*words, "--json"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert text.returncode == data.returncode
    lines = []
    for load in json.loads(data.stdout)["uses"]:
        when = " (only for nodes with packages or build scripts)" if load["optional"] else ""
        lines.append(f"{load['use']}: {'ready' if load['ready'] else f'not ready{when}'}")
        for lack in load["missing"]:
            lines += [f"  {lack['what']}", f"      {lack['fix']}"]
        lines += [f"  note: {note}" for note in load["notes"]]
    assert sorted(text.stdout.splitlines()) == sorted(lines)
