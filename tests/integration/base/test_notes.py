"""Checksums of local files that did not change, and the folders of prepared nodes that need base images."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagebuilder.base import notes
from imagebuilder.base.cache import Cache, sha256_of
from imagebuilder.base.cached import in_cache
from imagebuilder.base.notes import known_sha256, note_prepared, prepared_folders, sha256_of_file
from imagebuilder.cli.main import piimg
from imagebuilder.dressing.store import Dressed, Store
from imagebuilder.image.prepared import PreparedFiles
from tests.integration.base.conftest import IMAGE, IMAGE_SHA256, Bench


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that nobody changed for a while. Its time of change (ctime) cannot be set, only waited for."""
    made = tmp_path / "own.img"
    made.write_bytes(IMAGE)
    os.utime(made, ns=(0, made.stat().st_mtime_ns - 10 * 10**9))
    return made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is as good as settled 10 ms after it was changed."""
    monkeypatch.setattr(notes, "_SETTLED", 10**7)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that were read to the end."""
    whole: list[Path] = []
    real = sha256_of

    def hashed(path: Path) -> str:
        whole.append(path)
        return real(path)

    monkeypatch.setattr(notes, "sha256_of", hashed)
    yield whole


def test_a_file_is_read_again_only_when_it_changed(
    file: Path, cache: Cache, soon: None, read: list[Path]
) -> None:
    time.sleep(0.03)
    assert [sha256_of_file(file, cache) for _ in range(3)] == [IMAGE_SHA256] * 3
    assert read == [file] and known_sha256(file, cache) == IMAGE_SHA256
    before = file.stat()
    with file.open("r+b") as stream:  # the same size and time, another content
        stream.write(b"x")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known_sha256(file, cache) == ""
    assert sha256_of_file(file, cache) != IMAGE_SHA256
    assert read == [file, file]
    copy = file.with_name("copy.img")
    copy.write_bytes(file.read_bytes())
    copy.replace(file)
    assert known_sha256(file, cache) == ""


def test_a_file_that_was_just_changed_is_read_each_time(file: Path, cache: Cache, read: list[Path]) -> None:
    """Its next change may get the same time stamp."""
    os.utime(file)
    for _ in range(2):
        sha256_of_file(file, cache)
    assert len(read) == 2 and not cache.checksums.exists()


@pytest.mark.parametrize("damage", [b"", b"[{", b"[" * 100_000, b'[{"path": 1}]', b"\xff", b"null"])
def test_a_damaged_note_costs_only_time(file: Path, cache: Cache, soon: None, damage: bytes) -> None:
    time.sleep(0.03)
    sha256_of_file(file, cache)
    cache.checksums.write_bytes(damage)
    assert sha256_of_file(file, cache) == IMAGE_SHA256
    assert known_sha256(file, cache) == IMAGE_SHA256


def test_the_number_of_checksums_is_bounded(tmp_path: Path, cache: Cache, soon: None) -> None:
    for number in range(notes._KEPT + 5):
        (tmp_path / f"{number}.img").write_bytes(b"%d" % number)
    time.sleep(0.03)
    for number in range(notes._KEPT + 5):
        sha256_of_file(tmp_path / f"{number}.img", cache)
    assert len(json.loads(cache.checksums.read_bytes())) == notes._KEPT
    (tmp_path / "10.img").unlink()
    (tmp_path / "0.img").touch()
    time.sleep(0.03)
    sha256_of_file(tmp_path / "0.img", cache)
    kept = [Path(load["path"]).name for load in json.loads(cache.checksums.read_bytes())]
    assert "10.img" not in kept and kept[-1] == "0.img"


def test_a_local_base_is_hashed_once(bench: Bench, read: list[Path], soon: None) -> None:
    own = bench.folder / "own.img"
    own.write_bytes(IMAGE)
    time.sleep(0.03)
    for _ in range(3):
        assert bench.fetch(str(own), insecure=True).digest == IMAGE_SHA256
    assert read == [own]


def test_what_is_in_the_cache_is_found_without_writing(bench: Bench) -> None:
    own = bench.folder / "own.img"
    own.write_bytes(IMAGE)

    def found(what: str) -> str:
        found = in_cache(what, catalogues=catalogues, cache=bench.cache, folder=bench.folder)
        return found.digest if found else ""

    bench.pin()
    catalogues = [bench.folder / "images.toml"]
    assert found(str(own)) == found("base") == ""
    assert not bench.cache.folder.exists() and bench.site.of("/base.img.xz") == []
    bench.fetch(str(own), insecure=True)
    assert (found(str(own)), found("base")) == (IMAGE_SHA256, "")
    (record,) = bench.cache.records()
    image = bench.cache.path(record)
    image.chmod(0o600)
    image.write_bytes(b"another")
    before = image.stat()
    assert found(str(own)) == ""
    assert image.stat() == before or image.stat().st_mtime_ns == before.st_mtime_ns
    assert image.read_bytes() == b"another"


def prepared_on(folder: Path, node: str, base: str, *entries: Mapping[str, object]) -> None:
    """A record of a prepared node: only its base and its downloads count here."""
    text = json.dumps(
        {"recipe": "0", "parts": {}, "base": base, "size": 0, "spans": [], "blocks": "", "block_map": ""}
        | {"document": {"entries": entries}, "boot": SLICE, "root": SLICE, "boot_paths": []}
    ).encode()
    folder.mkdir(parents=True, exist_ok=True)
    seal = hashlib.sha256(text).hexdigest().encode()
    PreparedFiles(folder, node).record.write_bytes(seal + b"\n" + text)


SLICE = {"number": 1, "start": 0, "size": 512, "type": 12}


def test_prune_keeps_the_bases_that_prepared_nodes_need(bench: Bench, command: CliRunner) -> None:
    own = bench.folder / "own.img"
    own.write_bytes(IMAGE)
    bench.fetch(str(own), insecure=True)
    folder = bench.folder / "state/mine/prepared"
    prepared_on(folder, "worker1", IMAGE_SHA256)
    note_prepared(bench.cache, folder, "mine", IMAGE_SHA256)
    said = command.invoke(piimg, ["fetch", "--prune"], catch_exceptions=False).stdout
    assert said.startswith(f"kept own.img: 1 prepared node of mine in {folder}\nfreed ")
    document = json.loads(
        command.invoke(piimg, ["fetch", "--prune", "--json"], catch_exceptions=False).stdout
    )
    assert document["needed"] == [{"base": "own.img", "cluster": "mine", "folder": str(folder)}]
    assert len(bench.cache.records()) == 1
    PreparedFiles(folder, "worker1").record.write_bytes(b"cut off")
    command.invoke(piimg, ["fetch", "--prune"], catch_exceptions=False)
    assert bench.cache.records() == () and list(bench.cache.prepared.glob("*")) == []


def dressed_on(cache: Cache, key: str, sha256: str, base: str) -> Path:
    """A dressed base in the cache: only its digest and its base count here."""
    store = Store(cache)
    store.folder.mkdir(exist_ok=True)
    image = store.image(key)
    image.write_bytes(b"dressed")
    store.keep(key, Dressed(sha256, 7, image.stat().st_mtime_ns, base, (), (), (), {}))
    return image


def test_prune_keeps_the_dressed_bases_that_prepared_nodes_need(bench: Bench, command: CliRunner) -> None:
    own = bench.folder / "own.img"
    own.write_bytes(IMAGE)
    bench.fetch(str(own), insecure=True)
    needed = dressed_on(bench.cache, "1" * 64, "a" * 64, IMAGE_SHA256)
    other = dressed_on(bench.cache, "2" * 64, "b" * 64, IMAGE_SHA256)
    download, another = (bench.cache.layer_downloads / (letter * 64) for letter in "cd")
    download.parent.mkdir()
    for file in (download, another):
        file.write_bytes(b"download")
    folder = bench.folder / "state/mine/prepared"
    entry = {"download": {"url": "https://example.org/tool", "sha256": "c" * 64, "unpack": True}}
    prepared_on(folder, "worker1", "a" * 64, entry, {})
    note_prepared(bench.cache, folder, "mine", "a" * 64)
    said = command.invoke(piimg, ["fetch", "--prune"], catch_exceptions=False).stdout
    assert said.startswith(f"kept own.img: 1 prepared node of mine in {folder}\nfreed ")
    assert needed.exists() and not other.exists() and list(Store(bench.cache).bases()) == ["a" * 64]
    assert download.exists() and not another.exists()
    command.invoke(piimg, ["fetch", "--prune", "--all"], catch_exceptions=False)
    left = [file for file in needed.parent.iterdir() if file.suffix != ".lock"]
    assert left == [] and not download.exists() and bench.cache.records() == ()


def test_prune_all_frees_what_prepared_nodes_need_too(bench: Bench, command: CliRunner) -> None:
    own = bench.folder / "own.img"
    own.write_bytes(IMAGE)
    bench.fetch(str(own), insecure=True)
    folder = bench.folder / "state/mine/prepared"
    prepared_on(folder, "worker1", IMAGE_SHA256)
    note_prepared(bench.cache, folder, "mine", IMAGE_SHA256)
    said = command.invoke(piimg, ["fetch", "--prune", "--all"], catch_exceptions=False).stdout
    assert said.startswith("freed ") and bench.cache.records() == ()


def test_a_note_of_a_folder_that_is_gone_vanishes(tmp_path: Path, cache: Cache) -> None:
    for name in ("there", "gone"):
        (tmp_path / name).mkdir()
        note_prepared(cache, tmp_path / name, name, "0" * 64)
        note_prepared(cache, tmp_path / name, name, "1" * 64)
    (cache.prepared / "damaged.json").write_bytes(b"{")
    (tmp_path / "gone").rmdir()
    assert [note.cluster for _, note in prepared_folders(cache)] == ["there"]
    ((file, note),) = prepared_folders(cache)
    assert list(cache.prepared.iterdir()) == [file]
    assert note.bases == ("0" * 64, "1" * 64)
    assert notes.needed_bases(note, None) == {"0" * 64, "1" * 64}
