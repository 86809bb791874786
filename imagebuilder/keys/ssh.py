"""SSH keys of type ed25519: generating and parsing them, and finding the user's public keys."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.manifest.keys import public_key
from imagebuilder.model import KeyPair
from imagebuilder.reading import SMALL, read_regular


def make(comment: str) -> KeyPair:
    """Generate an ed25519 key. The private key is in OpenSSH's format (openssh-key-v1), not encrypted."""
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
    # The text is kept, because the format contains a random number: serializing again would change it.
    return KeyPair(private.decode("ascii"), _public_line(key, comment))


def _public_line(key: Ed25519PrivateKey, comment: str) -> str:
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{public.decode()} {comment}"


def keys_in(file: Path) -> tuple[str, ...]:
    """The public keys of a file that the user names: ``.pub``, or one key a line with comments.

    Raises UsageError naming the line when there is anything else in it.
    """
    try:
        text = read_regular(file, SMALL).decode()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "authorized_keys names it") from error
    except UnicodeDecodeError:
        raise UsageError(
            f"{file} is not text", "name a file with public keys, such as id_ed25519.pub"
        ) from None
    if "PRIVATE KEY" in text:
        raise UsageError(f"{file} is a private key", "name its public half, which ends in .pub")
    keys = []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            try:
                keys.append(public_key(stripped))
            except ValueError as error:
                raise UsageError(
                    f"{file}:{number}: {error}", "it takes public keys without options"
                ) from None
    if not keys:
        raise UsageError(f"{file} has no public key", "name a file with public keys, such as id_ed25519.pub")
    return tuple(keys)


def public_keys(folder: Path) -> tuple[str, ...]:
    """The public keys in a user's ``~/.ssh``: the first line of every ``*.pub`` that is a public key."""
    keys = []
    for file in sorted(folder.glob("*.pub")):
        try:
            line = read_regular(file, SMALL).decode().partition("\n")[0].strip()
            if line.startswith("ssh-dss "):
                continue  # refused by OpenSSH since 7.0
            serialization.load_ssh_public_key(line.encode())
        except (OSError, ValueError, UnsupportedAlgorithm):
            continue  # not a key that sshd can use
        keys.append(line)
    return tuple(keys)
