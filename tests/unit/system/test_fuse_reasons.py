"""The reason why fuse2fs could not mount is the line that says it. The outputs are those of real runs."""

from pathlib import Path

import pytest

from imagebuilder.system.mount import _unmounted_by_fuse

OUTPUTS = {
    b"fusermount: could not determine username\nMounting read-only.\n": (
        "fusermount: could not determine username",
        "has no name",
    ),
    b"fusermount: could not determine username\nos.img: Writing to the journal is not supported.\n": (
        "fusermount: could not determine username",
        "/etc/passwd",
    ),
    b"fusermount: mount failed: Operation not permitted\nMounting read-only.\n": (
        "fusermount: mount failed: Operation not permitted",
        "--cap-add SYS_ADMIN",
    ),
    b"/usr/bin/fusermount3: failed to open /dev/fuse: Permission denied\nMounting read-only.\n": (
        "failed to open /dev/fuse: Permission denied",
        "--device /dev/fuse",
    ),
    b"fuse: failed to open mountpoint for reading: Permission denied\nMounting read-only.\n": (
        "fuse: failed to open mountpoint for reading: Permission denied",
        "check that the image is complete",
    ),
    b"fuse: device not found, try 'modprobe fuse' first\nMounting read-only.\n": (
        "device not found",
        "modprobe",
    ),
    b"os.img: Bad magic number in super-block.\nPlease run e2fsck -fy os.img.\n": ("e2fsck", "complete"),
    b"": ("fuse2fs: exit status 1", "complete"),
}


@pytest.mark.parametrize("said", OUTPUTS)
def test_the_reason_is_shown_with_what_to_do(said: bytes) -> None:
    reason, hint = OUTPUTS[said]
    error = _unmounted_by_fuse(Path("build/.worker1.img"), 1, said)
    assert error.message.startswith("cannot mount the root partition of .worker1.img: ")
    assert reason in error.message and hint in error.hint
