"""Public SSH keys as text: a line of a ``.pub`` file, checked without any library. No I/O."""

import base64
import re

from imagebuilder.settings import KeyFile

_LINE = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( .*)?")
_BEGINNING = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+\s")
_FILE = re.compile(r"(.*/)?([^/]+\.(pub|keys)|authorized_keys)")
_SHOWN = 60  # characters of a value in a message


def public_key(value: str) -> str:
    """Check the line of a public key that sshd accepts. Raises ValueError.

    A truncated key is refused, because it would lock its owner out. Fields: RFC 4253 section 6.6.
    """
    if not value.isprintable():
        raise ValueError("contains a control character")
    if not _LINE.fullmatch(value):
        shown = value if len(value) <= _SHOWN else f"{value[: _SHOWN - 1]}…"
        raise ValueError(f"{shown!r} is not an SSH public key line")
    if value.startswith("ssh-dss "):
        raise ValueError(
            f"{value[:_SHOWN]!r} is not a key that sshd accepts: OpenSSH refuses ssh-dss, "
            "make one of type ed25519"
        )
    kind, _, rest = value.partition(" ")
    try:
        blob = base64.b64decode(rest.partition(" ")[0], validate=True)
    except ValueError:
        raise ValueError("is not a complete SSH public key: paste the whole line") from None
    fields = []
    at = 0
    while at < len(blob):
        size = int.from_bytes(blob[at : at + 4])
        fields.append(blob[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(blob) or len(fields) < 2 or fields[0] != kind.encode():
        raise ValueError("is not a complete SSH public key: paste the whole line")
    return value


def key_or_file(value: object) -> str | KeyFile:
    """Check the line of a public key, or the name of a file with such lines. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("takes text in quotes")
    if _FILE.fullmatch(value) and not _BEGINNING.match(value):
        if not value.isprintable() or value.startswith("~"):
            raise ValueError(f"{value[:_SHOWN]!r} is not the path of a file, relative to the manifest")
        return KeyFile(value)
    return public_key(value)
