"""Hostile and damaged images, and no images at all: nothing leaves the root, one clear line each."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import judge
from tests.support.cluster import Place

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root"),
    pytest.mark.usefixtures("nothing_held"),
]


@pytest.fixture
def base(specimen: Callable[[str], Path], tmp_path: Path) -> Path:
    """A bookworm specimen to spoil."""
    copy = tmp_path / "base.img"
    judge.said("cp", "--sparse=always", "--no-preserve=mode", specimen("bookworm"), copy)
    return copy


def debugfs_write(image: Path, *commands: str) -> None:
    """Change the root partition of ``image`` as its owner could."""
    offset = judge.places(image).root
    subprocess.run(
        ["debugfs", "-w", "-f", "-", f"{image}?offset={offset}"],
        input="\n".join(commands).encode(),
        capture_output=True,
        check=True,
    )
    check = subprocess.run(
        ["e2fsck", "-f", "-y", f"{image}?offset={offset}"], capture_output=True, check=False
    )
    assert check.returncode in (0, 1), check.stdout


HOSTILE = {
    "a folder that leads to the host's root": ("rmdir /etc/sudoers.d", "symlink /etc/sudoers.d {outside}"),
    "a folder that climbs out": ("rmdir /etc/sudoers.d", "symlink /etc/sudoers.d ../../../../../..{outside}"),
    "a file that leads out": ("rm /etc/hostname", "symlink /etc/hostname {outside}/victim"),
    "a file to append to that leads out": ("rm /etc/locale.gen", "symlink /etc/locale.gen {outside}/victim"),
    "a home that leads out": ("symlink /home/pi/.ssh {outside}",),
    "a link through /proc": ("rmdir /etc/sudoers.d", "symlink /etc/sudoers.d /proc/self/root{outside}"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_link_leads_a_write_out_of_the_image(what: str, base: Path, place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("as it was")
    emptied = [line for line in HOSTILE[what] if line.startswith("rmdir")]
    if emptied:
        empty_folder(base, emptied[0].split()[1])
    debugfs_write(base, *(line.format(outside=outside) for line in HOSTILE[what]))
    done = place.run("build", "--node", "worker1", "--base", base)
    assert "Traceback" not in done.stderr
    assert [child.name for child in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_text() == "as it was"
    if done.returncode == 0:  # what was meant for the link's place is inside the image
        assert judge.on_root(place.build / "worker1.img", "/etc/hostname") == b"worker1\n"
    else:
        assert not list(place.build.glob("worker1.*"))


def empty_folder(image: Path, folder: str) -> None:
    listed = judge.debugfs(image, f"ls -p {folder}").decode().splitlines()
    names = [line.split("/")[5] for line in listed if line.count("/") > 5]
    debugfs_write(image, *(f"rm {folder}/{name}" for name in names if name not in (".", "..")))


def test_a_fifo_where_a_file_is_looked_into_does_not_block(base: Path, place: Place) -> None:
    debugfs_write(base, "rm /etc/locale.gen", "cd /etc", "mknod locale.gen p")
    said = place.refused(1, "build", "--node", "worker1", "--base", base)
    assert "/etc/locale.gen" in said


def spoil_signature(image: Path) -> None:
    with image.open("r+b") as stream:
        stream.seek(510)
        stream.write(b"\0\0")


def spoil_one_partition(image: Path) -> None:
    judge.said("sfdisk", "-q", "--delete", image, "2")


def spoil_gpt(image: Path) -> None:
    script = "label: gpt\nstart=2048, size=20480\nstart=40960, size=20480\n"
    subprocess.run(["sfdisk", "-q", str(image)], input=script.encode(), capture_output=True, check=True)


def spoil_cut(image: Path) -> None:
    os.truncate(image, judge.places(image).root + (1 << 20))


def spoil_file_system(image: Path) -> None:
    with image.open("r+b") as stream:
        stream.seek(judge.places(image).root + 4096)
        stream.write(os.urandom(64 << 10))


def spoil_superblock(image: Path) -> None:
    with image.open("r+b") as stream:
        stream.seek(judge.places(image).root)
        stream.write(bytes(8192))


def spoil_boot(image: Path) -> None:
    with image.open("r+b") as stream:
        stream.seek(judge.places(image).boot)
        stream.write(bytes(1 << 20))


def spoil_release(image: Path) -> None:
    debugfs_write(image, "rm /usr/lib/os-release", "rm /etc/os-release")


def spoil_empty(image: Path) -> None:
    os.truncate(image, 0)


def spoil_text(image: Path) -> None:
    image.write_text("this is not an image\n" * 100)


REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no MBR": (spoil_signature, "partition table"),
    "one partition": (spoil_one_partition, "1 partition"),
    "GPT": (spoil_gpt, "GPT"),
    "cut short": (spoil_cut, "cut short"),
    "a damaged file system": (spoil_file_system, "damaged"),
    "no file system": (spoil_superblock, "file system"),
    "no boot file system": (spoil_boot, "boot partition"),
    "not Raspberry Pi OS": (spoil_release, "not Raspberry Pi OS"),
    "an empty file": (spoil_empty, ""),
    "a text": (spoil_text, ""),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_no_base_image_is_refused(what: str, base: Path, place: Place) -> None:
    spoil, words = REFUSALS[what]
    spoil(base)
    said = place.refused(1, "build", "--node", "worker1", "--base", base)
    reported = next(line for line in said.splitlines() if line.startswith("piimg: "))
    assert words in reported and len(reported) < 200
    assert base.name in reported and not re.search(
        "[0-9a-f]{64}", said
    )  # as the user named it, not the cache
    assert "       " in said  # and what to do
    assert not list(place.build.glob("*.img"))


def test_a_full_disk_is_reported_and_leaves_nothing(base: Path, place: Place, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    judge.said("mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", small)
    try:
        said = place.refused(1, "build", "--node", "worker1", "--base", base, "--output", small)
        assert "were free for it" in said and "free some space" in said
        assert [child.name for child in small.iterdir() if not child.name.endswith(".lock")] == []
    finally:
        judge.said("umount", small)


def test_an_overlay_the_image_does_not_take_leaves_nothing(base: Path, place: Place) -> None:
    layer = place.folder / "overlays" / "node-worker1"
    layer.mkdir()
    (layer / "layer.toml").write_text('remove = ["root/etc/there-is-none"]\n')
    said = place.refused(1, "build", "--node", "worker1", "--base", base)
    assert "/etc/there-is-none is not in the base image" in said and "layer.toml" in said
    shutil.rmtree(layer)
    (layer / "root" / "etc" / "systemd").mkdir(parents=True)
    (layer / "root" / "etc" / "systemd" / "system").write_text("a file where the image has a folder")
    said = place.refused(2, "build", "--node", "worker1", "--base", base)
    assert "systemd/system" in said
    assert not list(place.build.glob("worker1.*"))


def test_wrong_nodes_and_folders(base: Path, place: Place) -> None:
    assert "no node nobody" in place.refused(2, "build", "--node", "nobody", "--base", base)
    assert "no node is named" in place.refused(2, "build", "--base", base)
    assert "no-such.img" in place.refused(2, "build", "--all", "--base", place.folder / "no-such.img")
    (place.folder / "file").write_text("")
    said = place.refused(
        1, "build", "--node", "worker1", "--base", base, "--output", place.folder / "file" / "x"
    )
    assert "Not a directory" in said


def test_a_missing_secret_is_reported_before_the_base_is_fetched(
    base: Path, place: Place, tmp_path: Path
) -> None:
    (place.folder / "secrets.toml").unlink()
    for passphrase, words in (("", "no value for the secret wifi_psk"), ("short", "must have 8 to 63")):
        env = {"PIIMG_SECRET_WIFI_PSK": passphrase, "PIIMG_CACHE": str(tmp_path / "new")}
        assert words in place.refused(2, "build", "--node", "worker1", "--base", base, env=env)
        assert not (tmp_path / "new").exists() and not (place.folder / "state").exists()
