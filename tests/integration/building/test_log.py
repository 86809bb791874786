"""What a build leaves in its log: every step and command, and no secret in any form."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.keys.store import KeyStore
from tests.support.cluster import PASSPHRASE, PASSWORD, Place

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root"),
    pytest.mark.usefixtures("nothing_held"),
]


def secrets_of(place: Place) -> set[str]:
    """Every secret of the cluster and every form made of one: lines of keys, hashes, the salt."""
    state = KeyStore(place.folder / "state" / "mycluster")
    found = {PASSPHRASE, PASSWORD, "of my own", state.salt()}
    for entry in place.entries("master", "trixie"):
        if entry.secret:
            for line in entry.content.decode().splitlines():
                found |= {line.partition("=")[2], line.rpartition(":")[2], line}
    for file in state.folder.rglob("*"):
        if "prepared" not in file.parts and file.is_file() and b"PRIVATE KEY" in file.read_bytes():
            found |= set(file.read_text().splitlines())
    return {one for one in found if len(one) > 7}  # shorter ones are no secrets: true, 600, wpa-psk


def test_steps_and_commands_are_in_it_and_no_secret(specimen: Callable[[str], Path], place: Place) -> None:
    place.edit(r"^# password = .*", 'password = { secret = "user_password" }')
    log = place.folder / "piimg.log"
    shown = ("--log-file", log, "-vv", "--progress", "json")
    done = place.run(*shown, "build", "--node", "master", "--base", specimen("trixie"))
    assert done.returncode == 0, done.stderr
    text = log.read_text()
    for said in ("fetched, sha256", "examined: ", "master: copy", "master: inject", "master: prepared in"):
        assert text.count(said) == 1, said
    assert "/mount -t ext4" in text and "mcopy" in text
    secrets = secrets_of(place)
    assert any(secret.startswith("$6$") for secret in secrets), "the hash of the password"
    assert any(len(secret) == 64 and not set(secret) - set("0123456789abcdef") for secret in secrets), (
        "the Wi-Fi key"
    )
    assert any("PRIVATE KEY" in secret for secret in secrets)
    for where in (text, done.stdout, done.stderr):
        assert [secret for secret in secrets if secret in where] == []
