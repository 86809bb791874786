"""The tree digest, computed a second time by debugfs and mtools, from the description alone."""

import hashlib
import os
import re
import socket
import struct
import tempfile
from collections.abc import Callable, Container
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError
from imagebuilder.image.digest import TreeEntry, digest, records_of, walk_boot, walk_root
from imagebuilder.model import Partition
from imagebuilder.system.process import run
from tests.integration.image.making import Made, fill_boot, make_image, mounted_root, needs_root

EPOCH = 1_600_000_001  # odd: FAT rounds it down to an even second


ROOT_WRITTEN = {b"/etc/hostname", b"/etc/link", b"/usr", b"/caf\xe9"}


BOOT_WRITTEN = {b"/cmdline.txt", b"/Overlays"}


def furnish(root: Path, *, backwards: bool = False) -> None:
    """Put one of every odd thing into a mounted file system."""
    steps: list[Callable[[], object]] = [
        lambda: (root / "etc" / "hostname").write_text("worker1\n"),
        (root / "etc" / "empty").touch,
        lambda: (root / "etc" / "link").symlink_to("../usr//./bin"),
        lambda: (root / "etc" / "long").symlink_to("x" * 1000),
        lambda: (root / "usr" / "spaces and\ttabs").write_bytes(b"\0" * 5000),
        lambda: os.link(root / "etc" / "hostname", root / "usr" / "hard"),
        lambda: sparse(root / "usr" / "sparse"),
        lambda: os.mknod(root / "usr" / "zero", 0o20666, os.makedev(1, 5)),
        lambda: os.mknod(root / "usr" / "disk", 0o60660, os.makedev(259, 70000)),
        lambda: os.mkfifo(root / "usr" / "pipe", 0o600),
        lambda: unix_socket(root / "usr" / "socket"),
        lambda: (root / os.fsdecode(b"caf\xe9")).write_bytes(b"latin-1"),
        lambda: (root / "usr" / "large").write_bytes(bytes(range(256)) * 4000),
    ]
    for name in ("etc", "usr"):
        (root / name).mkdir()
    if backwards:
        steps = [steps[0], *reversed(steps[1:])]
    for step in steps:
        step()
    os.chown(root / "usr" / "large", 1000, 70000)
    (root / "usr" / "large").chmod(0o4755)
    os.lchown(root / "etc" / "link", 7, 8)
    os.setxattr(root / "usr" / "large", "security.capability", struct.pack("<IQQ", 0x02000001, 1 << 10, 0))
    os.setxattr(root / "usr" / "large", "user.long", b"\0" + b"v" * 700)
    os.setxattr(root / "etc", "trusted.note", b"")
    os.setxattr(root / "etc" / "link", "trusted.note", b"of the link", follow_symlinks=False)
    acl = struct.pack(
        "<I" + "HHI" * 5, 2, 1, 6, 2**32 - 1, 2, 4, 1000, 4, 4, 2**32 - 1, 16, 4, 2**32 - 1, 32, 0, 2**32 - 1
    )
    os.setxattr(root / "etc" / "empty", "system.posix_acl_access", acl)
    for path in ROOT_WRITTEN:
        os.utime(root / os.fsdecode(path[1:]), (EPOCH, EPOCH), follow_symlinks=False)


def sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1_000_000)
        stream.seek(500_000)
        stream.write(b"island")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def netstring(data: bytes) -> bytes:
    return str(len(data)).encode() + b":" + data + b","


def kernel_acl(stored: bytes) -> bytes:
    """An access list as getxattr gives it, from ext4's form, which leaves out ids that do not matter.

    Linux: include/uapi/linux/posix_acl_xattr.h and fs/ext4/acl.h.
    """
    given, at = struct.pack("<I", 2), 4
    while at < len(stored):
        tag, permissions = struct.unpack_from("<HH", stored, at)
        named = tag in (2, 8)  # a user's or a group's
        (who,) = struct.unpack_from("<I", stored, at + 4) if named else (2**32 - 1,)
        given += struct.pack("<HHI", tag, permissions, who)
        at += 8 if named else 4
    return given


def by_debugfs(made: Made, folder: Path) -> list[tuple[bytes, bytes, bytes]]:
    """Partition, path and record of every path of the root partition."""

    def ask(command: str) -> bytes:
        return run(["debugfs", "-R", command, made.root]).stdout

    def visit(path: bytes, inode: str) -> None:
        said = ask(f"stat <{inode}>").decode("latin-1")
        kind = re.findall(r"Type: (\w+(?: special)?)", said)[0]
        mode = int(re.findall(r"Mode: +(\d+)", said)[0], 8)
        uid, gid = re.findall(r"User: +(\d+) +Group: +(\d+)", said)[0]
        mtime = str(int(re.findall(r"mtime: 0x([0-9a-f]+)", said)[0], 16))
        letter, data = (
            {"directory": "d", "regular": "f", "symlink": "l", "FIFO": "p", "socket": "s"}.get(kind),
            b"",
        )
        if kind in ("character special", "block special"):
            major, minor = re.findall(r"Device major/minor number: (\d+):(\d+)", said)[0]
            letter, data = kind[0], f"{int(major)}:{int(minor)}".encode()
        if kind == "regular":
            (folder / "dump").unlink(missing_ok=True)
            ask(f'dump <{inode}> "{folder / "dump"}"')
            data = hashlib.sha256((folder / "dump").read_bytes()).hexdigest().encode()
        if kind == "symlink":
            fast = re.findall(r'Fast link dest: "(.*)"', said)
            data = fast[0].encode("latin-1") if fast else ask(f"cat <{inode}>")
        assert letter is not None, said
        fields = [b"root", path, letter.encode(), f"{mode:o}".encode(), uid.encode(), gid.encode(), data]
        fields.append(mtime.encode() if path in ROOT_WRITTEN else b"")
        names = re.findall(rb"^  ([\w.]+) \(\d+\)", ask(f"ea_list <{inode}>"), re.M)
        for name in sorted(names):
            (folder / "value").unlink(missing_ok=True)
            ask(f'ea_get -r -f "{folder / "value"}" <{inode}> {name.decode()}')
            value = (folder / "value").read_bytes()
            fields += [name, kernel_acl(value) if name.startswith(b"system.posix_acl") else value]
        records.append((b"root", path, netstring(b"".join(netstring(field) for field in fields))))
        if kind == "directory":
            for line in ask(f"ls -p <{inode}>").splitlines():
                if line.startswith(b"/"):
                    _, child, _, _, _, name, _, _ = line.split(b"/")
                    if child != b"0" and name not in (b".", b".."):
                        visit(path.rstrip(b"/") + b"/" + name, child.decode())

    records: list[tuple[bytes, bytes, bytes]] = []
    visit(b"/", "2")
    return records


def by_mtools(made: Made, folder: Path) -> list[tuple[bytes, bytes, bytes]]:
    """Partition, path and record of every path of the boot partition, each asked for by itself."""
    names = run(["mdir", "-/", "-a", "-b", "-i", made.boot, "::"]).stdout.decode().splitlines()
    records = []
    for name in ["::/", *names]:
        path = (name.removeprefix("::").rstrip("/") or "/").encode()
        letter, data, mtime = ("d", b"", b"") if name.endswith("/") else ("f", b"", b"")
        if letter == "f":
            data = hashlib.sha256(run(["mtype", "-i", made.boot, name]).stdout).hexdigest().encode()
        if path in BOOT_WRITTEN:
            target = folder / "apart"
            target.mkdir(exist_ok=True)
            run(["mcopy", "-s", "-n", "-m", "-i", made.boot, name.rstrip("/"), target])
            mtime = str(int((target / path.decode().lstrip("/")).stat().st_mtime)).encode()
        fields = [b"boot", path, letter.encode(), b"0", b"0", b"0", data, mtime]
        records.append((b"boot", path, netstring(b"".join(map(netstring, fields)))))
    return records


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return furnished(tmp_path, backwards=False)


def furnished(folder: Path, *, backwards: bool) -> Made:
    folder.mkdir(exist_ok=True)
    made = make_image(folder / "odd one.img", root=32768, ext=("-b", "1024"))
    source = folder / "boot"
    source.mkdir()
    files = {
        "cmdline.txt": b"console=tty1\n",
        "Overlays/Long näme of a file.dtbo": b"",
        "config.txt": b"x" * 5000,
    }
    for name, content in files.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    for name in ("cmdline.txt", "Overlays"):
        os.utime(source / name, (EPOCH, EPOCH))
    run(["mcopy", "-s", "-m", "-i", made.boot, *sorted(source.iterdir(), reverse=backwards), "::/"])
    with mounted_root(made, folder / "mnt") as root:
        furnish(root, backwards=backwards)
    return made


def ours(made: Made, folder: Path) -> list[TreeEntry]:
    with mounted_root(made, folder / "mnt", "ro,nosuid,nodev,noexec") as root:
        return [*walk_root(root, ROOT_WRITTEN), *on_boot(made.path, made.boot_at, BOOT_WRITTEN)]


def on_boot(image: Path, offset: int, written: Container[bytes] = ()) -> list[TreeEntry]:
    """Every path of a boot partition."""
    with tempfile.TemporaryDirectory() as folder:
        return list(walk_boot(image, offset, Path(folder), written))


@needs_root
def test_debugfs_and_mtools_give_the_same_digest(made: Made, tmp_path: Path) -> None:
    records = by_debugfs(made, tmp_path) + by_mtools(made, tmp_path)
    expected = hashlib.sha256(b"".join(record for _, _, record in sorted(records))).hexdigest()
    entries = ours(made, tmp_path)
    each = {(partition, path): hashlib.sha256(record).hexdigest() for partition, path, record in records}
    assert {(entry.partition.encode(), entry.path): digest(records_of([entry])) for entry in entries} == each
    assert digest(records_of(entries)) == expected
    # and the odd things are there at all
    found = {entry.path: entry for entry in entries if entry.partition is Partition.ROOT}
    assert {entry.kind for entry in entries} == set("fdlcbps")
    assert found[b"/usr/disk"].data == b"259:70000"
    assert found[b"/etc/link"].data == b"../usr//./bin"
    assert found[b"/etc/long"].data == b"x" * 1000
    assert found[b"/caf\xe9"].mtime == EPOCH
    assert (
        found[b"/usr/hard"].data
        == found[b"/etc/hostname"].data
        == hashlib.sha256(b"worker1\n").hexdigest().encode()
    )
    assert [name for name, _ in found[b"/etc/empty"].xattrs] == [b"system.posix_acl_access"]
    assert len(found[b"/usr/large"].xattrs) == 2
    assert b"/lost+found" in found
    boot = {entry.path: entry for entry in entries if entry.partition is Partition.BOOT}
    assert set(boot) == {
        b"/",
        b"/cmdline.txt",
        b"/config.txt",
        b"/Overlays",
        "/Overlays/Long näme of a file.dtbo".encode(),
    }
    assert boot[b"/cmdline.txt"].mtime == EPOCH - 1


@needs_root
def test_another_image_with_the_same_tree_has_the_same_digest(made: Made, tmp_path: Path) -> None:
    other = furnished(tmp_path / "other", backwards=True)
    assert other.path.read_bytes() != made.path.read_bytes()
    same = digest(records_of(ours(made, tmp_path)))
    assert digest(records_of(ours(other, tmp_path))) == same

    def after(change: str) -> str:
        with mounted_root(other, tmp_path / "mnt") as root:
            exec_change(root, change)
        return digest(records_of(ours(other, tmp_path)))

    assert after("touch what nobody wrote") == same
    seen = {same}
    for change in ("touch what the overlay wrote", "mode", "owner", "attribute", "content", "link", "remove"):
        changed = after(change)
        assert changed not in seen, change
        seen.add(changed)


def exec_change(root: Path, change: str) -> None:
    large, link = root / "usr" / "large", root / "etc" / "link"
    match change:
        case "touch what nobody wrote":
            os.utime(large, (1, 1))
        case "touch what the overlay wrote":
            os.utime(root / "usr", (1, 1))
        case "mode":
            large.chmod(0o755)
        case "owner":
            os.lchown(root / "etc" / "long", 0, 1)
        case "attribute":
            os.setxattr(large, "user.long", b"short")
        case "content":
            (root / "etc" / "empty").write_bytes(b"!")
        case "link":
            link.unlink()
            link.symlink_to("../usr/bin")
        case "remove":
            (root / "usr" / "hard").unlink()


def test_a_boot_partition_by_any_name_of_its_image(tmp_path: Path) -> None:
    made = make_image(tmp_path / "plain.img")
    fill_boot(made, tmp_path / "boot", {"a/b.txt": b"b"})
    expected = on_boot(made.path, made.boot_at)
    assert {entry.path for entry in expected} == {b"/", b"/a", b"/a/b.txt"}
    odd = made.path.rename(tmp_path / "node @@7?offset=1.img")
    assert on_boot(odd, made.boot_at) == expected


def test_what_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(PiimgError, match="cannot read"):
        list(walk_root(tmp_path / "missing"))
    with pytest.raises(PiimgError, match="cannot read"):
        on_boot(tmp_path / "missing", 0)
    (tmp_path / "zeros").write_bytes(bytes(1 << 20))
    with pytest.raises(PiimgError, match="zeros: cannot read its boot partition"):
        on_boot(tmp_path / "zeros", 0)
    deep = tmp_path / "deep"
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(PiimgError, match=r"cannot read .*too long"):
        list(walk_root(deep))
