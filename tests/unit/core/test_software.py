"""Names of packages, URLs and checksums, as a manifest and a layer give them."""

import re

import pytest

from imagebuilder.software import check_package, check_sha256, check_url


@pytest.mark.parametrize("name", ["htop", "docker.io", "g++", "libstdc++6", "0ad", "a1"])
def test_names_of_packages(name: str) -> None:
    assert check_package(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("htop-", "ends in a hyphen"),
        ("htop=3.2", "a version cannot be chosen here; write htop"),
        ("htop/bookworm-backports", "a release cannot be chosen here; write htop"),
        ("libc6:armhf", "an architecture cannot be chosen here; write libc6"),
        ("Docker.io", "is docker.io meant?"),
        ("nfs_server", "is nfs-server meant?"),
        ("--purge", "is not the name"),
        ("-oDir::Bin::dpkg=x", "is not the name"),
        ("./x.deb", "is not the name"),
        ("a", "is not the name"),
        ("", "is not the name"),
        ("htop\n", "is htop meant?"),
        ("h" * 300, "is not the name"),
        ("~nhtop", "is not the name"),
        ("htop*", "is not the name"),
    ],
)
def test_what_apt_would_read_otherwise_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_package(name)


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "file:///etc/passwd", "https://x", "http:///x", "https://x/a b", ""]
)
def test_only_urls_of_files_on_the_web(url: str) -> None:
    with pytest.raises(ValueError, match="is not a URL"):
        check_url(url)


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "g" * 64])
def test_a_checksum_is_64_digits(digest: str) -> None:
    with pytest.raises(ValueError, match="is not a sha256"):
        check_sha256(digest)
