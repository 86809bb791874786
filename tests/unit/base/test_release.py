"""Telling the release from what an image holds: true ones, and anything at all."""

import datetime
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.base import release
from imagebuilder.base.release import BaseInfo, Reader, identify
from imagebuilder.errors import PiimgError
from imagebuilder.model import Release

OS_RELEASE = b"""PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
HOME_URL="https://www.debian.org/"
"""
ISSUE = b"""Raspberry Pi reference 2025-05-13
Generated using pi-gen, https://github.com/RPi-Distro/pi-gen, 0123456789abcdef, stage2
"""
STATUS = b"""Package: dash
Status: install ok installed
Architecture: armhf

Package: dpkg
Status: install ok installed
Architecture: arm64
"""
BOOT = {"/cmdline.txt": b"console=tty1 root=PARTUUID=1-02", "/issue.txt": ISSUE}


def reading(files: Mapping[str, bytes]) -> Reader:
    return lambda path, limit: files.get(path)


def test_an_image_of_raspberry_pi_os() -> None:
    root = {"/etc/os-release": OS_RELEASE, "/var/lib/dpkg/status": STATUS}
    assert identify(reading(root), reading(BOOT)) == BaseInfo(
        Release.BOOKWORM,
        "arm64",
        datetime.date(2025, 5, 13),
        "Debian GNU/Linux 12 (bookworm)",
    )


def test_what_it_does_not_say_is_left_open() -> None:
    root = {"/usr/lib/os-release": b"VERSION_CODENAME='trixie'\n", "/etc/cloud/cloud.cfg": b""}
    found = identify(reading(root), reading({"/cmdline.txt": b""}))
    assert found == BaseInfo(Release.TRIXIE, "", None, "trixie")


def test_the_first_of_two_architectures_is_the_native_one() -> None:
    root = {
        "/etc/os-release": OS_RELEASE,
        "/var/lib/dpkg/arch": b"armhf\narm64\n",
        "/var/lib/dpkg/status": STATUS,
    }
    assert identify(reading(root), reading(BOOT)).architecture == "armhf"


@pytest.mark.parametrize(
    ("root", "boot", "said"),
    [
        ({}, BOOT, "has no /etc/os-release"),
        ({"/etc/os-release": b""}, BOOT, "not Raspberry Pi OS|does not know"),
        (
            {"/etc/os-release": b"ID=alpine\nPRETTY_NAME='Alpine 3.20'\n"},
            BOOT,
            "'Alpine 3.20', which piimg does not know",
        ),
        ({"/etc/os-release": b"VERSION_CODENAME=buster"}, BOOT, "'buster', which piimg does not know"),
        ({"/etc/os-release": b"\xff\x00="}, BOOT, "does not know"),
        ({"/etc/os-release": OS_RELEASE}, {}, "no cmdline.txt"),
    ],
)
def test_what_is_no_raspberry_pi_os(root: dict[str, bytes], boot: dict[str, bytes], said: str) -> None:
    with pytest.raises(PiimgError, match=said) as caught:
        identify(reading(root), reading(boot))
    assert "bullseye, bookworm or trixie" in caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "text", ["", "Raspberry Pi reference 2025-13-01", "2025-05-13", "Raspberry Pi reference soon"]
)
def test_an_issue_without_a_date(text: str) -> None:
    assert release.issue_date(text) is None


def test_os_release_is_read_as_shell_reads_it() -> None:
    text = '# A=0\nA=1\nB="two words"\nC=\'x\'\n\n D = 4\nE=\nF="open\nA=2\nnothing\n'
    fields = release.os_release(text)
    assert (fields["A"], fields["B"], fields["C"], fields["E"]) == ("2", "two words", "x", "")
    assert "F" not in fields and "nothing" not in fields


@given(
    st.dictionaries(
        st.sampled_from(["/etc/os-release", "/var/lib/dpkg/arch", "/var/lib/dpkg/status"]), st.binary()
    )
)
def test_any_content_is_identified_or_refused(root: dict[str, bytes]) -> None:
    try:
        identify(reading(root), reading(BOOT))
    except PiimgError as error:
        assert error.message


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    release.os_release(text)
    release.issue_date(text)
    release.issue_date(f"Raspberry Pi reference {text}")
