"""Raspberry Pi's catalogue: nested, in parts, hostile."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.base import vendor
from imagebuilder.base.catalogue import Trust
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.model import Release
from tests.integration.base.conftest import FETCHED, FETCHED_SHA256, IMAGE, IMAGE_SHA256, Bench

LITE = "Raspberry Pi OS Lite (64-bit)"
LEAF: dict[str, Any] = {
    "name": LITE,
    "description": "A port of Debian Trixie with no desktop environment",
    "url": "https://downloads.raspberrypi.com/raspios_lite_arm64/images/raspios_lite_arm64-2026-10-06/"
    "2026-10-06-raspios-trixie-arm64-lite.img.xz",
    "extract_size": 3078619136,
    "extract_sha256": "b8a393dc1c3701450b5fffbfe74368a98fb6eab7415ce456cc0cead886ea8780",
    "image_download_size": 550466056,
    "release_date": "2026-10-06",
    "init_format": "cloudinit-rpi",
    "devices": ["pi5-64bit"],
}


def no_parts(url: str) -> bytes:
    raise AssertionError(f"asked for {url}")


def document(*items: object) -> bytes:
    return json.dumps({"imager": {"latest_version": "2.0"}, "os_list": items}).encode()


def test_an_entry_deep_in_the_catalogue() -> None:
    content = document({"name": "other", "subitems": [{"name": "x"}, {"name": "deep", "subitems": [LEAF]}]})
    image = vendor.entry(content, LITE, "https://h/os.json", no_parts)
    assert image.url == LEAF["url"]
    assert image.signature == f"{LEAF['url']}.sig"
    assert (image.extract_size, image.download_size) == (3078619136, 550466056)
    assert image.extract_sha256 == LEAF["extract_sha256"]
    assert (image.release, image.architecture, image.trust) == (Release.TRIXIE, "arm64", Trust.CATALOGUE)


def test_a_catalogue_over_plain_http_proves_little() -> None:
    assert vendor.entry(document(LEAF), LITE, "http://h/os.json", no_parts).trust is Trust.UNPROVEN


def test_parts_are_followed_relative_to_where_they_are_named(bench: Bench) -> None:
    bench.site.files["/top.json"] = document({"name": "more", "subitems_url": "sub/more.json"})
    bench.site.files["/sub/more.json"] = document({"name": "again", "subitems_url": "last.json"})
    bench.site.files["/sub/last.json"] = document(LEAF)
    assert vendor.find(LITE, f"{bench.site.url}/top.json").url == LEAF["url"]


def test_a_catalogue_that_names_itself_ends(bench: Bench) -> None:
    bench.site.files["/top.json"] = document({"name": "more", "subitems_url": "top.json"})
    with pytest.raises(PiimgError, match="nests more than 8 deep"):
        vendor.find(LITE, f"{bench.site.url}/top.json")
    many = [{"name": "more", "subitems_url": "leaf.json"}] * 60
    bench.site.files["/leaf.json"] = document(LEAF)
    bench.site.files["/top.json"] = document(*many)
    with pytest.raises(PiimgError, match="more than 50 parts"):
        vendor.find(LITE, f"{bench.site.url}/top.json")


def test_from_catalogue_to_cache(bench: Bench, tmp_path: Path) -> None:
    """The catalogue gives only the unpacked image's checksum: enough, and enough to find it again."""
    leaf = {
        "name": "Mine (64-bit)",
        "url": f"{bench.site.url}/base.img.xz",
        "extract_sha256": IMAGE_SHA256,
        "extract_size": len(IMAGE),
        "image_download_size": len(FETCHED),
    }
    bench.site.files["/base.img.xz"] = FETCHED
    path = tmp_path / "os_list.json"
    path.write_bytes(document({"name": "all", "subitems": [leaf]}))
    assert bench.fetch("Mine (64-bit)", catalogue=str(path)).path.read_bytes() == IMAGE
    requests = len(bench.site.seen)
    assert bench.fetch("Mine (64-bit)", catalogue=str(path)).digest == IMAGE_SHA256
    assert len(bench.site.seen) == requests
    path.write_bytes(document(leaf | {"extract_sha256": "0" * 64}))
    with pytest.raises(PiimgError, match="wrong checksum of the unpacked image"):
        bench.fetch("Mine (64-bit)", catalogue=str(path))
    path.write_bytes(document(leaf | {"image_download_sha256": hashlib.sha256(b"").hexdigest()}))
    with pytest.raises(PiimgError, match=f"wrong checksum: it has {FETCHED_SHA256}"):
        bench.fetch("Mine (64-bit)", catalogue=str(path))


@pytest.mark.parametrize("known", [*vendor.INIT_FORMATS, None])
def test_a_known_init_format_is_read_in_silence(known: str | None) -> None:
    image = vendor.entry(document(LEAF | {"init_format": known}), LITE, "os.json", no_parts)
    assert (image.init_format, vendor.unknown(image)) == (known or "", "")


@pytest.mark.parametrize("strange", ["ignition", "x\x1b[2J" * 50, 7, ["cloudinit"], {"a": 1}])
def test_an_unknown_init_format_is_a_warning(bench: Bench, tmp_path: Path, strange: object) -> None:
    leaf = {"name": "Mine", "url": f"{bench.site.url}/base.img.xz", "extract_sha256": IMAGE_SHA256}
    bench.site.files["/base.img.xz"] = FETCHED
    path = tmp_path / "os_list.json"
    path.write_bytes(document(leaf | {"init_format": strange}))
    assert bench.fetch("Mine", catalogue=str(path)).path.read_bytes() == IMAGE
    (said,) = [text for text in bench.reporter.warnings if "init_format" in text]
    assert str(strange)[:1] in said and "piimg does not know" in said
    assert said.isprintable() and len(said) < 400


def test_an_unknown_entry_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match="no entry called 'x'") as caught:
        vendor.entry(document(LEAF), "x", "os.json", no_parts)
    assert LITE in caught.value.hint


def test_two_entries_of_one_name_are_not_guessed_between() -> None:
    other = LEAF | {"url": "https://example.org/other.img.xz"}
    with pytest.raises(UsageError, match="2 entries called") as caught:
        vendor.entry(document(LEAF, LEAF, other), LITE, "os.json", no_parts)
    assert "https://example.org/other.img.xz" in caught.value.hint
    assert vendor.entry(document(LEAF, LEAF), LITE, "os.json", no_parts).url == LEAF["url"]


@pytest.mark.parametrize(
    "change", [{"url": "ftp://x/y"}, {"extract_sha256": "12"}, {"extract_size": "many"}, {"extract_size": -1}]
)
def test_an_unusable_entry_says_what_of_it(change: dict[str, object]) -> None:
    with pytest.raises(PiimgError, match=f"not usable: {next(iter(change))}"):
        vendor.entry(document(LEAF | change), LITE, "os.json", no_parts)


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"[]", b"{}", b'{"os_list": 1}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_catalogue_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "os_list.json"
    path.write_bytes(content)
    with pytest.raises(PiimgError, match="is not a catalogue"):
        vendor.find(LITE, str(path))


def test_no_file_and_no_server(tmp_path: Path, bench: Bench) -> None:
    with pytest.raises(UsageError, match="cannot read the catalogue"):
        vendor.find(LITE, str(tmp_path / "none.json"))
    with pytest.raises(PiimgError, match="404"):
        vendor.find(LITE, f"{bench.site.url}/none.json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "url", "subitems", "subitems_url", "os_list", "extract_size", "init_format"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_JSON, st.text(max_size=3))
def test_any_json_is_read_or_refused(items: object, name: str) -> None:
    try:
        image = vendor.entry(json.dumps({"os_list": items}).encode(), name, "os.json", lambda url: b"{}")
    except PiimgError as error:
        assert error.message
    else:
        assert image.url.startswith("http")
