"""Mounting a root partition: broken off at the moment when it is done; by fuse2fs, which has its own time."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from imagebuilder.system import mount
from imagebuilder.system.process import run


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mounting_that_was_broken_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C can end mount(8) when the kernel has mounted already."""
    image = tmp_path / "root.img"
    image.touch()
    os.truncate(image, 1 << 20)
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "none,extents,filetype", image])
    points: list[Path] = []
    mounting = mount._mount

    def broken_off(argv: list[str | Path], file: Path) -> None:
        mounting(argv, file)
        points.append(Path(argv[-1]))
        assert mount.is_mounted(points[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(mount, "_mount", broken_off)
    with pytest.raises(KeyboardInterrupt), mount.ext4(image, 0, 1 << 20):
        pass
    assert not mount.is_mounted(points[0]) and not points[0].exists()


AS_USER = """
import os, sys
from pathlib import Path
from imagebuilder.system import mount
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
image = Path(sys.argv[1])
with mount.ext4(image, 0, image.stat().st_size) as root:
    (root / "file").write_bytes(os.urandom(24 << 20))
for process in Path("/proc").glob("[0-9]*"):
    try:
        program, *words = (process / "cmdline").read_bytes().split(b"\\0")
        if program.endswith(b"fuse2fs") and str(image).encode() in words:
            print(process, words)
    except OSError:
        pass
"""


def test_without_root_all_is_in_the_image_when_it_is_let_go_of() -> None:
    """fusermount3 is done before fuse2fs is, which has written nothing yet of what it keeps in memory."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/fuse here that may be opened")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "root.img"
        image.touch()
        os.truncate(image, 96 << 20)
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", "root_owner=65534:65534", image])
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
            os.chown(image, 65534, 65534)
        env = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
        done = subprocess.run(
            [sys.executable, "-c", AS_USER, image], env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        run(["e2fsck", "-f", "-n", image])
