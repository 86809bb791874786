"""Gathering the credentials of a cluster: named secrets, keys of the state folder, the user's public keys.

A secret is looked up in $PIIMG_SECRET_NAME, then in secrets.toml beside the manifest (mode 0600), then
asked for at a terminal. All that are missing are told at once.
"""

import os
import pwd
import stat
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from imagebuilder.cli.output import ask
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Message, Reporter
from imagebuilder.keys import derive, ssh
from imagebuilder.keys.store import State
from imagebuilder.model import Cluster, Credentials, Node, Secret
from imagebuilder.reading import open_regular, read_to
from imagebuilder.toml import SIZE_LIMIT

PLACEHOLDER = "change-me-please"
"""What `piimg init` writes as a secret: builds, but is warned about."""

_MAKES_KEYS = "piimg build makes them, once for all builds"


def gather(
    cluster: Cluster, state: State, reporter: Reporter, given: Mapping[str, str] | None = None
) -> Credentials:
    """Everything secret that the plan needs. Raises UsageError naming every secret that is not given.

    ``given`` is what ``secrets`` found, if it was looked for already.
    """
    given = secrets(cluster, reporter) if given is None else given
    password = cluster.user.password
    # First what can be refused: then no key is made, and nothing is said of one.
    wifi_psks = {n.name: _psk(n, given) for n in cluster.nodes if n.wifi}
    hashed = derive.password_hash(given[password.name], state.salt()) if password else derive.NO_PASSWORD
    return Credentials(
        host_keys={n.name: state.key(f"host-keys/{n.name}", f"root@{n.name}") for n in cluster.nodes},
        gateway_key=state.key("gateway-key", f"piimg-gateway@{cluster.name}"),
        authorized_keys=authorized_keys(cluster, state, reporter),
        password_hash=hashed,
        wifi_psks=wifi_psks,
        secrets=given,
    )


def secrets(cluster: Cluster, reporter: Reporter) -> dict[str, str]:
    """The value of every secret the manifest names; makes and keeps nothing.

    Raises UsageError naming all that are not given, or the one that cannot be right.
    """
    given = _secrets(cluster, reporter)
    for node in cluster.nodes:
        if node.wifi:
            _psk(node, given)
    return given


def _psk(node: Node, given: Mapping[str, str]) -> str:
    assert node.wifi is not None
    passphrase = node.wifi.passphrase
    return derive.wifi_psk(node.wifi.ssid, given[passphrase.name]) if passphrase else ""


def public_host_keys(cluster: Cluster, state: State) -> dict[str, str]:
    """The public host key of each node by its name, as one line; makes none.

    Raises PiimgError naming the nodes that have none yet.
    """
    pairs = {n.name: state.kept(f"host-keys/{n.name}", f"root@{n.name}") for n in cluster.nodes}
    lacking = [name for name, pair in pairs.items() if pair is None]
    if lacking:
        raise PiimgError(f"no host key yet for {', '.join(lacking)}", _MAKES_KEYS)
    return {name: pair.public for name, pair in pairs.items() if pair is not None}


def made_login_key(cluster: Cluster, state: State) -> str:
    """The file of the login key made for the cluster; empty when the user logs in with keys of their own.

    Raises PiimgError when it is needed and does not exist yet.
    """
    if cluster.user.authorized_keys or ssh.public_keys(ssh_folder()):
        return ""
    if state.kept(state.user_key_file.name, "") is None:
        raise PiimgError("you have no SSH key, and none was made for the cluster yet", _MAKES_KEYS)
    return str(state.user_key_file)


def authorized_keys(cluster: Cluster, state: State, reporter: Reporter) -> tuple[str, ...]:
    """The manifest's keys; else the user's own public keys; else a key made for the cluster."""
    if cluster.user.authorized_keys:
        return cluster.user.authorized_keys
    own = ssh.public_keys(ssh_folder())
    if own:
        return own
    pair = state.key(state.user_key_file.name, f"{cluster.user.name}@{cluster.name}")
    if state.keep:
        gateway = cluster.node(cluster.gateway.node)
        told = (
            "no SSH key of yours was found, so the cluster has one of its own; log in with\n"
            f"    ssh -i {state.user_key_file} {cluster.user.name}@{gateway.address}"
        )
        reporter.emit(Message("info", told))
    elif not state.user_key_file.exists():
        told = "no SSH key of yours was found: piimg build will make one for the cluster"
        reporter.emit(Message("info", told))
    return (pair.public,)


def ssh_folder() -> Path:
    """The folder of the user's own SSH keys; it may be missing."""
    return _home() / ".ssh"


def _home() -> Path:
    """The home of the person at the keyboard, also under sudo."""
    user = os.environ.get("SUDO_USER")
    if user and os.geteuid() == 0:
        try:
            return Path(pwd.getpwnam(user).pw_dir)
        except KeyError:
            pass  # an account that is gone: root's own home
    return Path(os.path.expanduser("~"))  # noqa: PTH111  # Path.home() raises where there is none


def named(cluster: Cluster) -> list[str]:
    """The names of all secrets the manifest names, in order."""
    found = [cluster.user.password, *cluster.vars.values()]
    for node in cluster.nodes:
        found += [node.wifi.passphrase if node.wifi else None, *node.vars.values()]
    return list(dict.fromkeys(value.name for value in found if isinstance(value, Secret)))


def _secrets(cluster: Cluster, reporter: Reporter) -> dict[str, str]:
    names = named(cluster)
    kept = _secrets_file(cluster.folder / "secrets.toml") if names else {}
    given: dict[str, str] = {}
    missing: list[str] = []
    for name in names:
        value = os.environ.get(variable(name)) or kept.get(name)
        if not value and sys.stdin.isatty() and sys.stderr.isatty():
            value = ask(f"Secret {name}", hidden=True)
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
        ways = "\n".join(
            f'{name}: set {variable(name)}, or write {name} = "…" to secrets.toml' for name in missing
        )
        raise UsageError(f"no value for the secret{'s' * (len(missing) > 1)} {', '.join(missing)}", ways)
    return given


def _is_utf8(value: str) -> bool:
    """Bytes of the environment that are not UTF-8 come as lone surrogates, which nothing can encode."""
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
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # The decoder's message can quote the file, and so a secret: only the place is told.
        raise UsageError(f"{file}: not TOML", 'each line is NAME = "…"') from error
    for name, value in document.items():
        if not isinstance(value, str):
            raise UsageError(f"{file}: {name} is not text", f'write {name} = "…"')
    return document
