"""What the tests of fetching share: a small image, a server, a cache, and a call to fetch."""

import hashlib
import lzma
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagebuilder.base.cache import Cache
from imagebuilder.base.cached import Fetched
from imagebuilder.base.fetch import fetch
from imagebuilder.base.request import Patience
from imagebuilder.events import Event, Message
from tests.integration.base.site import Site, serving

IMAGE = bytes(1 << 20) + random.Random(1).randbytes(300_000) + bytes((2 << 20) - 300_000)
"""3 MiB, of which about 300 kB are not zeros."""

IMAGE_SHA256 = hashlib.sha256(IMAGE).hexdigest()
FETCHED = lzma.compress(IMAGE, preset=1)
FETCHED_SHA256 = hashlib.sha256(FETCHED).hexdigest()
QUICK = Patience(connect=2, stall=0.4, tries=3, backoff=0.01)


@dataclass
class Record:
    """A Reporter that remembers."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def warnings(self) -> list[str]:
        return [
            event.text for event in self.events if isinstance(event, Message) and event.level == "warning"
        ]


@dataclass
class Bench:
    """A cluster folder whose images.toml names ``base``, on a server, and an empty cache."""

    site: Site
    folder: Path
    cache: Cache
    reporter: Record = field(default_factory=Record)

    def pin(
        self, content: bytes = FETCHED, name: str = "base", path: str = "/base.img.xz", **more: object
    ) -> None:
        """Serve ``content`` and name it in images.toml, pinned to its true sha256 unless ``more`` says so."""
        self.site.files[path] = content
        keys = {"url": self.site.url + path, "sha256": hashlib.sha256(content).hexdigest(), **more}
        lines = [
            f"{key} = {value if isinstance(value, int | list) else repr(value)}"
            for key, value in keys.items()
        ]
        (self.folder / "images.toml").write_text(f"[{name}]\n" + "\n".join(lines) + "\n")

    def fetch(
        self, what: str = "base", *, sha256: str = "", insecure: bool = False, catalogue: str = ""
    ) -> Fetched:
        catalogues = [path for path in [self.folder / "images.toml"] if path.exists()]
        return fetch(
            what,
            catalogues=catalogues,
            cache=self.cache,
            reporter=self.reporter,
            folder=self.folder,
            sha256=sha256,
            insecure=insecure,
            vendor_catalogue=catalogue,
            patience=QUICK,
        )

    def assert_nothing_final(self) -> None:
        """The cache holds no base, and nothing but unfinished downloads under names of their own."""
        assert self.cache.records() == ()
        assert list(self.cache.bases.glob("*")) == []
        assert {path.suffix for path in self.cache.downloads.glob("*")} <= {".partial", ".json"}

    def assert_fetches(self, what: str = "base", *, sha256: str = "") -> None:
        """Fetching works now, and leaves the base and no download."""
        got = self.fetch(what, sha256=sha256)
        assert got.path.read_bytes() == IMAGE
        assert got.digest == IMAGE_SHA256
        assert got.path.name == f"{IMAGE_SHA256}.img"
        assert list(self.cache.downloads.glob("*")) == []
        assert [path.suffix for path in sorted(self.cache.bases.glob("*"))] == [".json", ".img"]


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def bench(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "cluster"
    folder.mkdir()
    return Bench(site, folder, Cache(tmp_path / "cache"))


@pytest.fixture
def command(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("PIIMG_CACHE", str(bench.cache.folder))
    monkeypatch.delenv("PIIMG_MANIFEST", raising=False)
    (bench.folder / "cluster.toml").touch()
    monkeypatch.chdir(bench.folder)
    return CliRunner()
