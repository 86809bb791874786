"""What piimg saves: what is there is replaced, written into or refused, and nothing else is ever touched.

No test names a device of this machine: they make nodes of their own.
"""

import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError
from imagebuilder.image.results import Results
from imagebuilder.system import files, save_path

OTHER, THIRD = 12345, 23456  # users that this machine need not have
NULL, FULL = os.makedev(1, 3), os.makedev(1, 7)
LOOP = os.makedev(7, 250)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of ours that nobody else may write to."""
    folder = tmp_path / "own"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    return folder


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder as /tmp is one."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def node(path: Path, kind: int, device: int) -> Path:
    """A device node; only root makes one."""
    if os.geteuid() != 0:
        pytest.skip("making device nodes needs root")
    os.mknod(path, kind | 0o666, device)
    return path


def belongs_to(path: Path, user: int) -> Path:
    """Give a file or a link away; only root can."""
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    os.chown(path, user, user, follow_symlinks=False)
    return path


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def refused(path: Path, *words: str, stream: bool = True) -> None:
    """Saving at ``path`` is refused in one sentence that has ``words``, and leaves all as it was."""
    before = path.lstat()
    around = names(path.parent)
    for by_path in (False, True):
        with pytest.raises(OSError) as raised:
            if by_path:
                replace(path)
            else:
                files.write(path, b"new", stream=stream)
        assert raised.value.filename == str(path)
        assert all(word in (raised.value.strerror or "") for word in words), raised.value
    after = path.lstat()
    kept = ("st_ino", "st_mode", "st_rdev", "st_uid", "st_size")
    assert [getattr(before, one) for one in kept] == [getattr(after, one) for one in kept]
    assert names(path.parent) == around


def replace(path: Path) -> None:
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"new")


@contextmanager
def reader(path: Path) -> Iterator[list[bytes]]:
    """Somebody who reads a pipe to its end."""
    taken: list[bytes] = []
    reads = threading.Thread(target=lambda: taken.append(path.read_bytes()))
    keeps = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # so that a writer finds a reader at once
    reads.start()
    yield taken
    reads.join(10)
    os.close(keeps)
    assert not reads.is_alive()


def test_a_file_is_made_and_replaced_and_nothing_is_left_beside_it(folder: Path) -> None:
    path = folder / "report.json"
    files.write(path, b"old")
    first = path.stat()
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != first.st_ino
    replace(path)
    assert names(folder) == ["report.json"]
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert (path.read_bytes(), names(folder)) == (b"new", ["report.json"])


def test_the_umask_counts_for_a_new_file(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write(folder / "report.json", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "report.json").stat().st_mode) == 0o600


def test_a_file_keeps_its_owner_and_any_stricter_mode(folder: Path) -> None:
    path = folder / "report.json"
    path.write_bytes(b"old")
    path.chmod(0o600)
    belongs_to(path, OTHER)
    files.write(path, b"new")
    now = path.stat()
    assert (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid) == (0o600, OTHER, OTHER)
    path.chmod(0o666)
    files.write(path, b"secret", 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_block_device_is_refused_and_its_node_stays(folder: Path) -> None:
    disk = node(folder / "disk", stat.S_IFBLK, LOOP)
    refused(disk, "block device")
    (folder / "link").symlink_to("disk")
    refused(folder / "link", "block device")


def test_a_character_device_is_written_into(folder: Path) -> None:
    null = node(folder / "null", stat.S_IFCHR, NULL)
    (folder / "link").symlink_to("null")
    (folder / "link to link").symlink_to(folder / "link")
    for path in (null, folder / "link", folder / "link to link"):
        files.write_json(path, {"a": 1}, stream=True)
    assert null.lstat().st_rdev == NULL
    assert stat.S_ISLNK((folder / "link").lstat().st_mode)
    full = node(folder / "full", stat.S_IFCHR, FULL)
    with pytest.raises(OSError, match="No space left on device"):
        files.write(full, b"x", stream=True)
    assert full.lstat().st_rdev == FULL
    assert names(folder) == ["full", "link", "link to link", "null"]


def test_what_must_be_a_file_is_never_a_device(folder: Path) -> None:
    refused(
        node(folder / "null", stat.S_IFCHR, NULL), "character device", "file is to be created", stream=False
    )
    os.mkfifo(folder / "pipe")
    refused(folder / "pipe", "pipe", "file is to be created", stream=False)


def test_a_pipe_is_written_into_when_somebody_reads(folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    (folder / "link").symlink_to("pipe")
    content = os.urandom(300_000)  # more than a pipe holds
    for path in (pipe, folder / "link"):
        with reader(pipe) as taken:
            files.write(path, content, stream=True)
        assert taken == [content]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert names(folder) == ["link", "pipe"]


def test_a_pipe_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no program reads from"):
        files.write(pipe, b"x", stream=True)
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    idle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(TimeoutError, match="accepted no data"):
        files.write(pipe, bytes(300_000), stream=True)
    os.close(idle)


def test_a_link_is_kept_and_what_it_leads_to_is_replaced(folder: Path) -> None:
    (folder / "deep").mkdir()
    real = folder / "deep" / "real.json"
    real.write_bytes(b"old")
    for link, text in (("relative", "deep/../deep/real.json"), ("absolute", str(real))):
        (folder / link).symlink_to(text)
        files.write(folder / link, link.encode())
        assert real.read_bytes() == link.encode()
        assert str((folder / link).readlink()) == text
    with files.replacing(folder / "relative") as temporary:
        assert temporary.parent == folder / "deep"
        temporary.write_bytes(b"by path")
    assert real.read_bytes() == b"by path"
    assert names(folder / "deep") == ["real.json"]


def test_a_link_to_nothing_makes_what_it_names(folder: Path) -> None:
    (folder / "link").symlink_to("made.json")
    files.write(folder / "link", b"x")
    assert ((folder / "made.json").read_bytes(), str((folder / "link").readlink())) == (b"x", "made.json")
    (folder / "lost").symlink_to("no/such/save_path.json")
    with pytest.raises(OSError, match="there is no folder no"):
        files.write(folder / "lost", b"x")


def test_links_in_a_circle_and_folders_are_refused(folder: Path) -> None:
    (folder / "one").symlink_to("other")
    (folder / "other").symlink_to("one")
    refused(folder / "one", "form a loop")
    (folder / "inner").mkdir()
    refused(folder / "inner", "a folder")
    (folder / "to").symlink_to("inner/")
    refused(folder / "to", "a folder")
    for path in (folder / "inner" / "..", Path("/"), Path()):
        with pytest.raises(OSError, match="a folder"):
            files.write(path, b"x", stream=True)
    (folder / "file").write_bytes(b"")
    with pytest.raises(OSError, match="not a folder"):
        files.write(folder / "file" / "x.json", b"x")


def test_no_link_of_somebody_else_leads_out_of_a_shared_folder(folder: Path, shared: Path) -> None:
    victim = folder / "victim"
    victim.write_bytes(b"precious")
    belongs_to(shared, THIRD)
    for name, text in (("link", victim), ("lost", folder / "made"), ("way", folder)):
        (shared / name).symlink_to(text)
        belongs_to(shared / name, OTHER)
    for mode in (0o1777, 0o777, 0o775):
        shared.chmod(mode)
        refused(shared / "link", "another user")
        refused(shared / "lost", "another user")
        with pytest.raises(OSError, match="another user"):
            files.write(shared / "way" / "victim", b"x")
    assert (victim.read_bytes(), names(folder)) == (b"precious", ["victim"])
    (shared / "first").symlink_to("link")  # one of ours that leads to one of theirs
    refused(shared / "first", "another user")
    for owner in (os.geteuid(), THIRD):  # our own, and that of the folder's owner
        belongs_to(shared / "link", owner)
        files.write(shared / "link", b"x")
        assert victim.read_bytes() == b"x"
    shared.chmod(0o755)  # nobody but its owner puts anything there
    belongs_to(shared / "link", OTHER)
    files.write(shared / "link", b"y")


def test_no_file_or_pipe_of_somebody_else_is_taken_in_a_sticky_folder(shared: Path) -> None:
    path, pipe = shared / "report.json", shared / "pipe"
    path.write_bytes(b"theirs")
    belongs_to(path, OTHER)
    refused(path, "another user")
    os.mkfifo(pipe)
    belongs_to(pipe, OTHER)
    refused(pipe, "another user")
    shared.chmod(0o775)  # a team's folder: each may replace what another made
    os.chown(shared, THIRD, -1)
    files.write(path, b"ours", 0o600)
    now = path.stat()
    assert (now.st_uid, stat.S_IMODE(now.st_mode), path.read_bytes()) == (0, 0o600, b"ours")


def test_a_folder_that_is_swapped_does_not_lead_elsewhere(folder: Path) -> None:
    build, elsewhere = folder / "build", folder / "elsewhere"
    build.mkdir()
    elsewhere.mkdir()
    with files.replacing(build / "x.json") as temporary:
        temporary.write_bytes(b"new")
        build.rename(folder / "aside")
        build.symlink_to(elsewhere)
    assert (names(elsewhere), (folder / "aside" / "x.json").read_bytes()) == ([], b"new")
    assert names(folder / "aside") == ["x.json"]


def test_what_comes_to_be_there_meanwhile_is_not_replaced(folder: Path) -> None:
    path = folder / "x.json"
    with pytest.raises(OSError, match="it is now a block device"), files.replacing(path) as temporary:
        temporary.write_bytes(b"new")
        node(path, stat.S_IFBLK, LOOP)
    assert stat.S_ISBLK(path.lstat().st_mode)
    path.unlink()
    with pytest.raises(OSError, match="removed the unfinished file"), files.replacing(path) as temporary:
        temporary.unlink()
        temporary.symlink_to("/nowhere")
    assert not path.is_symlink()


def test_what_is_there_is_decided_once_on_what_is_open(folder: Path) -> None:
    null = node(folder / "null", stat.S_IFCHR, NULL)
    with save_path.found(null) as found:
        null.rename(folder / "aside")
        (folder / "null").write_bytes(b"a file now")
        assert (found.is_stream, found.found and found.found.st_rdev) == (True, NULL)
        files._send(found, b"into the device")
    assert (folder / "null").read_bytes() == b"a file now"


def test_our_own_descriptors_are_written_to_where_they_are(folder: Path) -> None:
    out = folder / "out.txt"
    handle = os.open(out, os.O_WRONLY | os.O_CREAT, 0o600)
    with pytest.raises(OSError, match="did not inherit an open descriptor"):
        files.write(Path(f"/dev/fd/{handle}"), b"x", stream=True)
    os.set_inheritable(handle, True)  # as what a shell gives
    os.write(handle, b"before\n")
    for path in (f"/dev/fd/{handle}", f"/proc/self/fd/{handle}", f"/proc/{os.getpid()}/fd/{handle}"):
        files.write(Path(path), b"report\n", stream=True)
    (folder / "link").symlink_to(f"/dev/fd/{handle}")
    files.write(folder / "link", b"report\n", stream=True)
    os.write(handle, b"after\n")
    os.close(handle)
    assert out.read_bytes() == b"before\n" + 4 * b"report\n" + b"after\n"
    ends = os.pipe()
    os.set_inheritable(ends[1], True)
    files.write(Path(f"/dev/fd/{ends[1]}"), b"report\n", stream=True)
    assert os.read(ends[0], 100) == b"report\n"
    for end in ends:
        os.close(end)
    with pytest.raises(OSError, match="did not inherit an open descriptor"):
        files.write(Path(f"/dev/fd/{ends[1]}"), b"x", stream=True)


def test_a_disk_behind_a_descriptor_is_a_disk(folder: Path) -> None:
    disk = node(folder / "disk", stat.S_IFBLK, LOOP)
    handle = os.open(disk, os.O_PATH)
    os.set_inheritable(handle, True)
    with pytest.raises(OSError, match="block device"):
        files.write(Path(f"/dev/fd/{handle}"), b"x", stream=True)
    os.close(handle)


def test_a_folder_that_may_not_be_written_to_is_an_error(folder: Path) -> None:
    folder.chmod(0o555)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        if os.geteuid() == 0:
            os.seteuid(OTHER)  # root may write anywhere
        try:
            files.write(Path("x.json"), b"x")
        except PermissionError as error:
            os._exit(0 if error.filename == "x.json" else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(folder) == []


def test_a_lock_is_a_file_of_its_own(folder: Path) -> None:
    (folder / "lock").symlink_to(folder / "made")
    with pytest.raises(PiimgError, match="symbolic link"), files.locked(folder / "lock", "busy"):
        pass
    assert not (folder / "made").exists()
    os.mkfifo(folder / "pipe")
    with pytest.raises(PiimgError, match="a pipe"), files.locked(folder / "pipe", "busy"):
        pass


def test_a_long_name_and_one_in_no_encoding(folder: Path) -> None:
    for name in (b"\xc3\xa9" * 127, b"\xff" * 255):
        path = folder / os.fsdecode(name)
        files.write(path, b"x")
        assert path.read_bytes() == b"x"


def test_the_results_of_a_build_replace_no_device_and_keep_links(folder: Path) -> None:
    results = Results(folder, "master")
    (folder / "disk").mkdir()
    for file in (results.image, results.block_map, results.json):
        file.symlink_to(f"disk/{file.name}")
        (folder / "disk" / file.name).write_bytes(b"old")
    results.check()
    results.clear()
    assert names(folder / "disk") == ["master.img"]
    assert all(file.is_symlink() for file in (results.image, results.block_map, results.json))
    files.write(results.json, b"new")
    assert (folder / "disk" / "master.json").read_bytes() == b"new"
    for kind, device in ((stat.S_IFBLK, LOOP), (stat.S_IFCHR, NULL)):
        for file in (results.block_map, results.json):
            file.unlink(missing_ok=True)
            node(file, kind, device)
            for act in (results.check, results.clear):
                with pytest.raises(OSError, match="device"):
                    act()
            assert file.lstat().st_rdev == device
            file.unlink()
            file.touch()


def test_what_another_program_has_open_is_its_own(folder: Path) -> None:
    theirs = folder / "theirs"
    with theirs.open("wb") as out, subprocess.Popen(["sleep", "60"], stdout=out) as other:
        try:
            with pytest.raises(OSError, match="another program has open"):
                files.write(Path(f"/proc/{other.pid}/fd/1"), b"x", stream=True)
        finally:
            other.kill()
    assert theirs.read_bytes() == b""
