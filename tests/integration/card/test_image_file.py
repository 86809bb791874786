"""`flash --image` and `verify --image` with packed images, files of other kinds, and images cut short."""

import gzip
import json
import lzma
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.card.source import HEAD, open_source
from imagebuilder.device.discovery import Disk
from imagebuilder.image import bmap
from imagebuilder.system.process import run
from tests.integration.card.conftest import BOOT, MIB, ROOT, MakeCard
from tests.integration.card.test_commands import piimg
from tests.integration.card.test_write import head

pytestmark = pytest.mark.long


def xz(image: Path) -> Path:
    packed = image.with_name("os.img.xz")
    packed.write_bytes(lzma.compress(image.read_bytes(), preset=0))
    return packed


def gz(image: Path) -> Path:
    packed = image.with_name("os.img.gz")
    packed.write_bytes(gzip.compress(image.read_bytes(), 1))
    return packed


def by_pzstd(image: Path) -> Path:
    packed = image.with_name("os.img.zst")
    run(["pzstd", "-q", "-1", "-p", "2", image, "-o", packed])
    return packed


def zipped(image: Path) -> Path:
    packed = image.with_name("os.zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(image, "folder/os.img")
    return packed


@pytest.fixture
def image(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image without a block map, in a folder of its own; and an empty cache."""
    monkeypatch.setenv("PIIMG_CACHE", str(cluster / "cache"))
    (cluster / "downloads").mkdir()
    return Path(shutil.copy(cluster / "build" / "worker1.img", cluster / "downloads" / "os.img"))


@pytest.mark.parametrize("pack", [xz, gz, by_pzstd, zipped])
def test_a_packed_image_is_unpacked_on_the_way(
    cluster: Path, image: Path, card: Disk, pack: Callable[[Path], Path]
) -> None:
    packed, wanted = pack(image), image.read_bytes()
    image.unlink()
    done = piimg(cluster, "flash", card.node, "--image", packed, "--virtual", "-y", "--json")
    assert done.returncode == 0, done.stderr
    with Path(card.backing).open("rb") as stream:
        assert stream.read(len(wanted)) == wanted
    (report,) = json.loads(done.stdout)["cards"]
    assert (report["image"], report["verdict"]) == (str(packed), "good")
    assert piimg(cluster, "verify", card.node, "--image", packed).returncode == 0
    with Path(card.backing).open("r+b") as stream:
        os.pwrite(stream.fileno(), b"other", ROOT + 5 * MIB)
    assert piimg(cluster, "verify", card.node, "--image", packed).returncode == 3


@pytest.mark.parametrize("name", ["os.bmap", "os.img.bmap", "os.img.xz.bmap"])
def test_the_block_map_beside_a_packed_image_is_used(
    cluster: Path, image: Path, card: Disk, name: str
) -> None:
    used = open_source(cluster / "build" / "worker1.img").used
    packed = xz(image)
    image.unlink()
    shutil.copy(cluster / "build" / "worker1.bmap", packed.with_name(name))
    done = piimg(cluster, "flash", card.node, "--image", packed, "--virtual", "-y", "--json", "--full")
    assert done.returncode == 0, done.stderr
    assert (
        json.loads(done.stdout)["cards"][0]["written"] == used < bmap.read(packed.with_name(name)).image_size
    )


@pytest.mark.parametrize("command", ["flash", "verify"])
def test_an_image_cut_short_is_refused(cluster: Path, image: Path, card: Disk, command: str) -> None:
    os.truncate(image, ROOT + 5 * MIB)
    for file in (image, xz(image)):
        options = ("--virtual", "-y") if command == "flash" else ()
        done = piimg(cluster, command, card.node, "--image", file, *options)
        assert (done.returncode, head(card)) == (2, bytes(HEAD)), done.stderr
        assert f"{file} is cut short: partition 2 ends {23 * MIB} bytes behind its end" in done.stderr


def test_a_packed_image_that_is_cut_short_itself(cluster: Path, image: Path, card: Disk) -> None:
    for pack in (xz, gz, by_pzstd, zipped):
        packed = pack(image)
        os.truncate(packed, packed.stat().st_size - 100)
        done = piimg(cluster, "flash", card.node, "--image", packed, "--virtual", "-y")
        assert (done.returncode, head(card)) == (1, bytes(HEAD)), done.stderr
        assert "is damaged or cut short" in done.stderr


@pytest.mark.parametrize("kind", ["bmap", "bz2", "lz4", "qcow2", "tar", "tar.gz", "txt"])
def test_another_kind_of_file_is_refused(cluster: Path, image: Path, card: Disk, kind: str) -> None:
    file = image.with_name(f"os.img.{kind}")
    match kind:
        case "bmap":
            shutil.copy(cluster / "build" / "worker1.bmap", file)
        case "bz2":
            file.write_bytes(run(["bzip2", "-1", "-kc", image]).stdout)
        case "lz4":
            file.write_bytes(b"\x04\x22\x4d\x18" + image.read_bytes())
        case "qcow2":
            file.write_bytes(b"QFI\xfb" + image.read_bytes())
        case "txt":
            shutil.copy(cluster / "cluster.toml", file)
        case _:
            run(["tar", "-caf", file, "-C", image.parent, image.name])
    done = piimg(cluster, "flash", card.node, "--image", file, "--virtual", "-y")
    assert done.returncode in (1, 2) and head(card) == bytes(HEAD), done.stderr
    assert "not a disk image" in done.stderr and "\n       " in done.stderr


def test_a_gpt_is_written_with_the_note_that_is_true(cluster: Path, make_card: MakeCard) -> None:
    image, card = cluster / "gpt.img", make_card()
    image.touch()
    os.truncate(image, 40 * MIB)
    run(["sfdisk", "-q", image], data=b"label: gpt\nstart=4MiB,size=16MiB\n")
    run(["mkfs.vfat", "-F", "16", "--offset", str(BOOT // 512), image, str(16 << 10)])
    done = piimg(cluster, "flash", card.node, "--image", image, "--virtual", "-y")
    assert done.returncode == 0, done.stderr
    assert "gpt.img has a GPT with 1 partition: written as it is" in done.stderr
