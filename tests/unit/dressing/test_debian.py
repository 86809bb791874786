"""dpkg's and apt's formats: recorded texts of apt 2.6.1 and 3.0.3, and any text at all."""

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.dressing import debian
from imagebuilder.dressing.debian import Package, Step
from imagebuilder.software import Installed

SIMULATED = """\
NOTE: This is only a simulation!
Reading package lists...
The following NEW packages will be installed:
  chrony libgcrypt20
Remv systemd-timesyncd [252.38-1~deb12u1]
Inst libgcrypt20 (1.10.1-3 Debian:12.11/stable [arm64])
Inst libc6 [2.36-9+deb12u9] (2.36-9+deb12u10 Debian:12.11/stable, Debian-Security:12/x [arm64]) []
Conf libc6 (2.36-9+deb12u10 Debian:12.11/stable [arm64])
Inst tzdata (1:2024b-0+deb12u1 Debian:12.11/stable [all])
Inst demo (1.0 127.0.0.1 [arm64])
Conf libgcrypt20 (1.10.1-3 Debian:12.11/stable [arm64])
Conf demo (1.0 127.0.0.1 [arm64])
"""


def test_the_runs_of_dpkg_are_those_of_apt() -> None:
    steps = debian.steps_of(SIMULATED)
    assert [step.action for step in steps] == ["remove", "unpack", "configure", "unpack", "configure"]
    assert steps[0] == Step("remove", (Package("systemd-timesyncd"),))
    assert [package.name for package in steps[1].packages] == ["libgcrypt20", "libc6"]
    assert steps[1].packages[1] == Package("libc6", "2.36-9+deb12u10", "arm64")
    assert [package.name for package in steps[4].packages] == ["libgcrypt20", "demo"]


def test_the_name_of_a_package_file_is_that_of_apt() -> None:
    assert Package("tzdata", "1:2024b-0+deb12u1", "all").archive == "tzdata_1%3a2024b-0+deb12u1_all.deb"
    assert Package("libx:armhf", "1.0~rc1_2", "armhf").archive == "libx_1.0~rc1%5f2_armhf.deb"


STATUS = """\
Package: htop
Status: install ok installed
Architecture: arm64
Description: interactive processes viewer
 It has: a colon.
 .
 Status: install ok half-installed
Version: 3.2.2-2

Package: gone
Status: deinstall ok config-files
Architecture: arm64
Version: 1

Package: half
Status: install ok half-configured
Architecture: arm64
Version: 1
"""


def test_only_what_is_installed_counts() -> None:
    assert debian.installed(STATUS) == (Installed("htop", "3.2.2-2", "arm64"),)


def test_the_architecture_is_that_of_dpkg() -> None:
    assert debian.architecture_of(STATUS) == ""
    assert debian.architecture_of(STATUS.replace("Package: htop", "Package: dpkg")) == "arm64"


def test_the_size_is_that_of_all_packages() -> None:
    assert debian.installed_size("Package: a\nInstalled-Size: 10\n\nPackage: b\nInstalled-Size: 5\n") == 15360


def test_packages_are_marked_as_automatic_once() -> None:
    known = "Package: a\nArchitecture: arm64\nAuto-Installed: 1\n\n"
    packages = [Installed("a", "1", "arm64"), Installed("b", "2", "all")]
    states = debian.with_automatic(known, packages)
    assert states == f"{known}Package: b\nArchitecture: all\nAuto-Installed: 1\n\n"
    assert debian.with_automatic(states, packages) == states
    assert debian.with_automatic("", packages[:1]) == known


def test_keys_of_the_image_are_named_by_their_copies() -> None:
    copies = {"/usr/share/keyrings/a.pgp": "/w/0.gpg", "/etc/apt/b.asc": "/w/1.asc"}
    one_line = (
        "deb [arch=arm64 signed-by=/usr/share/keyrings/a.pgp,/etc/apt/b.asc] http://m/debian trixie main\n"
    )
    assert debian.with_keys(one_line, False, copies.get) == one_line.replace(
        "/usr/share/keyrings/a.pgp,/etc/apt/b.asc", "/w/0.gpg,/w/1.asc"
    )
    stanza = "Types: deb\nSigned-By: /usr/share/keyrings/a.pgp\nSuites: trixie\n"
    assert debian.with_keys(stanza, True, copies.get) == stanza.replace(
        "/usr/share/keyrings/a.pgp", "/w/0.gpg"
    )
    inside = "Types: deb\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n"
    assert debian.with_keys(inside, True, copies.get) == inside


def test_a_missing_key_never_becomes_a_key_of_the_host() -> None:
    for text, deb822 in (("deb [signed-by=/gone.gpg] http://m s c", False), ("Signed-By: /gone.gpg", True)):
        replaced = debian.with_keys(text, deb822, lambda path: None)
        assert "/gone.gpg" not in replaced and "/nonexistent.gpg" in replaced


@given(st.text())
def test_any_text_is_read_without_a_fault(text: str) -> None:
    debian.installed(text)
    debian.installed_size(text)
    debian.with_keys(text, True, lambda path: None)
    debian.with_keys(text, False, lambda path: None)
