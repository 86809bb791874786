"""Making a base, broken off: nothing goes on behind one's back."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS, releases
from tests.support import judge
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real

PATIENCE = 60.0  # seconds
AARCH64 = (183).to_bytes(2, "little")  # e_machine in elf(5)


def working_for(folder: Path) -> list[str]:
    """The command lines of programs that name ``folder``, or have it in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "cmdline").read_bytes()
            if str(folder).encode() in said + (process / "environ").read_bytes():
                found.append(said.replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("release", releases())
def test_what_makes_a_base_ends_with_the_maker(release: str, number: signal.Signals, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with subprocess.Popen(
        ["env", "--default-signal=INT", SCRIPTS / "make-debian-base", release],
        env={**os.environ, "PIIMG_CACHE": str(cache), "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as maker:  # fmt: skip
        begun = "debian-base-*/mmdebstrap.*/var/lib/dpkg"
        wait_until(lambda: list(tmp_path.glob(begun)) or maker.poll() is not None, PATIENCE)
        assert maker.poll() is None
        assert any("mmdebstrap" in said for said in working_for(tmp_path))
        maker.send_signal(number)
        status = maker.wait(PATIENCE)
    wait_until(lambda: not working_for(tmp_path), PATIENCE, lambda: working_for(tmp_path))
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    if number is signal.SIGKILL:  # nobody was left to tidy up
        assert status == -signal.SIGKILL
    else:
        assert status == 128 + number
        assert list(tmp_path.glob("debian-base-*")) == []
        assert [file.name for file in (cache / "debian-base").iterdir()] == [f"{release}.lock"]


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("release", releases())
def test_what_was_lent_to_configure_it_is_given_back(release: str, tmp_path: Path) -> None:
    base = tmp_path / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", release, base], check=True)
    where = judge.places(base)
    for program in ("perl", "dash", "sed", "cp"):
        assert judge.on_root(base, f"/usr/bin/{program}", where)[18:20] == AARCH64
    for folder, lent in (("/", "lib64"), ("/usr/lib", "x86_64-linux-gnu"), ("/usr/bin", ".emulated")):
        names = judge.debugfs(base, f"ls -p {folder}", where).decode()
        assert "aarch64-linux-gnu" in names if folder == "/usr/lib" else "/" in names
        assert lent not in names
