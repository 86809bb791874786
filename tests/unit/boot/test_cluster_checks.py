"""The checks over several nodes that go by what the nodes said; the gateway is judged on booted ones."""

import subprocess
from dataclasses import dataclass, replace

import pytest

from imagebuilder.boot import cluster_checks, probe
from imagebuilder.boot.facts import Facts, Ran
from tests.unit.boot.answers import expected, right, spell, swap

NAMES = ("master", "worker1", "worker2")
NUMBERS = {name: f"{number + 1:08x}" for number, name in enumerate(NAMES)}


def facts(name: str) -> Facts:
    """What a node says that has ids of its own."""
    number = NUMBERS[name]
    lines = swap("machine-id", "4e712807", number)(right(expected(name)))
    lines = [(key, value.replace("0badcafe", number)) for key, value in lines]
    return probe.parse(spell(lines))


ALL = {name: facts(name) for name in NAMES}
LATER = {name: replace(one, boot_id="another") for name, one in ALL.items()}


def test_nodes_with_ids_of_their_own_differ() -> None:
    assert [one.wrong for one in cluster_checks.differ(ALL)] == ["", "", ""]


def test_twins_are_found_by_what_they_share() -> None:
    one, two = ALL["worker1"], ALL["worker2"]
    assert one.root and two.root
    for check, twin in (
        ("machine-ids", replace(two, machine_id=one.machine_id)),
        ("disk-ids", replace(two, root=replace(two.root, disk_id=one.root.disk_id))),
        ("host-keys", replace(two, presented=(*two.presented, *one.presented))),
    ):
        found = {o.check: o.wrong for o in cluster_checks.differ({**ALL, "worker2": twin}) if o.wrong}
        assert found == {check: "worker1 and worker2 have the same"}


def test_a_power_cut_that_changes_nothing() -> None:
    assert cluster_checks.unchanged(ALL, LATER).good


def _rooted(one: Facts, **changed: str) -> Facts:
    assert one.root
    return replace(one, root=replace(one.root, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (replace(LATER["worker1"], boot_id=ALL["worker1"].boot_id), "it was not restarted"),
        (replace(LATER["worker1"], machine_id="0" * 32), "the machine id changed"),
        (_rooted(LATER["worker1"], disk_id="ffffffff"), "the disk id changed"),
        (_rooted(LATER["worker1"], password="0"), "the password changed"),
        (replace(LATER["worker1"], presented=("127.0.0.1 ssh-ed25519 BBBB",)), "the host key changed"),
        (replace(LATER["worker1"], authorized=()), "the keys that may log in changed"),
        (replace(LATER["worker1"], fstab=()), "fstab changed"),
        (replace(LATER["worker1"], cmdline=("quiet",)), "cmdline.txt changed"),
        (replace(LATER["worker1"], links=()), "the address changed"),
        (replace(LATER["worker1"], stamps=("05-account",)), "06-accounts is no longer done"),
        (
            replace(
                LATER["worker1"], ran=(*LATER["worker1"].ran, Ran("10-locale", None), Ran("10-locale", 0))
            ),
            "10-locale ran again",
        ),
    ],
)
def test_what_a_power_cut_changed_is_reported(after: Facts, said: str) -> None:
    outcome = cluster_checks.unchanged(ALL, {**LATER, "worker1": after})
    assert outcome.wrong == f"worker1: {said}"


def test_what_was_found_before_comes_first() -> None:
    outcome = cluster_checks.unchanged(
        ALL, {**LATER, "worker1": ALL["worker1"]}, ["master did not come back"]
    )
    assert outcome.wrong == "master did not come back (and 1 more)"


@dataclass
class Shell:
    """A node whose sshd, asked by name, says what ``sshd`` says; the command itself is run for real."""

    sshd: str

    def run(
        self, command: str, data: bytes = b"", patience: float = 300.0
    ) -> "subprocess.CompletedProcess[bytes]":
        shell = f"ssh() {{ for last; do :; done; {self.sshd}; }}; {command}"
        return subprocess.run(["bash", "-c", shell], input=data, capture_output=True, check=False)


REFUSES = 'echo "pi@x: Permission denied (publickey)." >&2; return 255'


def members(*shells: str) -> list[cluster_checks.Member]:
    return [
        cluster_checks.Member(expected(name), Shell(shell))
        for name, shell in zip(NAMES, shells, strict=False)
    ]


def test_each_reaches_each() -> None:
    assert cluster_checks.reach(members(REFUSES, REFUSES, REFUSES)).good


@pytest.mark.parametrize(
    ("said", "reported"),
    [
        ("echo Host key verification failed. >&2; return 255", "Host key verification failed."),
        ("echo ssh: connect to host: No route >&2; return 255", "ssh: connect to host: No route"),
        ("return 255", ""),
        ("return 0", ""),
    ],
)
def test_who_does_not_reach_whom_is_reported(said: str, reported: str) -> None:
    outcome = cluster_checks.reach(members(REFUSES, said, REFUSES))
    assert outcome.wrong == f"worker1 does not reach master: {reported} (and 2 more)"


def test_a_commands_own_status_is_never_the_one_by_which_ssh_fails() -> None:
    member = cluster_checks.Member(expected("worker1"), Shell(REFUSES))
    assert member.said("echo no; exit 255") == (254, "no")
    assert member.said("ssh master") == (254, "pi@x: Permission denied (publickey).")
    assert [member.said(f"(exit {status})")[0] for status in (0, 7, 124)] == [0, 7, 124]
