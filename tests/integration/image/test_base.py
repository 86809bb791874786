"""A base image is examined before it is believed: each finding, on a real image that has the fault."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.errors import PiimgError
from imagebuilder.events import Silent
from imagebuilder.image.base.examine import examine
from imagebuilder.image.base.findings import KINDS, Finding, Weight, refusal
from imagebuilder.image.base.network import without_networks
from imagebuilder.image.base.opening import open_base
from imagebuilder.model import HOME, Entry, Kind
from tests.conftest import SPECIMENS
from tests.integration.image.base_cases import CASES, HARMLESS
from tests.integration.image.spoiling import (
    root_edit,
    root_file,
    words,
)
from tests.support import judge
from tests.support.checkout import TOP

DOCUMENT = TOP / "docs" / "base-images.md"
INTERFACES = frozenset({"eth0", "wlan0"})
OLD_MTOOLS = subprocess.run(["mtools", "--version"], capture_output=True, text=True, check=False)
needs_old_mtools = re.search(r"4\.0\.(3|4[0-7])", OLD_MTOOLS.stdout) is not None


def found(image: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(image, INTERFACES).findings}


@pytest.fixture
def copy(specimen: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a specimen, to spoil."""

    def made(release: str) -> Path:
        target = tmp_path / "base.img"
        judge.said("cp", "--sparse=always", "--no-preserve=mode", specimen(release), target)
        return target

    return made


@pytest.mark.parametrize("release", SPECIMENS)
def test_a_fresh_image_has_no_finding(release: str, specimen: Callable[[str], Path]) -> None:
    seen = examine(specimen(release), INTERFACES)
    assert seen.findings == () and examine(specimen(release)).findings == ()
    assert seen.home == HOME and seen.info is not None and not seen.recount


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, cases in CASES.items() for number in range(len(cases))]
)
def test_each_finding(name: str, number: int, copy: Callable[[str], Path]) -> None:
    release, reported, spoil = CASES[name][number]
    image = copy(release)
    spoil(image)
    if name == "boot-mtools" and not needs_old_mtools:
        assert name not in found(image)  # the mtools here reads small FAT32 file systems
        return
    ones = [finding for finding in examine(image, INTERFACES).findings if finding.name == name]
    texts = [f"{one.sentence}; {one.remedy}" for one in ones]
    assert [text for text in texts if reported in text], texts
    assert all(one.remedy and len(one.sentence) < 250 for one in ones) and all(map(str.isprintable, texts))


def test_every_finding_has_a_case_and_a_row_in_the_documents() -> None:
    assert set(CASES) == set(KINDS)
    rows = re.findall(r"^\| `([a-z-]+)` \| (refused|warned) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert dict(rows) == {name: weight.value for name, weight in KINDS.items()} and len(rows) == len(KINDS)


@pytest.mark.parametrize("what", HARMLESS)
def test_what_does_no_harm_is_no_finding(what: str, copy: Callable[[str], Path]) -> None:
    release, spoil = HARMLESS[what]
    image = copy(release)
    spoil(image)
    assert found(image) == {}


def corrections(image: Path) -> dict[str, Entry]:
    seen = examine(image, INTERFACES).findings
    return {f"{e.partition.value}{e.path}": e for one in seen for e in one.entries}


def test_only_what_is_wrong_is_taken_out(copy: Callable[[str], Path]) -> None:
    image = copy("bullseye")
    theirs = b"interface eth0\nstatic routers=1.1.1.1\n# mine\n\ninterface usb0\nnolink\n\n"
    theirs += b"interface wlan0\nnoipv4\n"
    root_edit("/etc/dhcpcd.conf", lambda text: text + theirs, 0o664)(image)
    root_file(
        "/etc/network/interfaces",
        "auto eth0 lo usb0\niface eth0 inet static\n  address 10.1.1.1 \\\n  up x\n\niface usb0 inet dhcp\n",
    )(image)
    root_file("/etc/udev/rules.d/x.rules", 'SUBSYSTEM=="net", NAME="lan"\nSUBSYSTEM=="tty", RUN+="x"\n')(
        image
    )
    words("systemd.run=/boot/firstrun.sh", "quiet2")(image)
    made = corrections(image)
    dhcpcd = made["root/etc/dhcpcd.conf"]
    assert dhcpcd.content.endswith(b"# mine\n\ninterface usb0\nnolink\n\n") and dhcpcd.mode == 0o664
    assert made["root/etc/network/interfaces"].content == b"auto lo usb0\n\niface usb0 inet dhcp\n"
    assert made["root/etc/udev/rules.d/x.rules"].content == b'SUBSYSTEM=="tty", RUN+="x"\n'
    line = judge.on_boot(image, "/cmdline.txt")
    kept = [word for word in line.split() if word != b"systemd.run=/boot/firstrun.sh"]
    assert made["boot/cmdline.txt"].content.split() == kept and made["boot/cmdline.txt"].content.endswith(
        b"quiet2\n"
    )


def test_only_the_networks_of_a_wpa_supplicant_are_taken_out() -> None:
    before = b'country=GB\nnetwork={\n ssid="a}b"\n psk={x}\n}\n# mine\n  network = {\nx\n'
    assert without_networks(before) == b"country=GB\n# mine\n"


def test_a_machine_id_is_reset_to_what_the_release_ships(copy: Callable[[str], Path]) -> None:
    for release, unset in (("bookworm", b""), ("trixie", b"uninitialized\n")):
        image = copy(release)
        fresh = judge.on_root(image, "/etc/machine-id")
        assert fresh == unset
        root_file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444)(image)
        root_file("/var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n")(image)
        made = corrections(image)
        assert made["root/etc/machine-id"].content == fresh and made["root/etc/machine-id"].mode == 0o444
        assert made["root/var/lib/dbus/machine-id"].kind is Kind.REMOVE


def test_several_refusals_are_one_error() -> None:
    two = [Finding("sshd", "no sshd", "install it"), Finding("no-account", "nobody", "make one")]
    error = refusal("my.img", [Finding("home", "elsewhere", "moved"), *two])
    assert error and error.message == "my.img cannot be used, for 2 reasons"
    assert error.hint == "sshd: no sshd: install it\nno-account: nobody: make one"
    assert refusal("my.img", [Finding("home", "elsewhere", "moved")]) is None
    assert {one.value for one in Weight} == {"refused", "warned"}


@pytest.mark.parametrize("name", ["my.img", "root", "IMAGE"])
def test_one_refusal_begins_with_the_name_of_the_image(name: str) -> None:
    error = refusal(name, [Finding("root-damaged", "its root file system is damaged", "get another")])
    assert error and error.message == f"{name}: its root file system is damaged"


def test_the_user_s_name_is_in_what_to_do_and_the_file_s_is_nowhere(copy: Callable[[str], Path]) -> None:
    image = copy("bookworm")
    with image.open("r+b") as stream:
        stream.seek(440)
        stream.write(b"\1\2\3\4")
    (found,) = (
        finding
        for finding in examine(image, INTERFACES, "my IMAGE.img").findings
        if finding.name == "disk-id"
    )
    assert "sfdisk --disk-id my IMAGE.img 0x" in found.remedy
    assert image.name not in found.sentence + found.remedy
    moved = image.with_name("cut short.img")
    image.rename(moved)
    with moved.open("r+b") as stream:
        stream.seek(450)
        stream.write(b"\xee")
    with pytest.raises(PiimgError) as caught:
        open_base(moved, "mine", "0" * 64, Silent())
    assert caught.value.message == "mine: it has a GPT, not an MBR"
    assert [finding.name for finding in examine(moved).findings] == ["layout"], (
        "by its type, not by its words"
    )
