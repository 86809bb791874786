"""Programs in the background, and private folders: neither outlives piimg unnoticed, however it ends."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError
from imagebuilder.system import journal
from imagebuilder.system.cleanup import cleanup
from imagebuilder.system.process import background
from tests.support.waiting import happens, wait_until

HOLDS = """
import signal, sys
from pathlib import Path
from imagebuilder.system import journal
from imagebuilder.system.process import background

folder = Path(sys.argv[1])
info = folder.stat()
with journal.hold("folder", path=str(folder), device=info.st_dev, inode=info.st_ino):
    with background(["sleep", "600"], said=folder / "said") as child:
        print(child.pid, flush=True)
        signal.pause()
"""


def is_there(process: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def gone(process: int) -> bool:
    return happens(lambda: not is_there(process))


def sleeps(process: int) -> None:
    """Wait until the program itself runs: only then has setpriv asked the kernel to end it."""
    wait_until(lambda: Path(f"/proc/{process}/comm").read_text() == "sleep\n", pause=0.01)


def killed(folder: Path) -> int:
    """A run that was killed while it held ``folder`` and ran a program; the program's process id."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, folder], stdout=subprocess.PIPE) as run:
        assert run.stdout
        child = int(run.stdout.readline())
        sleeps(child)
        run.kill()
    return child


def test_a_program_ends_with_a_killed_piimg_and_its_folder_is_cleaned_up(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "large").write_bytes(bytes(1000))
    assert gone(killed(folder))
    assert folder.exists()
    assert f"removed {folder}" in cleanup()
    assert not folder.exists()
    assert not any("removed" in line and str(folder) in line for line in cleanup())


def test_another_folder_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    killed(folder)
    folder.rename(tmp_path / "kept")  # so that the inode is not given again
    folder.mkdir()
    (folder / "mine").touch()
    cleanup()
    assert (folder / "mine").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    info = tmp_path.stat()
    with journal.hold("folder", path=str(tmp_path), device=info.st_dev, inode=info.st_ino):
        cleanup()
        assert tmp_path.exists()


def test_a_program_ends_with_its_block(tmp_path: Path) -> None:
    with background(["sh", "-c", "echo said; exec sleep 600"], said=tmp_path / "said", cwd=tmp_path) as child:
        wait_until((tmp_path / "said").read_text)
        assert is_there(child.pid)
    assert gone(child.pid)
    assert (tmp_path / "said").read_text() == "said\n"


def test_a_program_ends_with_the_thread_that_began_it(tmp_path: Path) -> None:
    found: list[int] = []

    def begin() -> None:
        block = background(["sleep", "600"], said=tmp_path / "said")
        found.append(block.__enter__().pid)
        blocks.append(block)
        sleeps(found[0])

    blocks: list[object] = []
    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert gone(found[0])


def test_what_is_not_installed_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(PiimgError, match="no-such-program is not installed"),
        background(["no-such-program"], said=tmp_path / "said"),
    ):
        pass
