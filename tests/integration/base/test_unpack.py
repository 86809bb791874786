"""Decoding: every format, damage, bombs, and disks too small; the results are sparse and true."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.base import unpack as unpacking
from imagebuilder.base.cache import Cache, sha256_of
from imagebuilder.base.unpack import unpack
from imagebuilder.errors import PiimgError
from imagebuilder.events import Silent
from imagebuilder.system import process
from tests.integration.base import site as faults
from tests.integration.base.conftest import FETCHED, IMAGE, IMAGE_SHA256, Bench


def zstd(content: bytes) -> bytes:
    return process.run(["zstd", "-qc"], data=content).stdout


def zipped(content: bytes, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "base.img": bytes,
    "base.img.xz": lambda content: lzma.compress(content, preset=1),
    "base.img.gz": gzip.compress,
    "base.img.zst": zstd,
    "base.zip": lambda content: zipped(content, "notes.txt", "os.img"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_out_the_same_and_sparse(bench: Bench, name: str) -> None:
    bench.pin(FORMATS[name](IMAGE), path=f"/{name}")
    bench.assert_fetches()
    (image,) = bench.cache.bases.glob("*.img")
    assert image.stat().st_blocks * 512 < 400_000
    assert image.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "base.img"])
@pytest.mark.parametrize("harm", ["cut short", "damaged", "empty"])
def test_damage_is_found_and_nothing_is_kept(bench: Bench, name: str, harm: str) -> None:
    whole = FORMATS[name](IMAGE)
    middle = len(whole) // 2
    broken = {
        "cut short": whole[:middle],
        "damaged": whole[:middle]
        + bytes(1 ^ byte for byte in whole[middle : middle + 64])
        + whole[middle + 64 :],
        "empty": b"",
    }[harm]
    bench.pin(broken, path=f"/{name}")
    with pytest.raises(PiimgError) as caught:
        bench.fetch()
    assert "\n" not in caught.value.message and caught.value.hint
    bench.assert_nothing_final()
    assert list(bench.cache.downloads.glob("*")) == []
    bench.pin(whole, path=f"/{name}")
    bench.assert_fetches()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_hostile_bytes_give_one_clear_error_or_the_image(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["base.img.xz", "base.img.gz", "base.img.zst", "base.zip"]))
    content = bytearray(FORMATS[name](bytes(8192)))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)
    ):
        content[place] = value
    folder = tmp_path_factory.mktemp("hostile")
    (folder / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    (folder / "out").touch()
    try:
        done = unpack(folder / name, folder / "out", name=name, subject=name, reporter=Silent())
    except PiimgError as error:
        assert error.message
    else:
        assert done.digest == sha256_of(folder / "out")


def test_a_bomb_that_declares_less_than_it_holds(bench: Bench) -> None:
    bench.pin(gzip.compress(bytes(64 << 20)), path="/base.img.gz", extract_size=1 << 20)
    with pytest.raises(PiimgError, match="grows beyond the 1048576 bytes"):
        bench.fetch()
    bench.assert_nothing_final()


def test_a_bomb_that_declares_all_of_it_is_not_even_begun(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "LARGEST", 16 << 20)
    bench.pin(lzma.compress(bytes(17 << 20), preset=0))
    with pytest.raises(PiimgError, match="would grow to 17825792 bytes: refused"):
        bench.fetch()
    bench.assert_nothing_final()


def test_a_bomb_without_any_declared_size_stops_at_the_cap(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "LARGEST", 4 << 20)
    bench.pin(gzip.compress(bytes(64 << 20)), path="/base.img.gz")
    with pytest.raises(PiimgError, match="grows beyond the 4194304 bytes"):
        bench.fetch()
    bench.assert_nothing_final()


def test_an_xz_whose_size_is_not_the_entry_s(bench: Bench) -> None:
    bench.pin(extract_size=len(IMAGE) - 512)
    with pytest.raises(PiimgError, match=f"holds an image of {len(IMAGE)} bytes, but its entry says"):
        bench.fetch()
    bench.assert_nothing_final()
    bench.pin(extract_size=len(IMAGE), extract_sha256=IMAGE_SHA256)
    bench.assert_fetches()


def test_less_than_the_declared_size(bench: Bench) -> None:
    bench.pin(gzip.compress(IMAGE), path="/base.img.gz", extract_size=len(IMAGE) + 512)
    with pytest.raises(PiimgError, match="is cut short: 3145728 of 3146240 bytes"):
        bench.fetch()
    bench.assert_nothing_final()


def test_wrong_checksum_of_the_unpacked_image(bench: Bench) -> None:
    bench.pin(extract_sha256="1" * 64)
    with pytest.raises(PiimgError, match="wrong checksum of the unpacked image"):
        bench.fetch()
    bench.assert_nothing_final()
    bench.pin(extract_sha256=IMAGE_SHA256)
    bench.assert_fetches()


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("/base.img.xz", b"<html>please log in</html>", "is not .xz inside"),
        ("/base.img.gz", FETCHED, "is not .gz inside but .xz"),
        ("/base.img", FETCHED, "is not .img inside but .xz"),
        ("/base.img", b"<html>please log in</html>", "not a whole number of 512-byte sectors"),
        ("/base.img.bz2", bz2.compress(bytes(100)), "not a whole number of 512-byte sectors"),
        ("/base.zip", zipped(b"", "a.txt"), "holds 0 images, not one"),
        ("/base.zip", zipped(b"", "a.img", "b.img"), "holds 2 images, not one"),
    ],
)
def test_what_is_no_image_is_said_so(bench: Bench, path: str, content: bytes, said: str) -> None:
    bench.pin(content, path=path)
    with pytest.raises(PiimgError, match=said):
        bench.fetch()
    bench.assert_nothing_final()


def test_a_zip_cannot_write_outside_the_cache(bench: Bench, tmp_path: Path) -> None:
    bench.pin(zipped(IMAGE, "../../../escaped.img"), path="/base.zip")
    bench.assert_fetches()
    assert not list(tmp_path.rglob("escaped*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        process.run(["umount", folder])


def test_disk_full_while_downloading(bench: Bench, small_disk: Path) -> None:
    bench.pin()
    roomy, bench.cache = bench.cache, Cache(small_disk)
    bench.site.faults["/base.img.xz"] += [faults.unmeasured]
    with pytest.raises(PiimgError, match="the disk is full: cannot download base") as caught:
        bench.fetch()
    assert "--prune" in caught.value.hint
    bench.assert_nothing_final()
    bench.cache = roomy
    bench.assert_fetches()


def test_disk_full_while_unpacking(bench: Bench, small_disk: Path) -> None:
    """gzip does not tell its size beforehand, so only the write finds the disk full."""
    content = gzip.compress(bytes(1 << 20) + b"x" * (1 << 20))
    bench.pin(content, path="/base.img.gz")
    bench.cache = Cache(small_disk)
    with pytest.raises(PiimgError, match=r"the disk is full: cannot unpack base\.img\.gz"):
        bench.fetch()
    bench.assert_nothing_final()
    process.run(["mount", "-o", "remount,size=4m", small_disk])
    assert bench.fetch().path.stat().st_size == 2 << 20
    assert len(bench.site.of("/base.img.gz")) == 1, "what was downloaded was not kept"


def test_no_room_is_told_before_unpacking(bench: Bench, small_disk: Path) -> None:
    bench.pin(lzma.compress(bytes(8 << 20)))
    bench.cache = Cache(small_disk)
    with pytest.raises(PiimgError, match="no room to unpack"):
        bench.fetch()
    bench.assert_nothing_final()
