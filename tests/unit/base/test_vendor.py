"""Raspberry Pi's catalogue: nested, hostile, not a catalogue at all."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.base import vendor
from imagebuilder.base.catalogue import Trust
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.model import Release
from tests.unit.base.vendor_entries import LEAF, LITE, document


def no_parts(url: str) -> bytes:
    raise AssertionError(f"asked for {url}")


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


@pytest.mark.parametrize("known", [*vendor.INIT_FORMATS, None])
def test_a_known_init_format_is_read_in_silence(known: str | None) -> None:
    image = vendor.entry(document(LEAF | {"init_format": known}), LITE, "os.json", no_parts)
    assert (image.init_format, vendor.unknown(image)) == (known or "", "")


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
