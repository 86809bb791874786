"""`piimg secrets`: keep the value of a secret."""

import sys

from imagebuilder.cli.output import echo
from imagebuilder.cli.secret_file import ask_secret, keep_secret
from imagebuilder.cli.session import Session
from imagebuilder.errors import UsageError
from imagebuilder.keys.credentials import named_secrets
from imagebuilder.text import did_you_mean

LIMIT = 1 << 16  # bytes read from standard input


def secrets(session: Session, action: str, name: str) -> None:
    """Run ``piimg secrets``, called as ``usage/secrets.py`` says; "set" is the only action."""
    names = named_secrets(session.cluster)
    if name not in names:
        raise UsageError(
            f"the manifest names no secret {name}{did_you_mean(name, names)}",
            f"it names {', '.join(names) or 'none'}",
        )
    value = ask_secret(name) if sys.stdin.isatty() else _piped(name)
    if not value:
        raise UsageError(f"{name}: an empty value is not kept", "type it, or give it on standard input")
    file = session.workspace.secrets
    keep_secret(file, name, value)
    echo(f"{name} is kept in {file}")


def _piped(name: str) -> str:
    """The value on standard input, without the end of its line."""
    given = sys.stdin.buffer.read(LIMIT + 1)
    if len(given) > LIMIT:
        raise UsageError(f"{name}: a value has at most {LIMIT} bytes", "check what is on standard input")
    return given.decode(errors="surrogateescape").removesuffix("\n")
