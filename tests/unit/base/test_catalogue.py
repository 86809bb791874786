"""Names, URLs and files; images.toml, shipped and hostile; checksums beside files."""

import contextlib
import datetime
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagebuilder.base import catalogue
from imagebuilder.base.catalogue import BaseImage, Trust
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.model import Release
from imagebuilder.resources import shipped

SHIPPED = [shipped("manifests") / "images.toml"]
SUM = "ab" * 32


def test_every_shipped_pin_is_whole_and_follows_raspberry_pi_s_naming() -> None:
    images = catalogue.load(SHIPPED)
    assert len(images) == 10
    for image in images.values():
        assert image.release is not None and image.date is not None and image.trust is Trust.PINNED
        flavour = f"raspios_lite_{image.architecture}"
        pattern = (
            rf"https://downloads\.raspberrypi\.com/{flavour}/images/{flavour}-(\d{{4}}-\d\d-\d\d)/"
            rf"{image.date}-raspios-{image.release}-{image.architecture}-lite\.img\.xz"
        )
        match = re.fullmatch(pattern, image.url)
        assert match is not None, image.url
        assert datetime.date.fromisoformat(match[1]) - image.date in (
            datetime.timedelta(0),
            datetime.timedelta(1),
        )
        assert image.name == f"raspios-{image.release}-{image.architecture}-lite-{image.date}"
        assert image.signature == f"{image.url}.sig"
        assert catalogue.lookup(image.name, SHIPPED) == image


def test_a_name_without_a_date_is_the_newest() -> None:
    image = catalogue.lookup("raspios-trixie-arm64-lite", SHIPPED)
    assert image.name == "raspios-trixie-arm64-lite-2026-10-06"
    assert (image.release, image.architecture) == (Release.TRIXIE, "arm64")
    assert (image.extract_size, image.download_size) == (3078619136, 550466056)
    assert set(catalogue.aliases(catalogue.load(SHIPPED))) == {
        "raspios-trixie-arm64-lite",
        "raspios-trixie-armhf-lite",
        "raspios-bookworm-arm64-lite",
        "raspios-bullseye-arm64-lite",
        "raspios-bullseye-armhf-lite",
    }


def test_a_cluster_s_own_images_add_to_the_shipped_and_win(tmp_path: Path) -> None:
    own = tmp_path / "images.toml"
    own.write_text(
        f'[mine]\nurl = "https://example.org/mine.img.xz"\nsha256 = "{SUM.upper()}"\n'
        f'[raspios-trixie-arm64-lite-2026-12-01]\nurl = "https://example.org/new.img.xz"\nsha256 = "{SUM}"\n'
    )
    assert catalogue.lookup("mine", [*SHIPPED, own]).sha256 == SUM
    assert catalogue.lookup("mine", [*SHIPPED, own]).signature == ""
    assert (
        catalogue.lookup("raspios-trixie-arm64-lite", [*SHIPPED, own]).url == "https://example.org/new.img.xz"
    )


@pytest.mark.parametrize(
    "what", ["/a/b.img", "./b", "../b", "~/b", "b.img", "b.IMG.XZ", "x/b.zip", "b.gz", "raspios.zst"]
)
def test_files_are_reported_by_their_spelling(what: str) -> None:
    image = catalogue.lookup(what, SHIPPED, Path("/folder"))
    assert image.file is not None and image.file.is_absolute() and image.url == ""


def test_a_relative_file_starts_at_the_cluster_folder() -> None:
    assert catalogue.lookup("x/b.img", [], Path("/folder")).file == Path("/folder/x/b.img")


def test_what_the_name_of_a_file_tells() -> None:
    for what in (
        "./2025-05-13-raspios-bookworm-armhf-lite.img.xz",
        "http://h/2025-05-13-raspios-bookworm-armhf.img",
    ):
        image = catalogue.lookup(what, [])
        assert (image.release, image.architecture) == (Release.BOOKWORM, "armhf")
        assert image.date == datetime.date(2025, 5, 13)
        assert image.trust is Trust.NONE
    assert catalogue.lookup("./2025-99-13-raspios-bookworm-armhf-lite.img.xz", []).release is None
    assert catalogue.lookup("./2019-05-13-raspios-buster-armhf-lite.img.xz", []).release is None


def test_the_url_of_a_pinned_image_is_that_image() -> None:
    pinned = catalogue.lookup("raspios-bookworm-arm64-lite", SHIPPED)
    assert catalogue.lookup(pinned.url, SHIPPED) == pinned


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(UsageError, match="no base image is called 'raspios-trixie-arm64-light'") as caught:
        catalogue.lookup("raspios-trixie-arm64-light", SHIPPED)
    assert "raspios-trixie-arm64-lite" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["ftp://h/x.img", "file:///etc/passwd", "http://", "http://[::1", "http://a b/", "://"]
)
def test_a_url_that_does_not_work_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        catalogue.lookup(url, [])


@pytest.mark.parametrize(
    ("url", "vendor"),
    [
        ("https://downloads.raspberrypi.com/x", True),
        ("https://raspberrypi.org/x", True),
        ("https://notraspberrypi.com/x", False),
        ("https://raspberrypi.com.example.org/x", False),
        ("https://raspberrypi.com@example.org/x", False),
    ],
)
def test_whose_server_it_is(url: str, vendor: bool) -> None:
    assert catalogue.from_vendor(url) is vendor


def test_all_errors_of_an_images_toml_in_one_go() -> None:
    text = (
        '[one]\nurl = "ftp://x/y"\nsha256 = "12"\n[Two]\n[three]\nurl = "http://x/y.img"\n'
        f'sha256 = "{SUM}"\ncolour = 1\ndate = 5\nextract_size = -1\nrelease = "sarge"\n'
    )
    with pytest.raises(UsageError) as caught:
        catalogue.parse(text, "images.toml")
    said = f"{caught.value.message}\n{caught.value.hint}"
    for place in (
        "one.url",
        "one.sha256",
        "Two",
        "three.colour",
        "three.date",
        "three.extract_size",
        "three.release",
    ):
        assert f"images.toml: [{place}]" in said


@pytest.mark.parametrize(
    "text", ["[", "x", "a = 1", "a.img = 1", f'["a.img"]\nurl="http://h/a"\nsha256="{SUM}"']
)
def test_what_is_no_images_toml_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"images\.toml"):
        catalogue.parse(text, "images.toml")


def test_unreadable_images_toml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        catalogue.load([tmp_path / "none.toml"])
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(UsageError, match="not UTF-8 text"):
        catalogue.load([tmp_path / "latin.toml"])


_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
_KEYS = st.sampled_from(
    ["url", "sha256", "date", "release", "architecture", "extract_size", "signed_by", "x"]
)


@given(
    st.text(max_size=200)
    | st.dictionaries(
        st.text(alphabet="ab-.A", min_size=1, max_size=6),
        st.dictionaries(_KEYS, _SCALARS, max_size=5),
        max_size=3,
    ).map(
        lambda tables: "\n".join(
            f'["{name}"]\n' + "\n".join(f"{key} = {value!r}" for key, value in table.items())
            for name, table in tables.items()
        )
    )
)
def test_any_images_toml_is_read_or_refused(text: str) -> None:
    try:
        images = catalogue.parse(text, "images.toml")
    except UsageError as error:
        assert error.message.startswith("images.toml: ")
    else:
        assert all(isinstance(image, BaseImage) and image.sha256 for image in images.values())


@given(st.text(max_size=60))
@example("~\0")
@example("/a\0.img")
def test_any_word_is_a_name_a_url_or_a_file(what: str) -> None:
    try:
        image = catalogue.lookup(what, SHIPPED, Path("/folder"))
    except UsageError:
        return
    assert bool(image.url) != bool(image.file)


@pytest.mark.parametrize(
    "text",
    [
        f"{SUM}  x.img.xz\n",
        f"{SUM} *x.img.xz",
        f"{SUM.upper()}\n",
        f"{'0' * 64}  y\n{SUM}  x.img.xz\n",
        f"\r\n{SUM}\r\n",
        f"{SUM}  ./deploy/x.img.xz\n",
        f"{'0' * 64}  other/y.img.xz\n{SUM}  C:\\Users\\me\\x.img.xz\r\n",
        f"{'0' * 64}  old/x.img.xz\n{SUM}  x.img.xz\n",
        f"SHA256 (x.img.xz) = {SUM}\n",
        f"MD5 (x.img.xz) = {'0' * 32}\nSHA256 (deploy/x.img.xz) = {SUM}\nSHA3-256 (x.img.xz) = {'0' * 64}\n",
        f"SHA256(x.img.xz)= {SUM}\n",
        f"SHA2-256(x.img.xz)= {SUM.upper()}\n",
        f"\ufeff{SUM}  x.img.xz\n",
        f"\ufeffSHA256 (x.img.xz) = {SUM}\n",
        f"\\{SUM}  dir\\\\x.img.xz\n",
        f"{SUM}  2026-10-06-raspios.img.xz\n",
        f"# made by CI\n{SUM}  -\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{SUM}  x.img.xz\n-----BEGIN PGP SIGNATURE",
        f"SHA256 hash of x.img.xz:\r\n{SUM}\r\nCertUtil: -hashfile command completed successfully.\r\n",
        f"{SUM}  x.img.xz\n{SUM}  dir/x.img.xz\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_checksums_beside_a_file(text: str, encoding: str) -> None:
    """UTF-16 with a byte order mark is what PowerShell 5 makes of `>`."""
    if encoding == "utf-16":  # the codec writes the mark itself
        text = text.removeprefix("\ufeff")
    assert catalogue.read_sidecar(text.encode(encoding), "x.img.xz") == SUM


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no sha256"),
        ("<html>", "has no sha256"),
        ("\xff", "has no sha256"),
        (f"{SUM[:-1]}  x.img.xz", "has no sha256"),
        (f"{SUM}0  x.img.xz", "has no sha256"),
        (f"SHA3-256 (x.img.xz) = {SUM}", "has no sha256"),
        (f"SHA512 (x.img.xz) = {SUM}{SUM}", "has no sha256"),
        (f"{SUM}  other.img\n{'0' * 64}  another.img", "does not name it"),
        (f"{SUM}\n{'0' * 64}", "does not name it"),
        (f"{SUM}  x.img.xz\n{'0' * 64}  x.img.xz", "has several checksums for it"),
        (f"{SUM}  a/x.img.xz\nSHA256 (b/x.img.xz) = {'0' * 64}", "has several checksums for it"),
    ],
)
def test_a_sidecar_that_does_not_tell(text: str, why: str) -> None:
    with pytest.raises(PiimgError, match=rf"\.sha256 beside x\.img\.xz {why}"):
        catalogue.read_sidecar(text.encode("latin-1"), "x.img.xz")


@given(st.binary(max_size=200) | st.text(alphabet=f"{SUM} \\*()=SHA256x.img/\n").map(str.encode))
def test_any_sidecar_can_be_read(content: bytes) -> None:
    with contextlib.suppress(PiimgError):
        assert re.fullmatch("[0-9a-f]{64}", catalogue.read_sidecar(content, "x.img.xz"))


@pytest.mark.parametrize("text", ["", "12", SUM + "0", "g" * 64, SUM + "\n"])
def test_what_is_no_sha256(text: str) -> None:
    with pytest.raises(UsageError, match="is not a sha256"):
        catalogue.checked_sha256(text)


def test_secrets_in_urls_are_not_shown() -> None:
    assert catalogue.shown("https://me:hush@h:8080/x.img?token=hush#hush") == "https://h:8080/x.img"
