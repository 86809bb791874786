"""The layer docker, booted on every release: containers run, and what docs/recipes.md says to type works."""

import shlex
from pathlib import Path

import pytest

from tests.conftest import releases
from tests.system.recipes.booting import booted, make_cluster, said

pytestmark = [pytest.mark.recipes, pytest.mark.timeout(1800)]

IMAGE = "tar -C /sbin -c ldconfig | docker import - tools"
VARS = "[vars]\ndocker_without_sudo = true\n"


def as_user(command: str) -> str:
    """The command in a login of the cluster's account that begins now: with the groups it has now."""
    return f"sudo su - pi -c {shlex.quote(command)}"


@pytest.mark.parametrize("release", releases())
def test_a_container_runs(release: str, tmp_path: Path) -> None:
    place, base = make_cluster(tmp_path, release)
    place.edit(r"^\[gateway\]", f'{VARS}\n[role.worker]\nlayers = ["docker"]\n\n[gateway]')
    with booted(place, base, release, ["worker1"]) as nodes:
        node = nodes["worker1"]
        log = said(node, "cat /var/log/piimg/firstboot.log")
        assert "a container runs: ldconfig (" in log
        assert said(node, as_user("docker info --format '{{.LoggingDriver}}'")) == "local\n"
        assert said(node, as_user("docker images --quiet")) == ""  # the check left nothing behind
        said(node, as_user(IMAGE))
        shown = said(node, as_user("docker run --rm --memory 32m tools /ldconfig --version"))
        assert shown.startswith("ldconfig (")
        assert "memory" in said(node, "cat /sys/fs/cgroup/cgroup.controllers").split()
        assert "cgroup_enable=memory" in said(
            node, "cat /boot/firmware/cmdline.txt /boot/cmdline.txt 2>&1 || :"
        )
