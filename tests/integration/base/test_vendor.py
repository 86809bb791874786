"""Raspberry Pi's catalogue from a server: in parts, endless, into the cache."""

import hashlib
from pathlib import Path

import pytest

from imagebuilder.base import vendor
from imagebuilder.errors import PiimgError, UsageError
from tests.integration.base.conftest import FETCHED, FETCHED_SHA256, IMAGE, IMAGE_SHA256, Bench
from tests.unit.base.vendor_entries import LEAF, LITE, document


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


def test_no_file_and_no_server(tmp_path: Path, bench: Bench) -> None:
    with pytest.raises(UsageError, match="cannot read the catalogue"):
        vendor.find(LITE, str(tmp_path / "none.json"))
    with pytest.raises(PiimgError, match="404"):
        vendor.find(LITE, f"{bench.site.url}/none.json")
