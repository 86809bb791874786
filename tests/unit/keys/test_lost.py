"""Keys that a cluster had and that are missing now: noticed, and never on a first run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.keys.credentials import make_credentials
from imagebuilder.keys.missing import NOTE, KeysMissing
from imagebuilder.keys.store import KeyStore
from imagebuilder.workspace import Workspace
from tests.support.checkout import TOP

SECRETS = {"wifi_psk": "correct horse"}
NAME = "picluster"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cluster folder that is new."""
    shutil.copy(TOP / "manifests" / "picluster.toml", tmp_path / "cluster.toml")
    return tmp_path


def used(folder: Path, manifest: str = "cluster.toml", **options: bool) -> Workspace:
    """The workspace after a command that uses the keys."""
    workspace = Workspace(folder / manifest)
    make_credentials(workspace.cluster, workspace.keys(**options), SECRETS)
    return workspace


def renamed(folder: Path, name: str, manifest: str = "cluster.toml", new: str = "cluster.toml") -> None:
    text = (folder / manifest).read_text()
    (folder / new).write_text(text.replace(f'name = "{NAME}"', f'name = "{name}"'))


def test_a_first_run_and_those_after_it_raise_no_alarm(folder: Path) -> None:
    for _ in range(2):
        used(folder)
    note = json.loads((folder / NOTE).read_text())
    assert note["cluster.toml"]["cluster"] == NAME
    assert "gateway-key" in note["cluster.toml"]["keys"] and "OPENSSH" not in str(note)


def test_lost_keys_are_said_before_anything_is_written(folder: Path) -> None:
    used(folder)
    shutil.rmtree(folder / "state")
    with pytest.raises(KeysMissing, match=f"{NAME} are missing: it had keys before") as caught:
        used(folder)
    for word in (f"restore {folder}/state/{NAME} from a backup", "--new-keys", "known hosts", "flash every"):
        assert word in caught.value.hint
    assert not (folder / "state").exists()
    assert Workspace(folder / "cluster.toml").keys(keep=False).keep is False  # to plan, none is stored
    used(folder, new=True)
    used(folder)


def test_a_lost_key_of_munge_is_named(folder: Path) -> None:
    used(folder)
    kept = KeyStore(folder / "state" / NAME).random("munge-key", 128)
    used(folder)
    (folder / "state" / NAME / "munge-key").unlink()
    with pytest.raises(KeysMissing, match="munge-key is missing"):
        used(folder)
    used(folder, new=True)
    assert KeyStore(folder / "state" / NAME).random("munge-key", 128) != kept


def test_one_lost_key_is_named(folder: Path) -> None:
    workspace = used(folder)
    (workspace.state / "host-keys/worker2").unlink()
    with pytest.raises(KeysMissing, match="host-keys/worker2 is missing"):
        used(folder)
    used(folder, new=True)
    used(folder)


def test_a_new_node_gets_a_key_and_one_that_left_is_not_missed(folder: Path) -> None:
    workspace = used(folder)
    text = (folder / "cluster.toml").read_text()
    (folder / "cluster.toml").write_text(text.replace('name = "worker5"', 'name = "another"'))
    shutil.move(workspace.state / "host-keys/worker5", folder)
    used(folder)
    assert (workspace.state / "host-keys/another").exists()


@pytest.mark.parametrize("noted", [True, False])
def test_a_renamed_cluster_is_recognised(folder: Path, noted: bool) -> None:
    used(folder)
    renamed(folder, "other")
    if not noted:
        (folder / NOTE).unlink()
    with pytest.raises(KeysMissing, match=f"those of {NAME} in {folder}/state/{NAME}") as caught:
        used(folder)
    move = f"mv {folder}/state/{NAME} {folder}/state/other"
    assert move in caught.value.hint
    (folder / "state" / NAME).rename(folder / "state/other")
    used(folder)


@pytest.mark.parametrize("noted", [True, False])
def test_another_cluster_of_the_same_folder_is_a_first_run(folder: Path, noted: bool) -> None:
    used(folder)
    renamed(folder, "other", new="other.toml")
    if not noted:
        (folder / NOTE).unlink()
    used(folder, "other.toml")
    used(folder)


def prepared(workspace: Workspace) -> None:
    (workspace.state / "prepared").mkdir(parents=True)
    (workspace.state / "prepared/worker1.json").touch()


def history(workspace: Workspace) -> None:
    workspace.state.mkdir(parents=True)
    (workspace.state / "cards.jsonl").touch()


def built(workspace: Workspace) -> None:
    workspace.images.mkdir()
    (workspace.images / "worker1.json").write_text(json.dumps({"cluster": NAME}))


@pytest.mark.parametrize("leave", [prepared, history, built])
def test_other_traces_of_the_cluster_count_without_a_note(
    folder: Path, leave: Callable[[Workspace], None]
) -> None:
    leave(Workspace(folder / "cluster.toml"))
    with pytest.raises(KeysMissing):
        used(folder)
    used(folder, new=True)
    used(folder)


def test_a_card_of_the_cluster_counts_only_if_there_are_no_keys(folder: Path) -> None:
    with pytest.raises(KeysMissing, match="a card of it is here"):
        used(folder, on_a_card=True)
    used(folder)
    used(folder, on_a_card=True)


def test_images_of_another_cluster_are_no_trace(folder: Path) -> None:
    (folder / "build").mkdir()
    (folder / "build/worker1.json").write_text(json.dumps({"cluster": "another"}))
    (folder / "build/worker2.json").write_text("not JSON")
    (folder / "state/junk").mkdir(parents=True)
    used(folder)


@pytest.mark.parametrize(
    "damage",
    [b"", b"[", b"[" * 100_000, b"[]", b'{"cluster.toml": 1}', b'{"cluster.toml": {"cluster": "../.."}}'],
)
def test_a_damaged_note_is_as_none(folder: Path, damage: bytes) -> None:
    (folder / NOTE).write_bytes(damage)
    used(folder)
    (folder / NOTE).write_bytes(damage)
    used(folder)
    assert NAME in (folder / NOTE).read_text()
