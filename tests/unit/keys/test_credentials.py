"""What credentials a cluster's nodes get, from what is given and from nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.keys import ssh
from imagebuilder.keys.credentials import login_key_file, make_credentials, named_secrets, public_host_keys
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Cluster
from imagebuilder.settings import Account, KeyFile
from imagebuilder.workspace import Workspace
from tests.support.checkout import TOP

SECRETS = {"wifi_psk": "correct horse", "user_password": "battery staple"}
OWN = "ssh-ed25519 AAAA somebody@somewhere"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """The cluster of the README, with a login password."""
    text = (TOP / "manifests" / "picluster.toml").read_text().replace("# password =", "password =")
    (tmp_path / "cluster.toml").write_text(text)
    return Workspace(tmp_path / "cluster.toml").cluster


@pytest.fixture
def keys(cluster: Cluster) -> KeyStore:
    return KeyStore(cluster.folder / "state" / cluster.name)


def test_the_same_keys_every_time(cluster: Cluster, keys: KeyStore) -> None:
    first = make_credentials(cluster, keys, SECRETS)
    assert make_credentials(cluster, keys, SECRETS) == first
    assert set(first.host_keys) == {node.name for node in cluster.nodes}
    assert public_host_keys(cluster, keys) == {name: pair.public for name, pair in first.host_keys.items()}
    assert set(first.wifi_psks) == {node.name for node in cluster.nodes if node.wifi}


@pytest.mark.parametrize(
    ("secrets", "said"),
    [
        ({}, "no value for the secrets user_password, wifi_psk"),
        ({"wifi_psk": "correct horse"}, "no value for the secret user_password"),
        ({**SECRETS, "wifi_psk": "short"}, "8 to 63"),
        ({**SECRETS, "user_password": "a\x00b"}, "1 to 1024"),
    ],
)
def test_secrets_are_refused_before_a_key_is_made(
    cluster: Cluster, keys: KeyStore, secrets: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        make_credentials(cluster, keys, secrets)
    assert not [file.name for file in keys.folder.glob("**/*") if file.name != "salt" and file.is_file()]


def test_wpa3_needs_the_passphrase_itself(cluster: Cluster, keys: KeyStore) -> None:
    text = (cluster.folder / "cluster.toml").read_text()
    psk = 'passphrase = { secret = "wifi_psk" }'
    (cluster.folder / "cluster.toml").write_text(text.replace(psk, f'{psk}\nsecurity = "wpa2/wpa3"'))
    sae = Workspace(cluster.folder / "cluster.toml").cluster
    key = {**SECRETS, "wifi_psk": "ab" * 32}
    assert make_credentials(cluster, keys, key)
    with pytest.raises(UsageError, match="wifi_psk is a key of 64 digits, but WPA3 needs the passphrase"):
        make_credentials(sae, keys, key)
    assert make_credentials(sae, keys, SECRETS).secrets["wifi_psk"] == SECRETS["wifi_psk"]


def test_only_the_secrets_that_the_manifest_names_are_passed_on(cluster: Cluster, keys: KeyStore) -> None:
    found = make_credentials(cluster, keys, {**SECRETS, "of_another_cluster": "x"})
    assert set(found.secrets) == set(named_secrets(cluster)) == set(SECRETS)


def test_who_may_log_in(cluster: Cluster, keys: KeyStore) -> None:
    """The manifest's keys; else those that are given; else one made for the cluster."""
    made = replace(keys, keep=False)
    assert make_credentials(cluster, made, SECRETS, [OWN]).authorized_keys == (OWN,)
    named = replace(cluster, user=replace(cluster.user, authorized_keys=("ssh-ed25519 BBBB other",)))
    found = make_credentials(named, made, SECRETS, [OWN])
    assert found.authorized_keys == ("ssh-ed25519 BBBB other",)
    assert login_key_file(cluster, made, [OWN]) == login_key_file(named, made, []) == ""
    assert not keys.folder.exists()
    [own] = make_credentials(cluster, keys, SECRETS).authorized_keys
    assert f"{keys.user_key_file.with_name('user-key.pub').read_text()}" == f"{own}\n"
    assert login_key_file(cluster, keys, []) == str(keys.user_key_file)


def test_nothing_is_read_from_the_environment(
    cluster: Cluster, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIIMG_SECRET_USER_PASSWORD", "of the environment")
    monkeypatch.setenv("PIIMG_SECRET_WIFI_PSK", "of the environment")
    with pytest.raises(UsageError, match="no value for the secrets"):
        make_credentials(cluster, keys, {})


# --- keys from files ---

ANNA, BEN = (ssh.make(name).public for name in ("anna@desk", "ben@laptop"))


def with_files(cluster: Cluster, *names: str) -> Cluster:
    """The cluster, with these files of keys for its own account and for the account anna."""
    files = tuple(map(KeyFile, names))
    accounts = (Account("anna", 1001, (), (BEN, *files)),)
    return replace(cluster, user=replace(cluster.user, authorized_keys=files), accounts=accounts)


def test_keys_are_read_from_files_beside_the_manifest(cluster: Cluster, keys: KeyStore) -> None:
    (cluster.folder / "keys").mkdir()
    (cluster.folder / "keys" / "anna.pub").write_text(f"{ANNA}\n")
    (cluster.folder / "all.keys").write_text(f"# everybody\r\n\n  {ANNA}\r\n{BEN}")
    found = make_credentials(with_files(cluster, "keys/anna.pub", "all.keys"), keys, SECRETS, [OWN])
    assert found.authorized_keys == (ANNA, BEN)
    assert found.account_keys == {"anna": (BEN, ANNA)}
    assert not keys.user_key_file.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read .*/a.pub: No such file or directory"),
        ("", "a.pub has no public key"),
        ("# nothing\n", "a.pub has no public key"),
        (b"\xff\xfe", "a.pub is not text"),
        (ssh.make("x").private, "a.pub is a private key"),
        (f"{ANNA}\n{BEN[:40]}\n", "a.pub:2: is not a complete SSH public key"),
        (f'command="sh" {ANNA}\n', "a.pub:1: .* is not an SSH public key line"),
        (f"{ANNA}\x1b[2J\n", "a.pub:1: contains a control character"),
    ],
    # The keys differ from process to process, and xdist needs the same names in all.
    ids=["missing", "empty", "comment", "binary", "private", "cut", "options", "control"],
)
def test_a_file_without_keys_is_refused_before_a_key_is_made(
    cluster: Cluster, keys: KeyStore, content: str | bytes | None, said: str
) -> None:
    if content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        (cluster.folder / "a.pub").write_bytes(raw)
    only_user = replace(with_files(cluster, "a.pub"), accounts=())
    only_account = replace(with_files(cluster, "a.pub"), user=cluster.user)
    for given in (only_user, only_account):
        with pytest.raises(UsageError, match=said):
            make_credentials(given, keys, SECRETS)
    assert not [file.name for file in keys.folder.glob("**/*") if file.is_file()]
