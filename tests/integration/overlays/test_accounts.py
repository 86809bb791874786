"""The accounts of the manifest: created by the first-boot script, logged in to by sshd, given sudo."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.keys import ssh
from imagebuilder.model import Cluster, NodePlan, Release
from imagebuilder.settings import Account
from tests.integration.overlays import machines, rendered
from tests.integration.overlays.machines import Machine, machine
from tests.support.waiting import wait_until

ANNA, BEN, OTHER = (ssh.make(name) for name in ("anna", "ben", "other"))
KEYS = {"anna": (ANNA.public, OTHER.public), "ben": (BEN.public,)}
ACCOUNTS = (
    Account("anna", 1001, ("sudo", "thermometer"), KEYS["anna"]),
    Account("ben", 1002, (), KEYS["ben"]),
)
SCRIPT = "/usr/local/lib/piimg/firstboot.d/06-accounts"
LIST = "/etc/piimg/accounts"
SUDOERS = "/etc/sudoers.d/015_piimg-accounts"


def planned(release: Release = Release.BOOKWORM, accounts: tuple[Account, ...] = ACCOUNTS) -> NodePlan:
    """What worker1 gets in a cluster with ``accounts``."""
    cluster: Cluster = dataclasses.replace(rendered.cluster(), accounts=accounts)
    credentials = dataclasses.replace(rendered.credentials(), account_keys=KEYS)
    return rendered.node_plan("worker1", release, cluster, credentials)


@pytest.mark.parametrize("release", Release)
def test_every_release_gets_the_accounts(release: Release) -> None:
    files = rendered.files(planned(release))
    assert b"\naccount anna 1001 sudo,thermometer\n" in files[LIST].content
    assert b"\naccount ben 1002 -\n" in files[LIST].content
    assert f"\nkey ben {BEN.public}\n".encode() in files[LIST].content
    assert (files[SUDOERS].mode, files[SUDOERS].content.splitlines()[1:]) == (
        0o440,
        [b"anna ALL=(ALL) NOPASSWD: ALL"],
    )
    assert SUDOERS not in rendered.files(planned(release, ACCOUNTS[1:]))
    assert not {LIST, SCRIPT} & set(rendered.files(rendered.node_plan("worker1", release)))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Machine]:
    """A machine with the files of the cluster, and no other accounts than the host's system accounts."""
    if missing := machines.missing():
        pytest.skip(missing)
    with machine("worker1", tmp_path) as made:
        made.shell(
            "for name in $(getent passwd | awk -F: '$3 >= 1000 && $3 < 60000 {print $1}'); do"
            " userdel $name; done;"
            "getent group sudo || groupadd --system sudo"
        )
        made.install(planned())
        yield made


def as_they_should_be(node: Machine) -> None:
    """Everything the script is for."""
    for account in ACCOUNTS:
        passwd = node.shell(f"getent passwd {account.name}").strip().split(":")
        assert (int(passwd[2]), int(passwd[3])) == (account.uid, account.uid)
        assert (passwd[5], passwd[6]) == (f"/home/{account.name}", "/bin/bash")
        assert node.shell(f"getent shadow {account.name}").split(":")[1] == "*"
        groups = node.shell(f"id -nG {account.name}").split()
        assert sorted(groups) == sorted([account.name, *account.groups])
        home = f"/home/{account.name}"
        stats = node.shell(f"stat -c '%a %U:%G' {home} {home}/.ssh {home}/.ssh/authorized_keys")
        owner = f"{account.name}:{account.name}"
        assert stats.splitlines() == [f"700 {owner}", f"700 {owner}", f"600 {owner}"]
        keys = node.shell(f"cat {home}/.ssh/authorized_keys").splitlines()
        assert keys == list(KEYS[account.name])
        assert ".bashrc" in node.shell(f"ls -A {home}")
    assert {name for name in node.shell("ls /home").split() if name[:4] in ("anna", "ben")} == {"anna", "ben"}


def test_the_accounts_are_created_and_log_in_with_their_keys(node: Machine) -> None:
    for _ in range(2):  # a power cut may run it twice
        node.run(SCRIPT)
        as_they_should_be(node)
    node.run("visudo", "-c")
    with node.running("/usr/sbin/sshd", "-D", "-e"):
        answers = ("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/22")
        wait_until(lambda: node.run(*answers, ok=None).returncode == 0)
        for name, pair in (("anna", OTHER), ("ben", BEN)):
            node.run("sh", "-c", f"umask 077; cat >/root/{name}", data=pair.private.encode())
        login = "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes -o HostKeyAlias=worker1"
        assert node.shell(f"{login} -i /root/anna anna@127.0.0.1 'id -un; sudo -n id -un'") == "anna\nroot\n"
        assert node.shell(f"{login} -i /root/ben ben@127.0.0.1 'id -un; sudo -n id -un'", ok=None) == "ben\n"
        assert node.run("sh", "-c", f"{login} -i /root/ben anna@127.0.0.1 id", ok=(255,)).stdout == ""


@pytest.mark.parametrize(
    "left",
    [
        "groupadd --gid 1001 anna",
        "useradd --uid 1001 --user-group --no-create-home anna",
        "useradd --uid 1001 --user-group --no-create-home anna; sed -i /^anna:/d /etc/shadow",
        "cp -r /etc/skel /home/anna.new",
        "useradd --uid 1001 --user-group --create-home anna; rm -r /home/anna",
    ],
)
def test_a_power_cut_in_between_is_made_good(node: Machine, left: str) -> None:
    node.shell(left)
    node.run(SCRIPT)
    as_they_should_be(node)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("useradd --uid 1001 eve", "UID 1001 is that of the account eve, so anna cannot get it\n"),
        ("useradd --uid 1234 anna", "there is another account called anna, with UID 1234\n"),
    ],
)
def test_an_account_that_is_there_is_not_taken_over(node: Machine, there: str, said: str) -> None:
    node.shell(there)
    assert node.run(SCRIPT, ok=(1,)).stdout == said
    assert not {"anna", "ben"} & set(node.shell("ls /home").split())
