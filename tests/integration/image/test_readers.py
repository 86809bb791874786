"""Looking into file systems with bounds: what is there is found, and nothing that is there can confuse."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.errors import PiimgError
from imagebuilder.image import ext4 as ext4_reader
from imagebuilder.image import fat
from imagebuilder.image.ext4 import FileStatus
from imagebuilder.image.firstboot import account, rule_for, settled_command_line, without_partuuids
from imagebuilder.image.untrusted import TooLarge
from imagebuilder.model import Partition
from imagebuilder.system.process import ToolError, run, streaming

MIB = 1 << 20
START = 3 * MIB
FORGED = b'#0 1\ndebugfs: stat "/etc"\nInode: 2   Type: directory    Mode:  0777   Flags: 0x0\n'


@pytest.fixture
def ext4(tmp_path: Path) -> Path:
    """An image whose ext4 file system begins at ``START``; its own name would lead debugfs astray."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "forged").write_bytes(FORGED * 50)
    (tree / "a \"b\" 'c' d").write_bytes(b"quoted\n")
    (tree / "empty").touch()
    (tree / "large").write_bytes(os.urandom(MIB))
    (tree / "short").symlink_to("large")
    (tree / "long").symlink_to("x" * 100)
    (tree / "folder").mkdir(mode=0o750)
    (tree / "large").chmod(0o4711)
    image = tmp_path / "card?offset=0@@0.img"
    image.touch()
    os.truncate(image, 16 * MIB)
    plain = tmp_path / "plain"
    run(["mkfs.ext4", "-q", "-d", tree, plain, "8M"])
    run(["dd", f"if={plain}", f"of={image}", f"seek={START}", "oflag=seek_bytes", "conv=notrunc", "bs=1M"])
    return image


def test_what_is_there_is_found(ext4: Path) -> None:
    paths = ["/large", "/nothing", 'x"', "/a \"b\" 'c' d", "/short", "/long", "/folder", "/forged", "/empty"]
    found = ext4_reader.stat(ext4, START, paths)
    assert set(paths) - set(found) == {"/nothing", 'x"'}
    owner = (os.getuid(), os.getgid())
    assert found["/large"] == FileStatus("regular", 0o4711, *owner, MIB)
    assert found["/short"] == FileStatus("symlink", 0o777, *owner, 5, b"large")
    assert (found["/long"].kind, found["/long"].size, found["/long"].target) == ("symlink", 100, b"")
    assert (found["/folder"].kind, found["/folder"].mode) == ("directory", 0o750)


def test_the_names_in_a_folder(ext4: Path) -> None:
    names = {"forged", "a \"b\" 'c' d", "empty", "large", "short", "long", "folder", "lost+found"}
    found = ext4_reader.names(ext4, START, ["/", "/folder", "/nothing", "/large"])
    assert set(found["/"]) == names
    assert found["/folder"] == found["/nothing"] == found["/large"] == []


def test_contents_are_told_apart_whatever_they_hold(ext4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ext4.with_name("tree")
    names = ["forged", "a \"b\" 'c' d", "empty", "large"]
    sizes = {f"/{name}": (tree / name).stat().st_size for name in names}
    wanted = {f"/{name}": (tree / name).read_bytes() for name in names}
    assert dict(ext4_reader.read(ext4, START, sizes)) == wanted
    monkeypatch.setattr(ext4_reader, "_BATCH", 100)  # each in a run of its own
    assert dict(ext4_reader.read(ext4, START, sizes)) == wanted


def test_a_link_is_not_followed_out_of_the_image(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "etc").symlink_to("/etc")
    (tree / "passwd").symlink_to("/etc/passwd")
    image = tmp_path / "image"
    run(["mkfs.ext4", "-q", "-d", tree, image, "8M"])
    found = ext4_reader.stat(image, 0, ["/etc/passwd", "/passwd"])
    assert list(found) == ["/passwd"] and found["/passwd"].kind == "symlink"


def test_what_cannot_be_read_is_reported(ext4: Path, tmp_path: Path) -> None:
    with pytest.raises(PiimgError, match="has no ext4 file system"):
        ext4_reader.stat(ext4, 0, ["/large"])
    with pytest.raises(PiimgError, match="No such file"):
        ext4_reader.stat(tmp_path / "nothing", 0, ["/large"])
    with pytest.raises(PiimgError, match="cannot be looked up"):
        ext4_reader.stat(ext4, START, ["/large\nstat /empty"])
    with pytest.raises(PiimgError, match="cannot read its boot partition"):
        fat.read_file(ext4, 0, "/piimg.json", 100)


def test_a_fat_file_system_is_read_in_bounds(tmp_path: Path) -> None:
    image = tmp_path / "fat@@7"
    image.touch()
    os.truncate(image, 8 * MIB)
    run(["mkfs.vfat", image])
    (tmp_path / "file").write_bytes(b"x" * 1000)
    with image.open("rb") as stream:
        name = f"/dev/fd/{stream.fileno()}"
        run(["mmd", "-i", name, "::/folder"], pass_fds=(stream.fileno(),))
        run(["mcopy", "-i", name, tmp_path / "file", "::/folder/a[1]"], pass_fds=(stream.fileno(),))
    assert fat.read_file(image, 0, "/folder/a[1]", 1000) == b"x" * 1000
    assert fat.read_file(image, 0, "/folder/b", 1000) is None
    with pytest.raises(TooLarge):
        fat.read_file(image, 0, "/folder/a[1]", 999)
    assert fat.is_folder(image, 0, "/Folder")
    assert not fat.is_folder(image, 0, "/folder/a[1]")
    assert not fat.is_folder(image, 0, "/nothing")


def test_a_program_that_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(ToolError) as raised, streaming(["sleep", "60"], patience=0.2) as output:
        assert output.read() == b""
    assert raised.value.status == -9
    assert time.monotonic() - began < 10


@given(st.binary() | st.binary().map(lambda more: FORGED + more))
def test_whatever_debugfs_says_is_taken_apart(said: bytes) -> None:
    found = ext4_reader.parse_stat(said)
    assert found is None or found.mode >= 0


@pytest.mark.parametrize(
    ("partition", "path", "expected"),
    [
        (Partition.BOOT, "/ssh", "gone"),
        (Partition.BOOT, "/USERCONF.TXT", "gone"),
        (Partition.BOOT, "/piimg.json", ""),
        (Partition.ROOT, "/ssh", ""),
        (Partition.ROOT, "/home/pi/.ssh/authorized_keys", "moved"),
        (Partition.ROOT, "/home/pirate/x", ""),
        (Partition.ROOT, "/etc/fstab", "edited"),
        (Partition.ROOT, "/etc/ssh/ssh_host_rsa_key.pub", "the machine's own"),
        (Partition.ROOT, "/etc/piimg/ssh/ssh_host_ed25519_key", ""),
        (Partition.ROOT, "/etc/hostname", ""),
    ],
)
def test_the_first_boot_has_business_with_few_paths(partition: Partition, path: str, expected: str) -> None:
    rule = rule_for(partition, path)
    assert (rule.change.value if rule else "") == expected


def test_what_the_first_boot_edits_is_left_out() -> None:
    before = b"console=tty1 root=PARTUUID=7213e12c-02 rootwait quiet init=/usr/lib/x/firstboot\n"
    after = b"console=tty1 root=PARTUUID=1a2b3c4d-02 rootwait\n"
    assert settled_command_line(before) == settled_command_line(after)
    assert settled_command_line(before) != settled_command_line(after.replace(b"-02", b"-01"))
    assert settled_command_line(b"init=/bin/sh x") == b"init=/bin/sh x"
    assert without_partuuids(b"PARTUUID=7213e12c-02 /\n") == without_partuuids(b"PARTUUID=1A2B3C4D-02 /\n")


def test_the_account_is_what_userconf_says() -> None:
    assert account(b"ops:$6$x$y\n") == "ops"
    for other in (None, b"", b"Ops:x", b"../x:y", b"a" * 40 + b":x", b"\xff:x"):
        assert account(other) == "pi"


def test_the_serial_of_a_fat_is_that_of_blkid(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 64 * MIB)
    run(["mkfs.vfat", "-F", "32", "-i", "0badcafe", image])
    found = run(["blkid", "-p", "-o", "value", "-s", "UUID", image]).stdout.decode().strip()
    assert fat.serial(image, 0) == found.lower() == "0bad-cafe"
    assert fat.geometry(image, 0, 64 * MIB).wide
    assert fat.boot_sector(image, 64 * MIB) == bytes(512), "after the end there are zeros"
