"""Asking a node: the script and the parser agree, and what is no answer is refused, whatever it is."""

import dataclasses
import os
import subprocess
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.boot import facts, probe
from imagebuilder.model import Node
from tests.unit.boot.answers import DISK_ID, SECTORS, START, expected, right, spell


@dataclass
class Here:
    """This machine as the node; ``as_user`` as nobody, whom sudo does not let in."""

    as_user: bool = False
    asked: list[bytes] = field(default_factory=list)

    def run(
        self, command: str, data: bytes = b"", patience: float = 300.0
    ) -> "subprocess.CompletedProcess[bytes]":
        self.asked.append(data)
        drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if self.as_user else []
        return subprocess.run([*drop, "sh", "-c", command], input=data, capture_output=True, check=False)


def node(interface: str = "eth0") -> Node:
    """A node of the README's cluster with this LAN interface."""
    return dataclasses.replace(expected().node, interface=interface)


def test_the_script_and_the_parser_agree() -> None:
    """Run for real, on this machine: it is no node, so much is missing, but the answer is a whole one."""
    here = Here()
    units, paths, packages = (
        ["ssh.service", "no-such.service"],
        ["/etc/passwd", "/no such"],
        ["dpkg", "no-such"],
    )
    found = probe.ask(here, node("lo"), "/boot", units, paths, packages)
    assert found.packages == {"dpkg": "installed"}
    assert found.hostname == os.uname().nodename
    assert found.link("lo").addr_info[0] == facts.Address("127.0.0.1", 8, "host")
    assert found.link("eth77") == facts.Link("eth77")
    if found.root:
        assert found.root.modes["/etc/passwd"] == facts.Mode(0o644, 0, 0)
        assert list(found.root.modes) == ["/etc/passwd"]


def test_it_works_for_somebody_whom_sudo_does_not_know() -> None:
    assert probe.ask(Here(as_user=True), node("lo"), "/boot", [], []).root is None


def test_what_it_looks_at_is_quoted() -> None:
    path = "/tmp/it's $(touch here) `here`\\"
    question = probe.question(node(), "/boot", [], [path])
    script = question.removesuffix(probe.ASK.read_bytes()) + b'printf %s "$PATHS"\n'
    said = subprocess.run(["sh", "-s"], input=script, capture_output=True, check=True)
    assert said.stdout.decode() == path


def test_a_node_that_cannot_run_it_is_reported() -> None:
    @dataclass
    class Broken:
        def run(
            self, command: str, data: bytes = b"", patience: float = 300.0
        ) -> "subprocess.CompletedProcess[bytes]":
            return subprocess.run(
                ["sh", "-c", "echo no \x1b[31mshell >&2; exit 3"], capture_output=True, check=False
            )

    with pytest.raises(probe.FactsError, match=r"exit status 3: no \?\[31mshell"):
        probe.ask(Broken(), node(), "/boot", [], [])


def test_a_right_answer_is_read() -> None:
    one = expected()
    found = probe.parse(spell(right(one)))
    assert found.account == facts.AccountFacts("pi", 1000, "/home/pi", "/bin/bash")
    assert found.disk == facts.DiskFacts(SECTORS, START, SECTORS - START)
    assert found.summary and [script.name for script in found.summary.scripts] == [
        *("05-account", "06-accounts", "07-ca-certificates", "10-locale")
    ]
    assert found.ran[0] == facts.Ran("05-account", None) and found.ran[1] == facts.Ran("05-account", 0)
    assert {unit.id for unit in found.units} == set(one.units)
    assert found.root and found.root.disk_id == DISK_ID and dict(found.root.modes) == dict(one.modes)


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        (b"", "begins with ''"),
        (b"Last login: never\n", "begins with 'Last login: never'"),
        (spell(right(expected()))[:-1], "is incomplete"),
        (spell(right(expected()))[:3000], "is incomplete"),
        (spell([*right(expected()), ("colour", "blue")]), "unknown line: 'colour blue'"),
        (spell([*right(expected()), ("hostname", "two")]), "2 lines of hostname"),
        (spell([line for line in right(expected()) if line[0] != "keyboard"]), "0 lines of keyboard"),
        (spell([line for line in right(expected()) if line[0] != "sudo"]), "whether sudo works"),
        (
            spell([(k, "so" if k == "sudo" else v) for k, v in right(expected())]),
            "whether sudo works",
        ),
        (spell([(k, "no" if k == "sudo" else v) for k, v in right(expected())]), "1 lines of disk-id"),
        (spell([(k, "{}" if k == "links" else v) for k, v in right(expected())]), "not understood: links"),
        (spell([(k, "1 2" if k == "disk" else v) for k, v in right(expected())]), "not understood: disk"),
        (spell([*right(expected()), ("mode", "rwx root /etc")]), "not understood: mode"),
        (spell([*right(expected()), ("ran", "10-locale: try")]), "not understood: ran"),
        (b"x" * (probe.LIMIT + 1), "longer than"),
    ],
)
def test_what_is_no_answer_is_refused(answered: bytes, said: str) -> None:
    with pytest.raises(probe.FactsError, match=said):
        probe.parse(answered)


def test_what_the_first_boot_did_not_write_is_no_summary() -> None:
    for text in ("", "{", "[]", '{"cluster": "c"}', '{"scripts": "none"}', "[" * 100_000):
        lines = [(k, text if k in ("summary", "identity") else v) for k, v in right(expected())]
        found = probe.parse(spell(lines))
        assert found.summary is None
        assert found.identity is None or "node" not in found.identity


@given(st.binary(max_size=400))
def test_no_bytes_do_more_than_be_refused(noise: bytes) -> None:
    for answered in (noise, b"piimg-facts 1\n" + noise, b"piimg-facts 1\n" + noise + b"\nend facts\n"):
        try:
            probe.parse(answered)
        except probe.FactsError as error:
            assert error.message.isprintable()


KEYS = sorted({key for key, _ in right(expected())} | {"lease", "failed", "job", "chrony", "table"})


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.text(max_size=60)), max_size=6),
    st.lists(st.integers(0, len(right(expected())) - 1), max_size=3),
)
def test_a_spoiled_answer_is_read_or_refused(added: list[tuple[str, str]], dropped: list[int]) -> None:
    lines = [line for at, line in enumerate(right(expected())) if at not in dropped]
    for key, value in added:
        at = next((at for at, line in enumerate(lines) if line[0] == key), len(lines))
        lines[at : at + 1] = [(key, value)]
    try:
        found = probe.parse(spell(lines).replace(b"\x00", b"?"))
    except probe.FactsError as error:
        assert error.message.isprintable()
    else:
        assert found.root is None or found.root.file_system >= 0


@given(st.binary(max_size=300))
def test_a_glance_is_read_whatever_it_is(said: bytes) -> None:
    state, jobs, summary = probe.glanced(said)
    assert isinstance(state, str) and all(jobs)
    assert summary is None or summary.scripts is not None
