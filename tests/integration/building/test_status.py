"""`piimg status` without cards; whose the files are under sudo; missing keys; bases that are needed."""

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Place, command, make_place

USER = 12345


@pytest.fixture(scope="module")
def base(specimen: Callable[[str], Path]) -> Path:
    return specimen("trixie")


@pytest.fixture(scope="module")
def built(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A cluster folder of a user, in which root built worker1; a test that changes it works on a copy."""
    folder = tmp_path_factory.mktemp("status")
    place = make_place(folder, folder / "cache")
    if os.geteuid() == 0:
        for path in (place.folder, *place.folder.rglob("*")):
            os.chown(path, USER, USER)
    place.good("build", "--node", "worker1", "--base", base)
    return place


@pytest.fixture
def place(built: Place, tmp_path: Path) -> Place:
    """A copy of ``built``."""
    shutil.copytree(built.folder, tmp_path / "mycluster", symlinks=True)
    return Place(tmp_path / "mycluster", built.cache)


def status(place: Place, *words: str | Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(place.good("status", "--json", *words, env=env))
    return document


def of(document: dict[str, Any], node: str) -> dict[str, Any]:
    return next(one for one in document["nodes"] if one["node"] == node)


def content(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_prepared(place: Place, base: Path) -> None:
    before = content(place.folder), content(place.cache)
    document = status(place, "--base", base)
    assert document["unknown"] is None and document["missing_keys"] is None
    assert (of(document, "worker1")["up_to_date"], of(document, "worker1")["cards"]) == (True, [])
    assert (of(document, "worker2")["prepared"], of(document, "worker2")["up_to_date"]) == (False, False)
    place.edit(r'^address = "10\.0\.0\.12"', 'address = "10.0.0.92"')
    document = status(place, "--base", base)
    assert of(document, "worker1")["changes"] == ["hosts changed"]
    (place.folder / "state/mycluster/prepared/worker1.blocks").write_bytes(b"")
    place.edit(r'^address = "10\.0\.0\.92"', 'address = "10.0.0.12"')
    assert of(status(place, "--base", base), "worker1")["changes"] == ["its files were damaged"]
    after = content(place.folder), content(place.cache)
    changed = {path for path in after[0] if after[0][path] != before[0].get(path)}
    assert {Path(path).name for path in changed} == {"cluster.toml", "worker1.blocks"}
    assert after[1] == before[1]


def test_what_cannot_be_known_is_said(place: Place, base: Path, tmp_path: Path) -> None:
    document = status(place)  # the manifest's base image
    assert document["unknown"] == "the base image raspios-trixie-arm64-lite is not in the cache"
    assert of(document, "worker1")["up_to_date"] is None
    assert "    get it: piimg fetch\n" in place.good("status")
    (place.folder / "secrets.toml").unlink()
    document = status(place, "--base", base, env={"PIIMG_SECRET_WIFI_PSK": ""})
    assert document["unknown"] == "no value for the secret wifi_psk"
    assert of(document, "worker1")["up_to_date"] is None
    shown = place.good("status", "--base", base, env={"PIIMG_SECRET_WIFI_PSK": ""})
    assert "what is up to date is not known: no value for the secret wifi_psk" in shown
    new = make_place(tmp_path / "new", tmp_path / "empty")
    document = status(new, "--base", base)
    assert "is not in the cache" in document["unknown"]
    assert not (tmp_path / "empty").exists() and not (new.folder / "state").exists()


def test_nothing_is_installed_to_know_the_status(place: Place, base: Path) -> None:
    place.edit(r"^\[gateway\]", '[role.worker]\npackages = ["tree"]\n\n[gateway]')
    before = content(place.cache)
    document = status(place, "--base", base)
    workers = [one for one in document["nodes"] if one["node"] != "master"]
    assert document["unknown"].startswith("packages, scripts or downloads of worker1, worker2, ")
    assert [worker["up_to_date"] for worker in workers] == [None] * len(workers)
    assert of(document, "master")["up_to_date"] is False
    assert f"piimg build --node worker1 --base {base}\n" in place.good("status", "--base", base)
    assert content(place.cache) == before


def test_without_packages_nothing_that_installs_them_is_loaded(place: Place, base: Path) -> None:
    for words in (("status", "--base", base), ("build", "--node", "worker1", "--base", base)):
        python, *rest = command(*words)
        argv = [python, "-X", "importtime", *rest]
        done = subprocess.run(
            argv, cwd=place.folder, env=place.env, capture_output=True, text=True, check=True
        )
        assert "imagebuilder.builder" in done.stderr and "imagebuilder.dressing" not in done.stderr


def test_everything_belongs_to_the_user(built: Place) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    owners = {str(path): path.lstat().st_uid for path in (built.folder, *built.folder.rglob("*"))}
    assert {path for path, owner in owners.items() if owner != USER} == set()
    names = {path.name for path in (built.folder / "state/mycluster/prepared").iterdir()}
    assert names == {".lock", "worker1.blocks", "worker1.bmap", "worker1.json"}


def test_lost_keys_stop_a_build_before_anything_is_written(place: Place, base: Path) -> None:
    (place.folder / "state").rename(place.folder.parent / "lost")
    before = content(place.folder), content(place.cache)
    said = place.refused(2, "build", "--node", "worker1", "--base", base)
    assert "the keys of the cluster mycluster are missing: it had keys before" in said
    assert "--new-keys" in said and "from a backup" in said
    assert "mycluster are missing" in status(place, "--base", base)["missing_keys"]
    assert (content(place.folder), content(place.cache)) == before
    place.good("build", "--node", "worker1", "--base", base, "--new-keys")
    place.good("build", "--node", "worker1", "--base", base)


@pytest.mark.parametrize(("answer", "code"), [(b"yes\n", 0), (b"y\n", 2), (b"\n", 2)])
def test_at_a_terminal_it_is_asked(place: Place, base: Path, answer: bytes, code: int) -> None:
    shutil.rmtree(place.folder / "state")
    first, second = pty.openpty()
    arguments = command("--progress", "plain", "build", "--node", "worker1", "--base", base)
    with subprocess.Popen(
        arguments, cwd=place.folder, env=place.env, stdin=second, stdout=second, stderr=second
    ) as running:
        os.close(second)
        os.write(first, answer)
        said = b""
        while True:
            try:
                part = os.read(first, 4096)
            except OSError:
                break
            said += part
        assert running.wait() == code, said
    os.close(first)
    assert b"Type yes in full to make new keys" in said
    assert (place.folder / "state").exists() == (code == 0)


def test_a_base_that_prepared_nodes_need_is_not_pruned(built: Place, base: Path) -> None:
    said = built.good("fetch", "--prune")
    assert (
        f"kept {base.name}: 1 prepared node of mycluster in {built.folder}/state/mycluster/prepared" in said
    )
    assert status(built, "--base", base)["unknown"] is None


def test_a_plan_takes_the_release_of_a_base_that_is_in_the_cache(
    place: Place, base: Path, tmp_path: Path
) -> None:
    own = place.folder / "own.img"
    own.symlink_to(base)
    place.edit(r'^base = ".*"', 'base = "./own.img"')
    text = Place(place.folder, tmp_path / "empty").refused(2, "plan")
    assert "the release of ./own.img is not known" in text and "piimg fetch" in text
    for words in (["plan"], ["plan", "--show", "/etc/hostname", "--node", "worker1"]):
        place.good(*words)
    assert json.loads(place.good("plan", "--json"))["nodes"][0]["release"] == "trixie"
