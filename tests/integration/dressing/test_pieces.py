"""What dressing consists of, without an image: numbers of files, the trial of doctor, lines that failed."""

import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from imagebuilder.dressing import chroot, tidy
from imagebuilder.system.emulation import arm64_program

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep: linux/capability.h, version 2


def test_the_trial_program_is_an_arm64_program(tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_bytes(arm64_program())
    shown = subprocess.run(["readelf", "-h", file], capture_output=True, text=True, check=True).stdout
    assert "AArch64" in shown and "EXEC" in shown


def test_the_line_of_a_script_that_failed(tmp_path: Path) -> None:
    place = f"{chroot.SCRIPTS}/20-a"
    assert chroot.failed_line(tmp_path, [f"{place}: 7: nosuch: not found", "x"], place) == 7
    assert chroot.failed_line(tmp_path, [f"{place}: line 9: nosuch: command not found"], place) == 9
    assert chroot.failed_line(tmp_path, ["E: 5: something else"], place) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_files_keep_modes_and_capabilities_when_their_owner_changes(tmp_path: Path) -> None:
    program, link, other = tmp_path / "program", tmp_path / "link", tmp_path / "folder/other"
    other.parent.mkdir()
    for file in (program, other):
        file.write_text("x")
        os.chown(file, 105, 106)
    program.chmod(0o4755)
    link.symlink_to("program")
    os.chown(link, 105, 0, follow_symlinks=False)
    other.chmod(0o640)
    os.setxattr(other, "security.capability", CAPABILITY)
    os.chown(tmp_path / "folder", 300, 0)  # a new number that is another's old one is not changed twice
    tidy.settle(tmp_path, {105: 300, 300: 400}, {106: 300}, None, 0)
    assert (program.stat().st_uid, program.stat().st_gid) == (300, 300)
    assert stat.S_IMODE(program.stat().st_mode) == 0o4755
    assert link.lstat().st_uid == 300 and other.stat().st_uid == 300
    assert (tmp_path / "folder").stat().st_uid == 400
    assert (
        "cap_net_raw" in subprocess.run(["getcap", other], capture_output=True, text=True, check=True).stdout
    )
    assert stat.S_IMODE(other.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_new_files_get_one_time_and_older_ones_keep_theirs(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    new.touch()
    os.utime(old, (1000, 1000))
    tidy.settle(tmp_path, {}, {}, 2000.0, 1234)
    assert (old.stat().st_mtime, new.stat().st_mtime) == (1000, 1234)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_files_that_fuse_kept_for_a_program_are_removed_when_all_have_ended(tmp_path: Path) -> None:
    hidden, own = tmp_path / "folder/.fuse_hidden000001cc00000001", tmp_path / ".fuse_hidden"
    hidden.parent.mkdir()
    for file in (hidden, own):
        file.touch()
    tidy.settle(tmp_path, {}, {}, None, 0)
    assert hidden.exists()
    tidy.settle(tmp_path, {}, {}, 2000.0, 1234)
    assert not hidden.exists() and own.exists()
    assert hidden.parent.stat().st_mtime == 1234
