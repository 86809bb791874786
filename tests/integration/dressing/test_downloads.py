"""[[downloads]] of a layer: fetched once from a server, checked, and put into a node's entries."""

import hashlib
import io
import stat
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from imagebuilder.base.cache import Cache
from imagebuilder.boards import BOARDS
from imagebuilder.dressing.downloads import filled, filled_from
from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.events import Silent
from imagebuilder.model import Entry, Kind, Node, NodePlan, Partition, Release
from imagebuilder.software import Download
from tests.support.mirror import served

PATH = "/usr/local/lib/tool"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that is served, and its URL."""
    folder = tmp_path / "site"
    folder.mkdir()
    with served(folder) as url:
        yield folder, url


def entry(url: str, content: bytes, *, unpack: bool = False) -> Entry:
    kind = Kind.DIRECTORY if unpack else Kind.FILE
    origin = Download(url, hashlib.sha256(content).hexdigest(), unpack)
    return Entry(Partition.ROOT, PATH, kind, "own", "layer.toml", 0o755, download=origin)


def plan_of(*entries: Entry) -> NodePlan:
    node = Node("worker1", "worker", BOARDS["pi-4b"], IPv4Address("10.0.0.11"))
    return NodePlan(node, Release.TRIXIE, ("own",), entries)


def fill(cache: Path, *entries: Entry) -> tuple[Entry, ...]:
    return filled([plan_of(*entries)], Cache(cache), Silent(), threading.Event())[0].entries


def test_a_file_is_fetched_once(tmp_path: Path, site: tuple[Path, str]) -> None:
    folder, url = site
    (folder / "tool").write_bytes(b"tool")
    wanted = entry(f"{url}/tool", b"tool")
    assert [one.content for one in fill(tmp_path / "cache", wanted)] == [b"tool"]
    (folder / "tool").unlink()
    (again,) = fill(tmp_path / "cache", wanted)
    assert again.content == b"tool" and again.mode == 0o755


def test_what_is_in_the_cache_is_found_without_fetching(tmp_path: Path, site: tuple[Path, str]) -> None:
    folder, url = site
    (folder / "tool").write_bytes(b"tool")
    plan, cache = plan_of(entry(f"{url}/tool", b"tool")), Cache(tmp_path / "cache")
    assert filled_from(plan, cache) is None and not cache.folder.exists()
    (full,) = filled([plan], cache, Silent(), threading.Event())
    assert filled_from(plan, cache) == full
    (kept,) = (tmp_path / "cache/files").iterdir()
    kept.write_bytes(b"evil")
    assert filled_from(plan, cache) is None and kept.read_bytes() == b"evil"


def test_another_content_is_refused_and_not_kept(tmp_path: Path, site: tuple[Path, str]) -> None:
    folder, url = site
    (folder / "tool").write_bytes(b"another")
    with pytest.raises(PiimgError, match="has the sha256"):
        fill(tmp_path / "cache", entry(f"{url}/tool", b"tool"))
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.stat().st_size] == []


def test_a_file_that_was_changed_in_the_cache_is_fetched_again(
    tmp_path: Path, site: tuple[Path, str]
) -> None:
    folder, url = site
    (folder / "tool").write_bytes(b"tool")
    wanted = entry(f"{url}/tool", b"tool")
    fill(tmp_path / "cache", wanted)
    (kept,) = (tmp_path / "cache/files").iterdir()
    kept.write_bytes(b"evil")
    assert [one.content for one in fill(tmp_path / "cache", wanted)] == [b"tool"]


def test_a_missing_file_and_a_stop(tmp_path: Path, site: tuple[Path, str]) -> None:
    with pytest.raises(PiimgError, match="404"):
        fill(tmp_path / "cache", entry(f"{site[1]}/none", b""))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        filled([plan_of(entry(f"{site[1]}/none", b""))], Cache(tmp_path / "cache"), Silent(), stop)


def tar(members: Mapping[str, bytes | str], mode: str = "w:gz") -> bytes:
    """An archive; a text is the target of a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o6777
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("bin/tool", b"tool")
        archive.writestr("config", b"base")
    return out.getvalue()


MEMBERS: Mapping[str, bytes | str] = {"./bin/tool": b"tool", "./config": b"base", "./bin/link": "tool"}


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar", "tar.zst", "zip"])
def test_an_archive_is_unpacked_into_its_folder(tmp_path: Path, site: tuple[Path, str], kind: str) -> None:
    folder, url = site
    modes = {"tar.gz": "w:gz", "tar.xz": "w:xz"}
    content = zipped() if kind == "zip" else tar(MEMBERS, modes.get(kind, "w"))
    if kind == "tar.zst":
        content = subprocess.run(["zstd", "-c"], input=content, capture_output=True, check=True).stdout
    (folder / "a").write_bytes(content)
    own = Entry(Partition.ROOT, f"{PATH}/config", Kind.FILE, "mine", content=b"mine")
    entries = {
        one.path: one for one in fill(tmp_path / "cache", entry(f"{url}/a", content, unpack=True), own)
    }
    assert entries[PATH].kind is Kind.DIRECTORY
    assert entries[f"{PATH}/bin/tool"].content == b"tool"
    assert not entries[f"{PATH}/bin/tool"].mode & (stat.S_ISUID | stat.S_ISGID | 0o022)
    assert entries[f"{PATH}/config"].content == b"mine"  # the layer's own file wins
    if kind != "zip":
        assert entries[f"{PATH}/bin/link"].kind is Kind.LINK and entries[f"{PATH}/bin/link"].target == "tool"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar({"../evil": b"x"}), "leaves its folder"),
        (tar({"/etc/passwd": b"x"}), "leaves its folder"),
        (tar({"a/../../evil": b"x"}), "leaves its folder"),
        (tar({"link": "/etc", "link/passwd": b"x"}), "is below a link or a file"),
        (b"no archive", "is not an archive"),
        (tar(MEMBERS)[:60], "is not an archive"),
        (b"\x28\xb5\x2f\xfd broken", "cannot be unpacked|is not an archive"),
        (b"PK broken", "is not an archive"),
        (b"", "is not an archive"),
    ],
    # A gzip file has its time, and xdist needs the same names in all processes.
    ids=["up", "absolute", "up-inside", "link", "text", "cut", "zstd", "zip", "empty"],
)
def test_a_hostile_archive_is_refused(
    tmp_path: Path, site: tuple[Path, str], content: bytes, message: str
) -> None:
    folder, url = site
    (folder / "a").write_bytes(content)
    with pytest.raises(PiimgError, match=message):
        fill(tmp_path / "cache", entry(f"{url}/a", content, unpack=True))


def test_entries_without_a_download_stay(tmp_path: Path) -> None:
    own = Entry(Partition.ROOT, "/etc/motd", Kind.FILE, "mine", content=b"mine")
    assert fill(tmp_path / "cache", own, replace(own, path="/etc/other")) == (
        own,
        replace(own, path="/etc/other"),
    )
