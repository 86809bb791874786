"""A booted node under one's hands: its serial console at a terminal, and kept running until Ctrl-C."""

import os
import shlex
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.support.cluster import Place, command
from tests.support.terminal import Window
from tests.system.boot.conftest import CACHE, RELEASES
from tests.system.boot.test_one_node import hearing

pytestmark = pytest.mark.boot

Built = Callable[[str], Place]
IMAGES = ("--images", "build")  # the base image is not kept
SHARED = {"PIIMG_CACHE": str(CACHE.folder)}
LEAVE = b"\x1d"  # Ctrl-]


@pytest.mark.timeout(900)
def test_the_console_is_shown_and_left(built: Built) -> None:
    place = built(RELEASES[0])
    window = Window(100, 30)
    with subprocess.Popen(
        command("boot", *IMAGES, "--node", "worker2", "--console"),
        cwd=place.folder, env={**place.env, **SHARED},
        stdin=window.side, stdout=window.side, stderr=window.side, start_new_session=True,
    ) as shown:  # fmt: skip
        window.wait_for(lambda lines: any(line.startswith("worker2 login:") for line in lines), 800)
        os.write(window.main, b"\rnobody\r")  # the console is for both ways
        window.wait_for(lambda lines: any("worker2 login: nobody" in line for line in lines), 60)
        os.write(window.main, LEAVE)
        assert shown.wait(30) == 0


@pytest.mark.timeout(900)
def test_a_kept_node_is_reached_as_reported_until_ctrl_c(built: Built) -> None:
    place = built(RELEASES[0])
    with subprocess.Popen(
        hearing("boot", *IMAGES, "--node", "worker2", "--keep"),
        cwd=place.folder, env={**place.env, **SHARED},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as kept:  # fmt: skip
        assert kept.stdout and kept.stderr
        reported = ""
        for line in kept.stderr:
            if line.startswith("ssh "):
                reported = line
            if "until Ctrl-C" in line:
                break
        done = subprocess.run(
            [*shlex.split(reported), "uname", "-n"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "worker2\n"
        kept.send_signal(signal.SIGINT)
        assert kept.wait(30) == 0
        assert "worker2: good" in kept.stdout.read()
