"""Mounting a root partition, broken off at the moment when it is done."""

import os
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
