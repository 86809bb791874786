"""Hostile base images: whatever they hold, an examination gives findings or one error, in bounded time."""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.errors import PiimgError
from imagebuilder.image.base import account, leftovers, network, starting
from imagebuilder.image.base.examine import examine
from imagebuilder.image.base.reader import LIMIT
from imagebuilder.image.ext4 import parse_names
from imagebuilder.image.partitions import read_table
from imagebuilder.overlay.sections import lines_under
from tests.integration.image.spoiling import boot_file, debugfs, root_file, root_link, settle
from tests.support import judge

QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
INTERFACES = frozenset({"eth0", "wlan0"})

LINES = st.sampled_from(
    [
        "interface eth0",
        "interface usb0",
        "static ip_address=1.2.3.4/24",
        "denyinterfaces eth0",
        "profile x",
        "#",
        "[connection]",
        "interface-name=eth0",
        "type=ethernet",
        "auto eth0 lo",
        "iface eth0 inet dhcp",
        "iface",
        "  address 1.1.1.1 \\",
        "pi:x:1000:1000:::",
        "pi:x:1000:1000:,,,:/home/pi:/bin/bash",
        "x:y:z:::::",
        "PARTUUID=5b0012aa-02 / ext4 defaults 0 1",
        "/dev/sda1 /x\\040y",
        "a b c d e f g",
        '"NAME="',
        "\\",
        'SUBSYSTEM=="net", NAME="eth0"',
        "root=PARTUUID=-",
        "network={",
        "}",
        "[",
        "=",
        "\x00",
        "\r",
        "",
    ]
)
TEXT = st.one_of(
    st.binary(max_size=400),
    st.lists(st.one_of(LINES, st.text(max_size=30)), max_size=20).map(
        lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
    ),
)


@QUICK
@given(TEXT)
def test_an_fstab_and_a_command_line_of_anything(content: bytes) -> None:
    for one in starting.mounts_of(content):
        assert one.spec and one.place and one.options
    assert b" ".join(starting.words_of(content)).split() == content.split()
    assert all(not leftovers.foreign_word(word) or b"=" in word for word in starting.words_of(content))


@QUICK
@given(st.lists(st.text("abc/=-#", min_size=1, max_size=12), min_size=4, max_size=4))
def test_a_line_of_fstab_is_read_as_it_stands(fields: list[str]) -> None:
    spec, place, kind, options = fields
    mounts = starting.mounts_of(" \t".join([*fields, "0", "2"]).encode())
    line = starting.FstabLine(spec, place, kind, tuple(options.split(",")))
    expected = () if spec.startswith("#") else (line,)
    assert mounts == expected


@QUICK
@given(TEXT)
def test_a_passwd_of_anything(content: bytes) -> None:
    for one in account.accounts_of(content):
        assert one.uid >= 0 and one.gid >= 0
        home = account.home_of(one)
        assert home.startswith("/") and home.isprintable() and home != "/" and ".." not in home.split("/")


@QUICK
@given(st.text(max_size=60))
def test_a_home_of_anything_is_a_plain_path(home: str) -> None:
    given = account.PasswdLine("x", 1000, 1000, home, "/bin/sh")
    place = account.home_of(given)
    assert place.startswith("/") and place.isprintable() and not {"", ".", ".."} & set(place.split("/")[1:])


@QUICK
@given(TEXT)
def test_profiles_of_anything(content: bytes) -> None:
    assert network.profile_concerns(content, None) >= network.profile_concerns(content, INTERFACES)
    assert network.may_set_up(content, None) >= network.may_set_up(content, INTERFACES)
    network.devices_match(content.decode("utf-8", "replace"), "eth0")
    assert all(isinstance(keys, dict) for keys in network.keyfile_of(content).values())
    leftovers.does_something("user-data", content)
    leftovers.does_something("network-config", content)


@QUICK
@given(TEXT)
def test_what_is_taken_out_leaves_the_rest_as_it_was(content: bytes) -> None:
    """A line stays whole or goes; and what was cleaned has nothing more to be taken out."""
    cleaners: tuple[Callable[[bytes], bytes], ...] = (
        lambda text: network.without_blocks(text, INTERFACES),
        lambda text: network.without_stanzas(text, INTERFACES),
        network.without_names,
        network.without_networks,
    )
    for clean in cleaners:
        after = clean(content)
        assert len(after) <= len(content) + 1
        assert clean(after) == after
    assert b"".join(raw for _, raw in network.logical_lines(content)) == content


@QUICK
@given(st.binary(max_size=500))
def test_what_debugfs_lists_of_anything(said: bytes) -> None:
    assert all(name and "/" not in name for name in parse_names(said))


@pytest.fixture
def copy(specimen: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a specimen, to spoil."""

    def made(release: str) -> Path:
        target = tmp_path / "base.img"
        judge.said("cp", "--sparse=always", "--no-preserve=mode", specimen(release), target)
        return target

    return made


READ = (
    "/etc/passwd",
    "/etc/fstab",
    "/etc/dhcpcd.conf",
    "/etc/network/interfaces",
    "/etc/machine-id",
    "/etc/NetworkManager/NetworkManager.conf",
    "/etc/udev/rules.d/x.rules",
    "/etc/systemd/network/x.link",
    "/etc/NetworkManager/system-connections/x",
    "/etc/netplan/\x7fx.yaml",
)


@pytest.mark.parametrize("release", ["bullseye", "bookworm"])
def test_noise_in_every_file_that_is_read(release: str, copy: Callable[[str], Path]) -> None:
    image, noise = copy(release), random.Random(7)
    for path in READ:
        root_file(path, noise.randbytes(3000))(image)
    for name in ("user-data", "network-config", "piimg.json"):
        boot_file(name, noise.randbytes(3000))(image)
    seen = examine(image, INTERFACES)
    assert "no-account" in {finding.name for finding in seen.findings}
    boot_file("cmdline.txt", noise.randbytes(3000))(image)
    seen = examine(image, INTERFACES)
    assert all(finding.sentence.isprintable() and finding.remedy.isprintable() for finding in seen.findings)


def test_links_in_circles_and_out_of_the_image(copy: Callable[[str], Path], tmp_path: Path) -> None:
    """A link to a file of this machine is one within the image, where there is no such file."""
    outside = tmp_path / "passwd"
    outside.write_text("pi:x:1000:1000::/home/pi:/bin/bash\n")
    image = copy("bookworm")
    root_link("/etc/passwd", str(outside))(image)
    root_link("/etc/fstab", "fstab")(image)
    root_link("/etc/systemd/system/ssh.service", "ssh.service")(image)
    root_link("/etc/NetworkManager/system-connections", "/etc/NetworkManager/system-connections")(image)
    settle(image)
    names = {finding.name for finding in examine(image, INTERFACES).findings}
    assert {"no-account", "fstab-missing"} <= names


def test_a_folder_of_thousands_and_names_of_any_kind(copy: Callable[[str], Path]) -> None:
    image = copy("bookworm")
    folder = "/etc/NetworkManager/system-connections"
    root_file(f"{folder}/real", "[connection]\ntype=wifi\n", 0o600)(image)
    debugfs(image, *(f'symlink "{folder}/{number:05}-{"x" * 100}" nowhere' for number in range(400)))
    debugfs(image, f'symlink "{folder}/a""b" x', f'symlink "{folder}/\x01" x', f'mkdir "{folder}/folder"')
    settle(image)
    start = time.monotonic()
    seen = {finding.name: finding for finding in examine(image, INTERFACES).findings}
    assert "real" in seen["network-profile"].sentence
    debugfs(image, *(f'symlink "{folder}/more{number}" x' for number in range(200)))
    settle(image)
    seen = {finding.name: finding for finding in examine(image, INTERFACES).findings}
    assert f"{folder} contains more than 500 files" in seen["unreadable"].sentence
    assert time.monotonic() - start < 30


LONG: dict[str, bytes] = {
    "newlines": b"\n" * LIMIT,
    "blanks": b" " * LIMIT,
    "lines carried on": b"\\\n" * (LIMIT // 2),
    "one line": b'SUBSYSTEM=="net" ' * (LIMIT // 17),
    "headings": b"interface eth0\n" * (LIMIT // 15),
    "stanzas": b"iface eth0 inet dhcp\nauto eth0\n" * (LIMIT // 31),
    "networks": b"network={\n" * (LIMIT // 10),
    "mounts": b"PARTUUID=00000001-02 / ext4\n" * (LIMIT // 28),
    "colons": b":" * LIMIT,
    "words": b"ds=x " * (LIMIT // 5),
    "brackets": b"[" * LIMIT,
}


@pytest.mark.parametrize("what", LONG)
def test_the_largest_file_that_is_read_is_done_with_in_time(what: str) -> None:
    content, start = LONG[what], time.process_time()
    starting.mounts_of(content)
    account.accounts_of(content)
    network.profile_concerns(content, INTERFACES)
    network.devices_match(content.decode(), "eth0")
    network.without_blocks(content, INTERFACES)
    network.without_stanzas(content, INTERFACES)
    network.without_names(content)
    network.without_networks(content)
    leftovers.does_something("user-data", content)
    leftovers.does_something("network-config", content)
    assert all(leftovers.foreign_word(word) == word.startswith(b"ds=") for word in starting.words_of(content))
    lines_under(content, "[all]", "[all]")
    assert time.process_time() - start < 5  # seconds; each is done with in one


def test_an_fstab_of_thousands_is_refused_in_a_sentence(copy: Callable[[str], Path]) -> None:
    image = copy("bookworm")
    lines = "".join(f"PARTUUID={number:08x}-02 / ext4\n/dev/s /{number} ext4\n" for number in range(4000))
    root_file("/etc/fstab", lines)(image)
    (one,) = examine(image, INTERFACES).findings
    assert one.name == "unreadable" and "more than 100" in one.sentence


@pytest.mark.parametrize("seed", range(12))
def test_a_table_and_file_systems_with_noise_in_them(seed: int, copy: Callable[[str], Path]) -> None:
    """Some bytes of what describes the image, each time others: a finding, one error, or nothing; no more."""
    image, noise = copy("bookworm"), random.Random(seed)
    where = judge.places(image)
    spots = [
        (0, 512),
        (where.boot, 512),
        (where.boot + 16384, 65536),
        (where.root + 1024, 1024),
        (where.root, 1 << 20),
    ]
    with image.open("r+b") as stream:
        for _ in range(noise.randrange(1, 30)):
            start, size = noise.choice(spots)
            stream.seek(start + noise.randrange(size))
            stream.write(noise.randbytes(noise.randrange(1, 8)))
    try:
        seen = examine(image, INTERFACES)
    except PiimgError as error:
        assert error.message.isprintable()
    else:
        assert all(
            finding.sentence.isprintable() and finding.remedy.isprintable() for finding in seen.findings
        )


def test_what_is_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert [finding.name for finding in examine(tmp_path / "empty").findings] == ["layout"]
    with pytest.raises(PiimgError):
        examine(tmp_path / "none")
    with pytest.raises(PiimgError):
        read_table(tmp_path)


def test_looking_leaves_the_image_as_it_was(specimen: Callable[[str], Path]) -> None:
    image = specimen("trixie")
    before = subprocess.run(["sha256sum", image], capture_output=True, check=True).stdout
    examine(image)
    assert subprocess.run(["sha256sum", image], capture_output=True, check=True).stdout == before
