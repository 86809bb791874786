"""The account, from what an image left of it to the cluster's user: made, logged in to, given sudo.

Raspberry Pi OS may have done it before us (userconfig.service), have begun it, or not know of it at all
(rpi-preseed). userconf-pi is that of the test bases, put where the machine sees it.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder.keys import ssh
from imagebuilder.model import Release
from tests.integration.overlays import machines, rendered
from tests.integration.overlays.machines import Machine, machine
from tests.support.checkout import TOP

_MISSING = machines.missing()
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=_MISSING)

_COMMON = TOP / "scripts/bases/layers/common/root"
_USERCONF = ("usr/lib/userconf-pi/userconf", "usr/lib/userconf-pi/userconf-service", "usr/bin/cancel-rename")
_BANNER = "/etc/ssh/sshd_config.d/rename_user.conf"
_WANTED = "/etc/systemd/system/multi-user.target.wants/userconfig.service"

_LIKE_A_BASE_IMAGE = f"""
old=$(getent passwd 1000 | cut -d: -f1)
[ -n "$old" ] && userdel "$old" && rm -rf "/home/$old"
useradd --uid 1000 --create-home --shell /usr/sbin/nologin --password '!' pi
usermod -aG sudo pi
echo 'pi ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/010_pi-nopasswd
echo 'Banner /usr/share/userconf-pi/sshd_banner' >{_BANNER}
mkdir -p /run/boot
for folder in /usr/lib /usr/bin; do
    over=/run/over$folder
    mkdir -p $over/upper $over/work
    mount -t overlay overlay -o lowerdir=$folder,upperdir=$over/upper,workdir=$over/work $folder
done
mkdir -p /usr/lib/raspberrypi-sys-mods
printf '#!/bin/sh\\necho /run/boot\\n' >/usr/lib/raspberrypi-sys-mods/get_fw_loc
cat >/usr/local/bin/systemctl <<'END'  # no systemd runs here
#!/bin/sh
[ "$*" != "--quiet disable userconfig" ] || rm -f {_WANTED}
END
chmod +x /usr/lib/raspberrypi-sys-mods/get_fw_loc /usr/local/bin/systemctl
"""
_HASH = "$y$j9T$piimgtest$5SNYpWfGjvDEqVHbTuGoEWjjgZl6JPvOdWvGjIu7HI5"

KEY = ssh.make("someone")
_SCRIPT = "/usr/local/lib/piimg/firstboot.d/05-account"


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Makes a machine as a card's first boot finds it, in a cluster whose user is called ``name``."""
    with contextlib.ExitStack() as stack:

        def made(name: str = "alice") -> Machine:
            given = rendered.cluster()
            given = dataclasses.replace(given, user=dataclasses.replace(given.user, name=name))
            credentials = dataclasses.replace(rendered.credentials(), authorized_keys=(KEY.public,))
            planned = rendered.node_plan("worker1", Release.BOOKWORM, given, credentials)
            node = stack.enter_context(machine("worker1", tmp_path))
            node.shell(_LIKE_A_BASE_IMAGE)
            node.install(planned)
            node.run("sh", "-c", "echo BOOT_MOUNT=/run/boot >>/etc/piimg/node.conf")
            node.run("sh", "-c", "cat >/run/boot/userconf.txt", data=f"{name}:{_HASH}\n".encode())
            return node

        yield made


@pytest.fixture
def node(prepare: Callable[..., Machine]) -> Machine:
    """A machine without userconf-pi, in a cluster whose user is called alice."""
    return prepare()


def give_userconf(node: Machine, *, enabled: bool) -> None:
    """Put userconf-pi there; ``enabled``: its service waits for a name at each start."""
    for path in _USERCONF:
        node.run(
            "sh",
            "-c",
            f"mkdir -p /{Path(path).parent}; cat >/{path}; chmod 755 /{path}",
            data=(_COMMON / path).read_bytes(),
        )
    if enabled:
        node.shell(f"mkdir -p {Path(_WANTED).parent}; ln -s /lib/systemd/system/userconfig.service {_WANTED}")


def as_it_should_be(node: Machine, name: str) -> None:
    """Everything the script is for."""
    passwd = node.shell("getent passwd 1000").strip().split(":")
    assert (passwd[0], passwd[5], passwd[6]) == (name, f"/home/{name}", "/bin/bash")
    assert node.shell("getent group 1000").startswith(f"{name}:")
    assert node.shell(f"getent shadow {name}").split(":")[1] == _HASH
    assert name in node.shell("getent group sudo").strip().split(":")[3].split(",")
    assert node.shell("ls -A /home /run/boot") == f"/home:\n{name}\n\n/run/boot:\n"
    assert node.shell(f"cat /home/{name}/.ssh/authorized_keys") == f"{KEY.public}\n"
    assert node.shell("cut -d: -f1 /etc/subuid").split().count(name) == 1
    assert node.shell(f"ls {_BANNER} {_WANTED}", ok=None) == ""
    assert node.shell("cat /etc/sudoers.d/010_pi-nopasswd").startswith(f"{name} ")


def test_the_account_is_renamed_and_logs_in_with_its_key(node: Machine) -> None:
    for _ in range(2):  # a power cut may run it twice
        node.run(_SCRIPT)
    as_it_should_be(node, "alice")
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


def _nobody(node: Machine) -> None:
    """rpi-preseed without userconf-pi: nobody does anything."""


def _program_only(node: Machine) -> None:
    """rpi-preseed: userconf-pi is installed, and nobody calls it."""
    give_userconf(node, enabled=False)


def _program_that_leaves_the_shell(node: Machine) -> None:
    """The image of 2026-04-13: userconf does not look at the shell."""
    give_userconf(node, enabled=True)
    node.shell("sed -i 's,^.*usermod -s /bin/bash.*,*/nologin) ;;,' /usr/lib/userconf-pi/userconf")
    node.run("/usr/lib/userconf-pi/userconf-service")
    assert "nologin" in node.shell("getent passwd 1000")


def _service_done(node: Machine) -> None:
    """userconfig.service has done it all."""
    give_userconf(node, enabled=True)
    node.run("/usr/lib/userconf-pi/userconf-service")
    assert node.shell("ls -A /run/boot") == ""


def _service_failed(node: Machine) -> None:
    """userconfig.service was enabled, and failed at once."""
    give_userconf(node, enabled=True)


def _service_refused(node: Machine) -> None:
    """userconfig.service did not like the file, and put it aside."""
    give_userconf(node, enabled=True)
    node.shell("mv /run/boot/userconf.txt /run/boot/failed_userconf.txt")


def _service_cut_off(node: Machine) -> None:
    """The power went while userconf was between the name and the home."""
    give_userconf(node, enabled=True)
    node.shell("""
        . /etc/piimg/node.conf
        [ "$ACCOUNT" != pi ] || exit 0
        usermod -l "$ACCOUNT" pi
        usermod -d "/home/$ACCOUNT" "$ACCOUNT"
        sed -i "s/^pi:/$ACCOUNT:/" /etc/subuid /etc/subgid
        sed -i "s/^pi /$ACCOUNT /" /etc/sudoers.d/010_pi-nopasswd
    """)


def _somebody_elses(node: Machine) -> None:
    """A used base: a file of somebody else, which the service prefers to ours."""
    give_userconf(node, enabled=True)
    node.shell("echo 'eve:$6$salt$evil' >/run/boot/userconf")
    node.run("/usr/lib/userconf-pi/userconf-service")
    assert node.shell("getent passwd 1000").startswith("eve:")


@pytest.mark.parametrize("name", ["alice", "pi"])
@pytest.mark.parametrize(
    "before",
    [
        _nobody,
        _program_only,
        _program_that_leaves_the_shell,
        _service_done,
        _service_failed,
        _service_refused,
        _service_cut_off,
        _somebody_elses,
    ],
)
def test_whoever_has_done_it_or_not(
    prepare: Callable[..., Machine], before: Callable[[Machine], None], name: str
) -> None:
    node = prepare(name)
    before(node)
    for _ in range(2):
        node.run(_SCRIPT)
    as_it_should_be(node, name)


def test_a_name_that_is_taken_is_reported(node: Machine) -> None:
    node.shell("useradd --uid 1001 alice")
    assert "another account called alice, with UID 1001" in node.run(_SCRIPT, ok=(1,)).stdout
    assert node.shell("getent passwd 1000").startswith("pi:")


def test_a_home_that_is_taken_is_reported_and_the_keys_still_count(node: Machine) -> None:
    node.shell("mkdir /home/alice")
    assert "there is a folder /home/alice already" in node.run(_SCRIPT, ok=(1,)).stdout
    assert node.shell("getent passwd alice").split(":")[5] == "/home/pi"
    assert node.shell("cat ~alice/.ssh/authorized_keys") == f"{KEY.public}\n"
