"""A prepared node is what a full copy of its base image becomes by the same entries, whatever they are."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from imagebuilder.errors import PiimgError
from imagebuilder.model import Entry
from imagebuilder.system import mount
from tests.conftest import NEWEST
from tests.integration.building.preparing import (
    CAPABILITY,
    ODD,
    Preparer,
    check,
    entry,
    furnished,
    preparer,
    remade,
)
from tests.support.cluster import make_place

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.usefixtures("nothing_held"),
]

NOISE = os.urandom(300_001)
LARGE = bytes(1 << 20) + NOISE * 8 + bytes(1 << 20)

EVERYTHING = (
    entry("root/etc/hostname", "file", content=b"worker1\n"),
    entry("root/usr/share/doc/package-000", "remove"),
    entry("root/usr/share/doc/package-000/file-0", "file", content=b"removed, then written below\n"),
    entry("root/usr/share/doc/package-001/file-1", "remove"),
    entry("root/usr/share/doc/package-001/file-1", "link", target="../../file"),
    entry("root/bin/new", "file", content=b"through a link", mode=0o755),
    entry("root/srv/odd/new", "file", content=b"into a folder with an odd name"),
    entry("root/srv/odd/there", "lines", content=b"there\nand here\n"),
    entry("root/srv/here/deep/deeper/new", "file", content=NOISE, mode=0o600, uid=1000, gid=1000),
    entry("root/etc/long", "link", target="x/" * 300),
    entry("root/etc/hosts", "lines", content=b"127.0.0.1\tlocalhost\n"),
    entry("root/etc/twin", "lines", content=b"one\n"),  # adds nothing
    entry("root/usr/share/twin", "lines", content=b"three\n"),
    entry("root/etc/labelled", "lines", content=b"another\n"),
    entry("root/etc/zeros", "file", content=bytes(40_000)),
    entry("root/var/zeros", "file", content=bytes(9)),
    entry("root/etc/large", "file", content=LARGE),
    entry("root/etc/empty", "file"),
    entry("root/var/large", "remove"),
    entry("root/opt/folder", "directory", mode=0o2770, gid=33),
    entry("root/usr", "directory", mode=0o711),
    entry("root/nowhere/at/all", "remove", optional=True),
    entry("boot/CONFIG.TXT", "lines", content=b"dtparam=audio=on\n"),
    entry("boot/cmdline.txt", "words", content=b"quiet"),
    entry("boot/Overlays/VC4-kms-v3d.dtbo", "file", content=b"in other spelling"),
    entry("boot/overlays/a new name.dtbo", "file", content=NOISE),
    entry("boot/New folder/below/file.txt", "file", content=bytes(9000)),
    entry("boot/fixup.dat", "remove"),
    entry("boot/overlays", "directory"),
)
"""One of each kind that a preparation treats in its own way."""

ROOT_PATHS = st.builds(
    "root{}/{}".format,
    st.sampled_from(
        ["/etc", "/usr/bin", "/bin", "/srv/here", "/srv/odd", "/opt/new/deep", "/usr/share/doc/package-001"]
    ),
    st.sampled_from(["hostname", "bash", "file-0", "file-1", "a", "a/b", "there", "twin", "labelled"]),
) | st.sampled_from(
    ["root/opt/new", "root/srv/here", "root/usr/share/twin", "root/var/large", "root/var/zeros"]
)
BOOT_PATHS = st.sampled_from(
    [
        *("boot/config.txt", "boot/CONFIG.TXT", "boot/cmdline.txt", "boot/overlays/new.dtbo"),
        *("boot/Overlays/disable-bt.dtbo", "boot/OVERLAYS", "boot/New folder/a.txt", "boot/new folder/A.txt"),
        *("boot/x/y/z", "boot/x", "boot/bootcode.bin"),
    ]
)
CONTENTS = st.sampled_from([b"", b"a\n", b"\0", bytes(4096), bytes(70_000), NOISE, b"one\ntwo\n", LARGE])
MODES = st.sampled_from([0o600, 0o644, 0o4755])


def entries_at(paths: st.SearchStrategy[str], kinds: list[str]) -> st.SearchStrategy[Entry]:
    def made(path: str, kind: str, content: bytes, mode: int) -> Entry:
        if kind in ("lines", "remove"):
            return entry(path, kind, content=b"one\na\n", optional=True)
        if kind == "link":
            return entry(path, kind, target="../opt")
        return entry(path, kind, content=content if kind == "file" else b"", mode=mode)

    return st.builds(made, paths, st.sampled_from(kinds), CONTENTS, MODES)


OVERLAYS = st.lists(
    entries_at(ROOT_PATHS, ["file", "file", "lines", "remove", "link", "directory"])
    | entries_at(BOOT_PATHS, ["file", "lines", "remove", "directory"]),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module", params=NEWEST)
def prepares(
    request: pytest.FixtureRequest, specimen: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Preparer]:
    """One for each release."""
    folder = tmp_path_factory.mktemp("base")
    place = make_place(folder, folder / "cache")
    with preparer(
        furnished(specimen(request.param), folder / "base.img"), place, folder / "prepared"
    ) as made:
        yield made


def test_each_kind_of_entry(prepares: Preparer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without root, by fuse2fs: the same digest."""
    node = prepares.prepare(EVERYTHING)
    records = check(node, prepares.base, EVERYTHING, tmp_path)
    assert ("root", os.fsencode(f"{ODD}/new")) in records and (
        "boot",
        b"/overlays/a new name.dtbo",
    ) in records
    labelled = records["root", b"/etc/labelled"]
    assert CAPABILITY in labelled and b"n" * 900 in labelled and b"4750" in labelled
    before = prepares.shared.known.records
    assert records["root", b"/usr/share/twin"] != before["root", b"/usr/share/twin"]
    twin = before["root", b"/etc/twin"]  # named by an entry that adds nothing: only its time is recorded now
    assert content_of(records["root", b"/etc/twin"]) == content_of(twin)
    monkeypatch.setattr(mount, "_by_kernel", mount._by_fuse)
    assert prepares.prepare(EVERYTHING).tree_digest == node.tree_digest


def content_of(record: bytes) -> bytes:
    """The sha256 of a file's content in its record."""
    found = re.search(rb"64:([0-9a-f]{64}),", record)
    assert found
    return found[1]


@pytest.mark.long
@pytest.mark.timeout(600)
@settings(
    max_examples=int(os.environ.get("PIIMG_EXAMPLES", "5")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(entries=OVERLAYS)
@example(entries=[entry("boot/New folder/below/file.txt", "file", content=b"new")])
@example(
    entries=[
        entry("root/opt/a/hostname", "file"),
        entry("root/opt/a", "remove"),
        entry("root/opt/a", "link", target="/etc"),
    ]
)
def test_any_overlay(
    prepares: Preparer, tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]
) -> None:
    try:
        node = prepares.prepare(entries)
    except PiimgError as error:
        event(error.message)
        return
    folder = tmp_path_factory.mktemp("any")
    check(node, prepares.base, entries, folder)
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.long
@pytest.mark.parametrize("options", [("-b", "1024"), ("-N", "1000"), ("-O", "^has_journal,^metadata_csum")])
def test_another_file_system(
    options: tuple[str, ...], specimen: Callable[[str], Path], tmp_path: Path
) -> None:
    """Blocks of 1 KiB; so few inodes that the file system has to grow; no journal, no checksums."""
    first = furnished(specimen("bookworm"), tmp_path / "first.img")
    image = remade(first, tmp_path / "base.img", tmp_path, *options)
    with preparer(image, make_place(tmp_path, tmp_path / "cache"), tmp_path / "prepared") as made:
        check(made.prepare(EVERYTHING), made.base, EVERYTHING, tmp_path)
