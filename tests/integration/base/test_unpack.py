"""Decoding: every format, damage, bombs, and disks too small; the results are sparse and true."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
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


def deflate64(content: bytes, *, password: str = "", name: str = "os.img") -> bytes:
    """What Windows makes of a file above 2 GB."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        how = [f"-p{password}"] if password else ["-mm=Deflate64"]
        process.run(["7zz", "a", "-tzip", "-mx1", *how, "x.zip", "--", f"./{name}"], cwd=Path(folder))
        return (Path(folder) / "x.zip").read_bytes()


def by_pzstd(content: bytes) -> bytes:
    """It begins with a skippable frame."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x").write_bytes(content)
        process.run(["pzstd", "-q", "-p", "2", "x"], cwd=Path(folder))
        return (Path(folder) / "x.zst").read_bytes()


def by_macos(content: bytes) -> bytes:
    """Finder's "Compress" adds metadata for each file."""
    buffer = io.BytesIO(zipped(content, "My Cluster/", "My Cluster/os.img"))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("__MACOSX/My Cluster/._os.img", b"\0\5\x16\7" + bytes(116))
        archive.writestr("My Cluster/._os.img", b"\0\5\x16\7" + bytes(116))
        archive.mkdir("My Cluster/old.img") if hasattr(archive, "mkdir") else None
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("os.img")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def packed(content: bytes, *command: str) -> bytes:
    """``content`` as a program that reads its standard input packs it."""
    return process.run(command, data=content).stdout


VALID: dict[str, Callable[[bytes], bytes]] = {
    "pzstd.img.zst": by_pzstd,
    "long.img.zst": lambda content: packed(content, "zstd", "-q", "--long=30"),
    "two.img.zst": lambda content: zstd(content[:4096]) + b"\x5f\x2a\x4d\x18\1\0\0\0x" + zstd(content[4096:]),
    "two.img.xz": lambda content: lzma.compress(content[:4096]) + lzma.compress(content[4096:]),
    "two.img.gz": lambda content: gzip.compress(content[:4096]) + gzip.compress(content[4096:]),
    "mac.zip": by_macos,
    "deflate64.zip": deflate64,
    "names.zip": lambda content: deflate64(content, name="-p [x]*ü\\'.IMG"),
    "yocto.zip": lambda content: zipped(content, "LICENSE", "os.wic"),
    "yocto.wic": bytes,
    "yocto.wic.gz": gzip.compress,
    "streamed.zip": lambda content: b"PK00" + zipped(content, "os.img"),
}


@pytest.mark.parametrize("name", VALID)
def test_what_real_tools_make_is_unpacked(bench: Bench, name: str) -> None:
    bench.pin(VALID[name](IMAGE), path=f"/{name}")
    bench.assert_fetches()


BIG = ["xz", "--lzma2=dict=1536MiB"]


def by_a_newer_xz(content: bytes) -> bytes:
    """With the id of a filter that no xz has yet, and the checksum of the block's header to match."""
    chain = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 1}]
    made = bytearray(lzma.compress(content, filters=chain))
    end = 12 + (made[12] + 1) * 4
    made[made.index(lzma.FILTER_X86, 14, end)] = 0x3F
    made[end - 4 : end] = zlib.crc32(made[12 : end - 4]).to_bytes(4, "little")
    return bytes(made)


NOT_UNPACKED: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "long.img.zst": (
        lambda content: packed(content, "zstd", "-q", "--long=31"),
        "needs 2048 MiB of memory to unpack; piimg allows 1024 MiB",
        "zstd -d --long=31 FILE",
    ),
    "big.img.xz": (
        lambda content: packed(content, *BIG),
        "needs 1537 MiB of memory to unpack; piimg allows 1024 MiB",
        "xz -d FILE",
    ),
    "new.img.xz": (by_a_newer_xz, "options that the installed xz does not know", "a newer xz-utils"),
    "password.zip": (
        lambda content: deflate64(content, password="secret"),
        "the image in it is encrypted with a password",
        "--base FILE",
    ),
    "zstd.zip": (
        lambda content: zipped(content, "os.img").replace(b"\x08\0", b"\x5d\0"),
        "cannot unpack the image in it, compressed by Zstandard",
        "--base FILE",
    ),
    "inside.zip": (
        lambda content: zipped(lzma.compress(content), "os.img.xz"),
        r"contains no image \(.img or .wic\): os.img.xz",
        "--base FILE",
    ),
    "empty.zip": (zipped, r"contains no image \(.img or .wic\)$", "--base FILE"),
    "tar.zip": (lambda content: zipped(tarred(content), "os.img"), "contains a tar archive", "tar -xf"),
    "os.tar.gz": (lambda content: gzip.compress(tarred(content)), "contains a tar archive", "tar -xf"),
    "os.tar": (tarred, "is a tar archive, not a disk image", "tar -xf"),
    "twice.img.xz": (lambda content: lzma.compress(gzip.compress(content)), "contains a gzip file", "gunzip"),
    "os.img.bz2": (bz2.compress, "is a bzip2 file, not a disk image", "bunzip2"),
    "os.7z": (lambda content: b"7z\xbc\xaf\x27\x1c" + content, "is a 7-Zip archive", "7zz x"),
    "os.qcow2": (lambda content: b"QFI\xfb" + content[4:], "is a qcow2 image", "qemu-img convert"),
}


@pytest.mark.parametrize("name", NOT_UNPACKED)
def test_what_is_not_unpacked_is_not_called_damaged(bench: Bench, name: str) -> None:
    make, why, hint = NOT_UNPACKED[name]
    bench.pin(make(IMAGE), path=f"/{name}")
    with pytest.raises(PiimgError, match=why) as caught:
        bench.fetch()
    assert "damaged" not in caught.value.message and "fetch it again" not in caught.value.hint
    assert hint in caught.value.hint
    assert "<" not in caught.value.message
    bench.assert_nothing_final()


def test_a_missing_unzip_is_named_and_the_download_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.pin(deflate64(IMAGE), path="/base.zip")
    with monkeypatch.context() as patched:
        patched.setattr(process, "_SBIN", "")
        patched.setenv("PATH", "")
        with pytest.raises(PiimgError, match="unzip is not installed") as caught:
            bench.fetch()
    assert "apt-get install unzip" in caught.value.hint
    bench.assert_nothing_final()
    bench.assert_fetches()
    assert len(bench.site.of("/base.zip")) == 1


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "base.img": bytes,
    "base.img.xz": lambda content: lzma.compress(content, preset=1),
    "base.img.gz": gzip.compress,
    "base.img.zst": zstd,
    "base.zip": lambda content: zipped(content, "notes.txt", "os.img"),
    "deflate64.zip": deflate64,
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
    name = data.draw(st.sampled_from([name for name in FORMATS if name != "base.img"]))
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
    with pytest.raises(PiimgError, match="unpacks to more than 1048576 bytes"):
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
    with pytest.raises(PiimgError, match="unpacks to more than 4194304 bytes"):
        bench.fetch()
    bench.assert_nothing_final()


def test_an_xz_whose_size_is_not_the_entry_s(bench: Bench) -> None:
    bench.pin(extract_size=len(IMAGE) - 512)
    with pytest.raises(PiimgError, match=f"contains an image of {len(IMAGE)} bytes, but its entry says"):
        bench.fetch()
    bench.assert_nothing_final()
    bench.pin(extract_size=len(IMAGE), extract_sha256=IMAGE_SHA256)
    bench.assert_fetches()


def test_less_than_the_declared_size(bench: Bench) -> None:
    bench.pin(gzip.compress(IMAGE), path="/base.img.gz", extract_size=len(IMAGE) + 512)
    with pytest.raises(PiimgError, match="is cut short: it unpacks to 3145728 of 3146240 bytes"):
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
        ("/base.zip", zipped(b"", "a.txt"), r"contains no image \(.img or .wic\): a.txt"),
        ("/base.zip", zipped(b"", "a.img", "b.img"), "contains 2 images, not one: a.img, b.img"),
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


def test_no_room_is_reported_before_unpacking(bench: Bench, small_disk: Path) -> None:
    bench.pin(lzma.compress(bytes(8 << 20)))
    bench.cache = Cache(small_disk)
    with pytest.raises(PiimgError, match="not enough space to unpack"):
        bench.fetch()
    bench.assert_nothing_final()
