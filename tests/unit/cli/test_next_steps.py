"""After the cards are written: which goes where, and an ssh command that works from the home network."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.cli.next_steps import login_command, next_steps
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.cli.session import Session
from imagebuilder.resources import shipped
from tests.support.networks import AT_HOME


def report(node: str, slot: str, verdict: Verdict = Verdict.GOOD) -> CardReport:
    values: dict[str, object] = {field.name: "" for field in dataclasses.fields(CardReport)}
    values |= {"device": "/dev/sdb", "slot": slot, "node": node, "verdict": verdict, "size": 32 * 10**9}
    return CardReport(**values)  # type: ignore[arg-type]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    manifest = tmp_path / "cluster.toml"
    manifest.write_text((shipped("manifests") / "picluster.toml").read_text())
    yield Session(Plain(sys.stderr), manifest)


def test_each_card_has_its_machine_and_the_gateway_is_first(session: Session) -> None:
    text = next_steps(session, [report("worker1", "usb 1-1.2"), report("master", "usb 1-1.1")])
    lines = text.splitlines()
    assert lines[1].startswith("  master ") and lines[1].endswith("usb 1-1.1  first: it is the gateway")
    assert lines[2].startswith("  worker1 ") and "usb 1-1.2" in lines[2]
    assert "worker2" not in text and "piimg export ssh-config" in text
    assert f"ssh {session.cluster.user.name}@master.local" in text


def test_another_port_of_the_gateway_is_named(session: Session) -> None:
    nodes = tuple(dataclasses.replace(node, ssh_port=2222) for node in session.cluster.nodes)
    cluster = dataclasses.replace(session.cluster, nodes=nodes)
    command = login_command(cluster, session.workspace.keys(keep=False))
    assert command == f"ssh -p 2222 {cluster.user.name}@master.local"


def test_without_a_gateway_one_logs_in_to_a_node(session: Session) -> None:
    session.workspace.file.write_text(AT_HOME)
    text = next_steps(session, [report("worker1", "usb 1-1.2"), report("master", "usb 1-1.1")])
    assert "gateway" not in text
    assert "Then log in to a node, such as master: ssh pi@192.168.1.21" in text


def test_a_bad_card_goes_nowhere(session: Session) -> None:
    assert next_steps(session, [report("worker1", "usb 1-1.2", Verdict.BAD)]) == ""
    assert next_steps(session, [report("", "usb 1-1.2")]) == ""


def test_without_a_manifest(tmp_path: Path) -> None:
    missing = Session(Plain(sys.stderr), tmp_path / "none.toml")
    assert next_steps(missing, [report("worker1", "usb 1-1.2")]) == ""


def test_the_cluster_s_own_key_is_named(session: Session) -> None:
    keys = session.workspace.keys()
    keys.user_key_file.parent.mkdir(parents=True)
    keys.user_key_file.touch()
    command = login_command(session.cluster, keys)
    assert command == f"ssh -i {keys.user_key_file} {session.cluster.user.name}@master.local"
    assert str(session.cluster.node("master").address) not in command
