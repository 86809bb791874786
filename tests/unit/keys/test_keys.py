"""Known answers: what is derived and made must be what wpa_supplicant, crypt(3) and OpenSSH take it for."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.keys import derive, ssh
from imagebuilder.system.process import ToolError, run


@pytest.mark.parametrize(
    ("passphrase", "ssid", "psk"),
    [  # IEEE 802.11i-2004, annex H.4.2
        ("password", "IEEE", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"),
        (
            "ThisIsAPassword",
            "ThisIsASSID",
            "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af",
        ),
        ("a" * 32, "Z" * 32, "becb93866bb8c3832cb777c2f559807c8c59afcb6eae734885001300a981cc62"),
    ],
)
def test_wifi_keys_of_the_standard(passphrase: str, ssid: str, psk: str) -> None:
    assert derive.wifi_psk(ssid, passphrase) == psk


def test_64_hex_digits_are_the_key_itself() -> None:
    assert derive.wifi_psk("any", "AB" * 32) == "ab" * 32


@pytest.mark.parametrize("passphrase", ["", "1234567", "x" * 64, "pässword", "with\ttab!", "ab\x00cdefgh"])
def test_what_no_wpa_network_has_is_refused_without_repeating_it(passphrase: str) -> None:
    with pytest.raises(UsageError, match="8 to 63") as refused:
        derive.wifi_psk("home", passphrase)
    assert not passphrase or passphrase not in refused.value.message + refused.value.hint


@pytest.mark.parametrize(
    ("password", "salt", "hashed"),
    [  # U. Drepper, "Unix crypt using SHA-256 and SHA-512": the vectors with the default of 5000 rounds
        (
            "Hello world!",
            "saltstring",
            "svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        ),
        (
            "This is just a test",
            "toolongsaltstrin",
            "lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQzQ3glMhwllF7oGDZxUhx1yxdYcz/e1JSbq3y6JMxxl8audkUEm0",
        ),
    ],
)
def test_password_hashes_of_the_specification(password: str, salt: str, hashed: str) -> None:
    assert derive.password_hash(password, salt) == f"$6${salt}${hashed}"


@pytest.mark.parametrize("password", ["", "a\x00b", "new\nline", "x" * 2000, "\x1b[2J"])
def test_passwords_nobody_could_type_are_refused(password: str) -> None:
    with pytest.raises(UsageError, match="1 to 1024"):
        derive.password_hash(password, "saltstring")


def kept(folder: Path, private: str) -> Path:
    file = folder / "key"
    file.touch(0o600)
    file.write_text(private)
    return file


def public_half(file: Path) -> str:
    return run(["ssh-keygen", "-y", "-f", file]).stdout.decode().strip()


def test_openssh_takes_our_keys(tmp_path: Path) -> None:
    pair = ssh.make("root@worker1")
    file = kept(tmp_path, pair.private)
    assert public_half(file) == pair.public.removesuffix(" root@worker1")
    listed = run(["ssh-keygen", "-l", "-f", file]).stdout.decode()
    assert listed.startswith("256 SHA256:")
    assert listed.endswith("(ED25519)\n")


def test_a_key_read_again_is_the_same_key(tmp_path: Path) -> None:
    pair = ssh.make("one")
    again = ssh.parse(pair.private.encode(), "one")
    assert again.public == pair.public
    assert public_half(kept(tmp_path, again.private)) == pair.public.removesuffix(" one")
    assert ssh.make("one").public != pair.public


def test_openssh_s_own_key_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "made"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", file])
    assert ssh.parse(file.read_bytes(), "me").public == (tmp_path / "made.pub").read_text().strip()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-t", "ed25519", "-N", "secret"], "not an OpenSSH"),
        (["-t", "ecdsa", "-N", ""], "not an ed25519 key"),
    ],
)
def test_other_keys_are_refused(tmp_path: Path, options: list[str], said: str) -> None:
    file = tmp_path / "made"
    run(["ssh-keygen", "-q", *options, "-f", file])
    with pytest.raises(PiimgError, match=said):
        ssh.parse(file.read_bytes(), "x")


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_a_key_or_refused(raw: bytes) -> None:
    head, tail = b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"\n-----END OPENSSH PRIVATE KEY-----\n"
    for private in (raw, head + raw + tail):
        with pytest.raises(PiimgError):
            ssh.parse(private, "x")


def test_public_keys_of_a_folder(tmp_path: Path) -> None:
    good = ssh.make("me@laptop").public
    (tmp_path / "id_ed25519.pub").write_text(f"{good}\n")
    (tmp_path / "broken.pub").write_text(good[:40])
    (tmp_path / "binary.pub").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.pub").mkdir()
    (tmp_path / "id_ed25519").write_text("private")
    assert ssh.public_keys(tmp_path) == (good,)
    assert ssh.public_keys(tmp_path / "none") == ()


def test_the_private_half_is_not_in_the_repr() -> None:
    assert "PRIVATE" not in repr(ssh.make("x"))


def test_ssh_keygen_would_refuse_a_broken_key(tmp_path: Path) -> None:
    """The judge judges: a key with a flipped byte is not taken."""
    private = ssh.make("x").private
    middle = len(private) // 2
    flipped = private[:middle] + ("A" if private[middle] != "A" else "B") + private[middle + 1 :]
    with pytest.raises(ToolError):
        run(["ssh-keygen", "-y", "-f", kept(tmp_path, flipped)])
