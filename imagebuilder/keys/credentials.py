"""The credentials of a cluster's nodes, from the manifest, the named secrets and the key store.

This module reads neither the environment, a terminal nor a home folder: the caller passes values in.
"""

from collections.abc import Mapping, Sequence

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.keys import derive, ssh
from imagebuilder.keys.certificates import certificates_in
from imagebuilder.keys.lost import GATEWAY_KEY, HOST_KEYS
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Cluster, Credentials, Node, Secret
from imagebuilder.settings import KeyFile

_MAKES_KEYS = "run piimg build, which generates the keys once and reuses them"


def named_secrets(cluster: Cluster) -> list[str]:
    """The names of all secrets in the manifest, in order."""
    values = [cluster.user.password, *cluster.vars.values()]
    for node in cluster.nodes:
        values += [node.wifi.passphrase if node.wifi else None, *node.vars.values()]
    return list(dict.fromkeys(value.name for value in values if isinstance(value, Secret)))


def check_secrets(cluster: Cluster, secrets: Mapping[str, str]) -> None:
    """Raise UsageError if a secret of the manifest is missing from ``secrets`` or invalid."""
    missing = [name for name in named_secrets(cluster) if name not in secrets]
    if missing:
        raise UsageError(
            f"no value for the secret{'s' * (len(missing) > 1)} {', '.join(missing)}",
            f"piimg secrets set {missing[0]}",
        )
    for node in cluster.nodes:
        _psk(node, secrets)


def make_credentials(
    cluster: Cluster, keys: KeyStore, secrets: Mapping[str, str], own_keys: Sequence[str] = ()
) -> Credentials:
    """All credentials that a plan needs. Missing keys are generated and stored in ``keys``.

    ``secrets`` has the value of every secret that the manifest names. ``own_keys`` are the user's own public
    keys, one a line: they are authorized to log in if the manifest lists no keys; without any, a login key
    is generated for the cluster. Raises UsageError for a missing or invalid secret or a faulty file of public
    keys or certificates, before any key is generated, and PiimgError when a key cannot be read or stored.
    """
    check_secrets(cluster, secrets)
    account_keys = {one.name: _public_keys(cluster, one.authorized_keys) for one in cluster.accounts}
    _public_keys(cluster, cluster.user.authorized_keys)  # before any key is generated
    files = sorted({file for node in cluster.nodes for file in node.ca_certificates})
    ca_certificates = {file: certificates_in(cluster.folder / file) for file in files}
    password = cluster.user.password
    hashed = derive.password_hash(secrets[password.name], keys.salt()) if password else derive.NO_PASSWORD
    host_keys = {n.name: keys.key(_host_key(n), f"root@{n.name}") for n in cluster.nodes}
    gateway_key = keys.key(GATEWAY_KEY, f"piimg-gateway@{cluster.name}")
    authorized_keys = _authorized_keys(cluster, keys, own_keys)
    own = [keys.user_key_file.name] if needs_login_key(cluster, own_keys) else []
    keys.remember([GATEWAY_KEY, *own, *(_host_key(n) for n in cluster.nodes)])
    return Credentials(
        host_keys=host_keys,
        gateway_key=gateway_key,
        authorized_keys=authorized_keys,
        password_hash=hashed,
        wifi_psks={n.name: _psk(n, secrets) for n in cluster.nodes if n.wifi},
        secrets={name: secrets[name] for name in named_secrets(cluster)},
        account_keys=account_keys,
        ca_certificates=ca_certificates,
    )


def _host_key(node: Node) -> str:
    return f"{HOST_KEYS}/{node.name}"


def _psk(node: Node, secrets: Mapping[str, str]) -> str:
    passphrase = node.wifi.passphrase if node.wifi else None
    return derive.wifi_psk(node.wifi.ssid, secrets[passphrase.name]) if node.wifi and passphrase else ""


def needs_login_key(cluster: Cluster, own_keys: Sequence[str]) -> bool:
    """Whether the cluster needs a generated login key: neither the manifest nor the user has one."""
    return not cluster.user.authorized_keys and not own_keys


def _authorized_keys(cluster: Cluster, keys: KeyStore, own_keys: Sequence[str]) -> tuple[str, ...]:
    if needs_login_key(cluster, own_keys):
        return (keys.key(keys.user_key_file.name, f"{cluster.user.name}@{cluster.name}").public,)
    return _public_keys(cluster, cluster.user.authorized_keys) or tuple(own_keys)


def _public_keys(cluster: Cluster, named: Sequence[str | KeyFile]) -> tuple[str, ...]:
    """The keys of a list of the manifest, with those of its files. Raises UsageError for a faulty file."""
    read = [ssh.keys_in(cluster.folder / key.path) if isinstance(key, KeyFile) else (key,) for key in named]
    return tuple(dict.fromkeys(key for keys in read for key in keys))


def public_host_keys(cluster: Cluster, keys: KeyStore) -> dict[str, str]:
    """The public host key of each node by node name, as one line. Generates none.

    Raises PiimgError naming the nodes without a key.
    """
    pairs = {n.name: keys.kept(_host_key(n), f"root@{n.name}") for n in cluster.nodes}
    missing = [name for name, pair in pairs.items() if pair is None]
    if missing:
        raise PiimgError(f"no host key yet for {', '.join(missing)}", _MAKES_KEYS)
    return {name: pair.public for name, pair in pairs.items() if pair is not None}


def login_key_file(cluster: Cluster, keys: KeyStore, own_keys: Sequence[str]) -> str:
    """The file of the login key generated for the cluster; empty if the user's own keys are used.

    Raises PiimgError if it is needed and does not exist yet.
    """
    if not needs_login_key(cluster, own_keys):
        return ""
    if keys.kept(keys.user_key_file.name, "") is None:
        raise PiimgError("you have no SSH key, and none was generated for the cluster yet", _MAKES_KEYS)
    return str(keys.user_key_file)
