"""Secrets of a plan: where they come from, and that none is printed."""

import os
import pty
import stat
import subprocess
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.keys import derive
from imagebuilder.keys.credentials import make_credentials
from imagebuilder.model import Credentials
from imagebuilder.workspace import Workspace
from tests.unit.plan.running import (
    GIVEN,
    NOBODY,
    PASSPHRASE,
    PASSWORD,
    PIIMG,
    SECRETS,
    WIFI,
    dropping,
    piimg,
    refused,
)

PROFILE = "/etc/NetworkManager/system-connections/piimg-wifi.nmconnection"
HOST_KEY = "/etc/piimg/ssh/ssh_host_ed25519_key"


def test_nothing_secret_is_printed(cluster: Path) -> None:
    key = cluster / "overlays/base/root/etc/token.j2"
    key.write_text("{{ cluster.vars.token }}")
    (cluster / "overlays/base/layer.toml").write_text('[files."root/etc/token"]\nmode = "0600"')
    credentials = kept(cluster)
    if f"--reuid={NOBODY}" in dropping():
        for path in (cluster / "state", *(cluster / "state").rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    pairs = [credentials.gateway_key, *credentials.host_keys.values()]
    secrets = [PASSPHRASE, PASSWORD, "the token itself", credentials.password_hash, "$6$", "PRIVATE KEY"]
    secrets += [derive.wifi_psk("HomeNetwork", PASSPHRASE), *(pair.private.split("\n")[2] for pair in pairs)]
    views = (
        *([], ["--full"], ["--json"], ["--show", "/etc/token"], ["--diff"], ["--diff", "cluster.toml"]),
        *(["--show", path] for path in ("boot/userconf.txt", "/etc/piimg/gateway_key", PROFILE, HOST_KEY)),
    )
    for words in views:
        done = piimg(cluster, "--progress", "json", "-v", "plan", *words, env=GIVEN)
        assert done.returncode == 0, done.stderr
        if words == ["--show", "/etc/token"]:
            assert done.stdout == "********\n"
        elif "--full" in words or "--json" in words:
            assert "/etc/token" in done.stdout
        elif words:
            assert "--diff" in words or "********" in done.stdout
        assert [secret for secret in secrets if secret in done.stdout + done.stderr] == []


def test_missing_secrets_are_named_all_at_once(cluster: Path) -> None:
    (cluster / "secrets.toml").unlink()
    said = refused(piimg(cluster, "plan"))
    assert said.startswith("piimg: no value for the secrets user_password, token, wifi_psk\n")
    for name in ("user_password", "token", "wifi_psk"):
        assert f"{name}: piimg secrets set {name}, or set PIIMG_SECRET_{name.upper()}" in said


def test_where_secrets_are_from(cluster: Path) -> None:
    file = cluster / "secrets.toml"
    file.write_text(f'wifi_psk = "too short"\nuser_password = "{PASSWORD}"\ntoken = "x"\n')
    env = {"PIIMG_SECRET_WIFI_PSK": "short"}
    assert "must have 8 to 63" in refused(piimg(cluster, "plan", env=env))
    assert piimg(cluster, "plan", env=WIFI).returncode == 0
    file.write_text('token = ""')
    assert "no value for the secret token\n" in refused(
        piimg(cluster, "plan", env={**GIVEN, "PIIMG_SECRET_TOKEN": ""})
    )


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_secrets_file_that_others_can_read(cluster: Path, mode: int) -> None:
    (cluster / "secrets.toml").chmod(mode)
    said = refused(piimg(cluster, "plan", env=GIVEN))
    assert "secrets.toml can be read by others" in said
    assert "chmod 600" in said


@pytest.mark.parametrize(
    "text",
    [
        f"wifi_psk = {PASSPHRASE}",
        "wifi_psk = 7" * 5000,
        "\0",
        f'[wifi]\npsk = "{PASSPHRASE}"',
        "a = " + "[" * 9999,
    ],
)
def test_a_secrets_file_that_is_none(cluster: Path, text: str) -> None:
    (cluster / "secrets.toml").write_text(text)
    said = refused(piimg(cluster, "plan", env=GIVEN))
    assert "secrets.toml: " in said
    assert PASSPHRASE not in said


def test_at_a_terminal_it_asks(cluster: Path) -> None:
    """Asked for, not shown; without a terminal there is no question (every other test here)."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cluster), "TERM": "dumb", **GIVEN}
    del env["PIIMG_SECRET_TOKEN"]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb+", buffering=0) as terminal:
        child = subprocess.Popen(
            [*dropping(), PIIMG, "plan"],
            cwd=cluster,
            env=env,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        seen = b""
        for question in (b"Secret token:", b"Secret token again:"):
            while question not in seen:
                seen += terminal.read(1)
            terminal.write(b"typed in\n")
        printed, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        assert b"worker5" in printed
        assert b"typed in" not in printed + seen


def kept(folder: Path, new: bool = False) -> Credentials:
    workspace = Workspace(folder / "cluster.toml")
    return make_credentials(workspace.cluster, workspace.keys(new=new), SECRETS)


def test_keys_are_kept_private_and_the_same(cluster: Path) -> None:
    first = kept(cluster)
    state = cluster / "state"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))}
    assert len(modes) >= 2 * (6 + 1) + 1 + 3
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    again = kept(cluster)
    assert again == first
    assert len({pair.private for pair in first.host_keys.values()}) == 6
    (state / "mine/host-keys/worker2").unlink()
    third = kept(cluster, new=True)
    assert {n for n in third.host_keys if third.host_keys[n] != first.host_keys[n]} == {"worker2"}


@pytest.mark.parametrize(
    ("name", "said"), [("gateway-key", "not an OpenSSH private key"), ("salt", "not a salt")]
)
def test_a_state_folder_that_was_damaged(cluster: Path, name: str, said: str) -> None:
    kept(cluster)
    (cluster / "state/mine" / name).write_text("$6$ \n")
    with pytest.raises(PiimgError, match=said) as error:
        kept(cluster)
    assert "generate a new" in error.value.hint


def test_a_password_no_one_could_type(cluster: Path) -> None:
    with pytest.raises(UsageError, match="1 to 1024"):
        derive.password_hash("a\0b", "salt")
    file = cluster / "secrets.toml"
    file.write_text('user_password = "bell\\u0007"\n')
    said = refused(piimg(cluster, "plan", env={key: GIVEN[key] for key in GIVEN if "PASSWORD" not in key}))
    assert "the password must have 1 to 1024 characters" in said
    assert "bell" not in said
