"""The account, from the base image's pi to the cluster's user: made, logged in to by key, and given sudo."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.keys import ssh
from imagebuilder.model import Release
from tests.overlays import machines, rendered
from tests.overlays.machines import Machine, machine

_MISSING = machines.missing()
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=_MISSING)

_LIKE_A_BASE_IMAGE = """
old=$(getent passwd 1000 | cut -d: -f1)
[ -n "$old" ] && userdel "$old" && rm -rf "/home/$old"
useradd --uid 1000 --create-home --shell /usr/sbin/nologin --password '!' pi
mkdir -p /run/boot
"""

KEY = ssh.make("someone")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Machine]:
    """A machine as a card's first boot finds it, in a cluster whose user is called alice."""
    given = rendered.cluster()
    given = dataclasses.replace(given, user=dataclasses.replace(given.user, name="alice"))
    credentials = dataclasses.replace(rendered.credentials(), authorized_keys=(KEY.public,))
    planned = rendered.node_plan("worker1", Release.BOOKWORM, given, credentials)
    with machine("worker1", tmp_path) as made:
        made.shell(_LIKE_A_BASE_IMAGE)
        made.install(planned)
        made.run("sh", "-c", "echo BOOT_MOUNT=/run/boot >>/etc/piimg/node.conf")
        made.run("sh", "-c", "echo 'alice:*' >/run/boot/userconf.txt")
        yield made


_SCRIPT = "/usr/local/lib/piimg/firstboot.d/05-account"


def test_the_account_is_renamed_and_logs_in_with_its_key(node: Machine) -> None:
    for _ in range(2):  # a power cut may run it twice
        node.run(_SCRIPT)
    assert node.shell("getent passwd 1000").split(":")[0::5][:2] == ["alice", "/home/alice"]
    assert node.shell("getent passwd 1000").strip().endswith(":/bin/bash")
    assert node.shell("getent group 1000").startswith("alice:")
    assert node.shell("getent shadow alice").split(":")[1] == "*"
    assert node.shell("ls -A /home /run/boot") == "/home:\nalice\n\n/run/boot:\n"
    with node.running("/usr/sbin/sshd", "-D", "-e"):
        node.shell(
            "for _ in $(seq 50); do exec 3<>/dev/tcp/127.0.0.1/22 && exit; sleep 0.1; done 2>/dev/null"
        )
        node.run("sh", "-c", "umask 077; cat >/root/key", data=KEY.private.encode())
        login = (
            "ssh -F none -i /root/key -o BatchMode=yes -o StrictHostKeyChecking=yes -o HostKeyAlias=worker1"
        )
        assert node.shell(f"{login} alice@127.0.0.1 'id -un; sudo -n id -un'") == "alice\nroot\n"
        asked = "ssh -F none -o BatchMode=yes -o HostKeyAlias=worker1 -o PreferredAuthentications="
        said = node.run("sh", "-c", f"{asked}password,keyboard-interactive alice@127.0.0.1", ok=(255,)).stderr
        assert "Permission denied (publickey)" in said


def test_userconf_of_raspberry_pi_os_is_not_preempted(node: Machine) -> None:
    # /usr/lib is the host's own and stays as it is, so the script looks for userconf elsewhere
    node.shell(f"sed -i s:/usr/lib/userconf-pi/userconf:/bin/true: {_SCRIPT}")
    said = node.run(_SCRIPT, ok=(1,)).stdout
    assert "UID 1000 is not called alice" in said
    assert node.shell("cat /run/boot/userconf.txt") == "alice:*\n"


def test_the_name_pi_gets_its_shell_back(node: Machine) -> None:
    node.shell("sed -i 's/^ACCOUNT=.*/ACCOUNT=pi/' /etc/piimg/node.conf; echo 'pi:*' >/run/boot/userconf.txt")
    node.run(_SCRIPT)
    assert node.shell("getent passwd 1000").strip().endswith(":/home/pi:/bin/bash")
