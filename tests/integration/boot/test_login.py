"""Logins to a real sshd: commands share one connection, and no longer than it answers."""

import dataclasses
import os
import pwd
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.boot.login import LOST, HostKeyError, Login, known_hosts
from imagebuilder.system.process import ToolError, run

NODE = "worker1"
KNOWN = 'it\'s "100%n" \\ known'
CONNECTION = 'echo "$SSH_CONNECTION"'
SETTINGS = """\
AuthorizedKeysFile {folder}/user.pub
HostKey {folder}/host
ListenAddress 127.0.0.1:{port}
PidFile none
StrictModes no
UsePAM no
"""


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    """The way to an sshd that lets in who runs the tests."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("user", "host"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "sshd_config").write_text(SETTINGS.format(folder=tmp_path, port=port))
    known_hosts(tmp_path / KNOWN, {NODE: (tmp_path / "host.pub").read_text()})
    user, control = pwd.getpwuid(os.geteuid()).pw_name, tmp_path / "a 100%n.sock"
    login = Login(NODE, user, (port,), tmp_path / KNOWN, (tmp_path / "user",), control)
    with subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", tmp_path / "sshd_config"]) as process:
        try:
            login.wait(20, lambda: None)
            yield login
        finally:
            login.hang_up()
            process.terminate()


def test_the_node_behind_one_of_several_ports_is_found(login: Login, tmp_path: Path) -> None:
    """Behind another one is nobody, or a node with another host key."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()
        ports = (nobody.getsockname()[1], *login.ports)
        one = dataclasses.replace(login, ports=ports, control=None, _found=[])
        assert one.answers(1)
        assert (one.port, said(one, "echo here")) == (login.port, "here")
        other = tmp_path / "others"
        known_hosts(other, {NODE: (tmp_path / "user.pub").read_text()})
        assert not dataclasses.replace(one, known_hosts=other, _found=[]).answers(1)


def said(login: Login, command: str = CONNECTION) -> str:
    return login.run(command).stdout.decode().strip()


def test_commands_share_a_connection_until_it_is_hung_up(login: Login) -> None:
    first = said(login)
    assert first and said(login) == first
    assert login.run("cat; exit 7", b"a line").stdout == b"a line"
    assert login.run("exit 7").returncode == 7
    login.hang_up()
    assert login.control and not login.control.exists()
    assert said(login) != first


def test_who_waits_for_a_login_gets_a_new_one(login: Login) -> None:
    first = said(login)
    login.wait(20, lambda: None)
    assert said(login) != first


def test_after_a_connection_that_broke_the_next_command_logs_in_anew(login: Login) -> None:
    first = said(login)
    with pytest.raises(ToolError):
        login.run("kill -KILL $PPID; sleep 20")
    assert said(login) != first


def test_after_a_command_that_took_too_long_the_next_one_logs_in_anew(login: Login) -> None:
    first = said(login)
    begun = time.monotonic()
    assert login.run("sleep 60", patience=1).returncode == 124
    assert time.monotonic() - begun < 30
    assert said(login) != first


def test_a_new_login_sees_another_host_key(login: Login, tmp_path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"])
    known_hosts(tmp_path / KNOWN, {NODE: (tmp_path / "other.pub").read_text()})
    assert said(login)  # by the connection that was found right
    with pytest.raises(HostKeyError):
        login.wait(20, lambda: None)


def test_a_shell_shares_the_connection_of_commands(login: Login, capfd: pytest.CaptureFixture[str]) -> None:
    first = said(login)
    assert login.shell([CONNECTION]) == 0
    assert capfd.readouterr().out.strip() == first
    login.hang_up()
    assert login.shell(["exit 7"]) == 7


def test_a_shell_that_is_lost_says_so(login: Login) -> None:
    said(login)
    assert login.shell(["kill -KILL $PPID; sleep 20"]) == LOST


def test_a_shell_that_cannot_be_had_says_so(login: Login, tmp_path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"])
    known_hosts(tmp_path / KNOWN, {NODE: (tmp_path / "other.pub").read_text()})
    login.hang_up()
    assert login.shell(["true"]) == LOST
