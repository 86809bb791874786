"""Secrets from the environment, secrets.toml or the terminal, and public keys from the user's home.

A secret is looked up in $PIIMG_SECRET_NAME, then in secrets.toml beside the manifest (mode 0600); then the
user is asked at the terminal. All missing secrets are reported together.
"""

import os
import pwd
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

from imagebuilder.cli.next_steps import login_command
from imagebuilder.cli.output import at_terminal
from imagebuilder.cli.secret_file import ask_secret
from imagebuilder.errors import UsageError
from imagebuilder.events import Message, Reporter
from imagebuilder.keys import ssh
from imagebuilder.keys.credentials import check_secrets, make_credentials, named_secrets, needs_login_key
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Cluster, Credentials
from imagebuilder.reading import open_regular, read_to
from imagebuilder.toml import SIZE_LIMIT
from imagebuilder.workspace import Workspace

PLACEHOLDER = "change-me-please"
"""The value that `piimg init` wrote as a secret before it asked for it: it can be built, with a warning."""


def gather(
    workspace: Workspace, keys: KeyStore, reporter: Reporter, given: Mapping[str, str] | None = None
) -> Credentials:
    """The credentials of the cluster, with the user's secrets and public keys.

    ``given`` is the result of ``secrets``, if it was called already. Raises UsageError naming every missing
    secret.
    """
    cluster, own_keys = workspace.cluster, public_keys()
    given = secrets(workspace, reporter) if given is None else given
    credentials = make_credentials(cluster, keys, given, own_keys)
    if needs_login_key(cluster, own_keys) and (keys.keep or not keys.user_key_file.exists()):
        reporter.emit(Message("info", _login_text(cluster, keys)))
    return credentials


def _login_text(cluster: Cluster, keys: KeyStore) -> str:
    if not keys.keep:
        return "you have no SSH key: piimg build and piimg flash generate one for the cluster"
    return (
        "you have no SSH key, so the cluster has one of its own; log in with\n"
        f"    {login_command(cluster, keys)}"
    )


def secrets(workspace: Workspace, reporter: Reporter, *, may_ask: bool = True) -> dict[str, str]:
    """The value of every secret that the manifest names; nothing is generated or saved.

    A secret that is not at hand is asked for at a terminal, unless ``may_ask`` is False. Raises UsageError
    naming all missing secrets, or the first invalid one.
    """
    given = _secrets(workspace, reporter, may_ask)
    check_secrets(workspace.cluster, given)
    return given


def public_keys() -> tuple[str, ...]:
    """The user's own public SSH keys, one line each."""
    return ssh.public_keys(ssh_folder())


def ssh_folder() -> Path:
    """The folder of the user's own SSH keys; it may be missing."""
    return _home() / ".ssh"


def _home() -> Path:
    """The home of the user, under sudo that of the calling user."""
    user = os.environ.get("SUDO_USER")
    if user and os.geteuid() == 0:
        try:
            return Path(pwd.getpwnam(user).pw_dir)
        except KeyError:
            pass  # the account was removed: use root's home
    return Path(os.path.expanduser("~"))  # noqa: PTH111  # Path.home() raises where there is none


def _secrets(workspace: Workspace, reporter: Reporter, may_ask: bool) -> dict[str, str]:
    names = named_secrets(workspace.cluster)
    kept = _secrets_file(workspace.secrets) if names else {}
    given: dict[str, str] = {}
    missing: list[str] = []
    for name in names:
        value = os.environ.get(variable(name)) or kept.get(name)
        if not value and may_ask and at_terminal():
            value = ask_secret(name)
        if not value:
            missing.append(name)
            continue
        if not _is_utf8(value):
            raise UsageError(f"{variable(name)} is not UTF-8 text", "set it in a UTF-8 terminal")
        if value == PLACEHOLDER:
            reporter.emit(
                Message("warning", f"the secret {name} still has the value that piimg init gave it")
            )
        given[name] = value
    if missing:
        ways = "\n".join(f"{name}: piimg secrets set {name}, or set {variable(name)}" for name in missing)
        raise UsageError(f"no value for the secret{'s' * (len(missing) > 1)} {', '.join(missing)}", ways)
    return given


def _is_utf8(value: str) -> bool:
    """Whether a value is UTF-8: other bytes of the environment appear as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def variable(name: str) -> str:
    """The environment variable that gives a secret."""
    return f"PIIMG_SECRET_{name.upper()}"


def _secrets_file(file: Path) -> dict[str, str]:
    try:
        with open_regular(file) as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                raise UsageError(f"{file} can be read by others", f"chmod 600 {file}")
            document = tomllib.loads(read_to(stream, SIZE_LIMIT, file).decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(
            f"cannot read {file}: {error.strerror}", "check its owner and permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        # The decoder's message can quote the file, and so a secret: only the place is reported.
        raise UsageError(f"{file}: not TOML", 'each line is NAME = "…"') from error
    for name, value in document.items():
        if not isinstance(value, str):
            raise UsageError(f"{file}: {name} is not text", f'write {name} = "…"')
    return document
