"""SSH keys of type ed25519, made and kept in a folder with mode 0600."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from imagebuilder.errors import PiimgError
from imagebuilder.model import KeyPair
from imagebuilder.reading import SMALL, read_regular


def make(comment: str) -> KeyPair:
    """A new ed25519 key. Its private half is in OpenSSH's own format (openssh-key-v1), not encrypted."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return KeyPair(private.decode(), _public_line(key, comment))


def parse(private: bytes, comment: str) -> KeyPair:
    """The key pair of a private key file. Raises PiimgError when it is not an ed25519 key."""
    try:
        key = serialization.load_ssh_private_key(private, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PiimgError(f"not an OpenSSH private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PiimgError("not an ed25519 key")
    # The file as it is: the format has a random number in it, so writing the key anew would change it.
    return KeyPair(private.decode("ascii"), _public_line(key, comment))


def _public_line(key: Ed25519PrivateKey, comment: str) -> str:
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{public.decode()} {comment}"


def public_keys(folder: Path) -> tuple[str, ...]:
    """The public keys in a person's ``~/.ssh``: the first line of every ``*.pub`` that is one."""
    found = []
    for file in sorted(folder.glob("*.pub")):
        try:
            line = read_regular(file, SMALL).decode().partition("\n")[0].strip()
            if line.startswith("ssh-dss "):
                continue  # refused by OpenSSH since 7.0
            serialization.load_ssh_public_key(line.encode())
        except (OSError, ValueError, UnsupportedAlgorithm):
            continue  # not a key sshd could use
        found.append(line)
    return tuple(found)
