"""Whether a card is that of the node that it says it carries, and nothing else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.device.node_card import boot_paths, foreign_content
from imagebuilder.errors import PiimgError
from imagebuilder.system.process import run
from tests.integration.card.conftest import BOOT, MIB, ROOT, ROOT_SIZE

IMAGE = "worker1.img"


@pytest.fixture
def card(images: Path, tmp_path: Path) -> Path:
    """The card of worker1, larger than its image."""
    card = tmp_path / "card"
    shutil.copyfile(images / IMAGE, card)
    os.truncate(card, 128 * MIB)
    return card


def put(card: Path, *names: str) -> None:
    """Put files on the boot partition; a name that ends with a slash is a folder."""
    for name in names:
        if name.endswith("/"):
            run(["mmd", "-i", f"{card}@@{BOOT}", f"::{name[:-1]}"])
        else:
            run(["mcopy", "-i", f"{card}@@{BOOT}", "-", f"::{name}"], data=b"x")


def known(images: Path) -> frozenset[str]:
    return boot_paths(images / IMAGE)


def test_the_paths_of_an_image(images: Path) -> None:
    assert known(images) == {"piimg.json", "noise"}


def test_the_card_of_a_node_is_its_own(card: Path, images: Path) -> None:
    assert foreign_content(card, "worker1", known(images)) == ""


def test_what_a_life_as_a_node_puts_there_is_its_own(card: Path, images: Path) -> None:
    put(card, "overlays/", "overlays/vc4-kms-v3d.dtbo", "bcm2710-rpi-3-b-plus.dtb", "kernel8.img")
    put(card, "initramfs8", "piimg-firstboot.json", "System Volume Information/", "start4.elf", "fixup4.dat")
    assert foreign_content(card, "worker1", known(images)) == ""


def third_partition(card: Path) -> None:
    run(["sfdisk", "--quiet", "--append", "--no-reread", card], data=b"start=60MiB,type=c\n")


def stick(card: Path) -> None:
    """The boot folder of the node, copied to a stick, and photos beside it."""
    os.truncate(card, 0)
    os.truncate(card, 128 * MIB)
    run(["sfdisk", "--quiet", card], data=f"label: dos\nstart={BOOT // MIB}MiB,type=c\n".encode())
    run(["mkfs.vfat", "-F", "16", "--offset", str(BOOT // 512), card, str(16 << 10)])
    put(card, "piimg.json", "DCIM/", "DCIM/DSC00001.JPG")


def other_root(card: Path) -> None:
    run(["debugfs", "-w", "-R", "rm /etc/hostname", f"{card}?offset={ROOT}"])


def no_root(card: Path) -> None:
    with card.open("r+b") as stream:
        os.pwrite(stream.fileno(), bytes(ROOT_SIZE), ROOT)


def no_boot(card: Path) -> None:
    with card.open("r+b") as stream:
        os.pwrite(stream.fileno(), bytes(MIB), BOOT)


PARTITIONS = "its partitions are not those of a node's card"
OTHERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a stick": (stick, PARTITIONS),
    "one more partition": (third_partition, PARTITIONS),
    "another root": (other_root, "its root partition is not that of worker1"),
    "no root": (no_root, "it cannot be read completely"),
    "no boot": (no_boot, "it cannot be read completely"),
    "photos": (lambda card: put(card, "DCIM/", "DCIM/1.JPG"), "it holds other files too (dcim, dcim/1.jpg)"),
    "photos in a folder of its own": (
        lambda card: put(card, "overlays/", "overlays/1.jpg"),
        "it holds other files too (overlays/1.jpg)",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_more_than_the_card_of_a_node(card: Path, images: Path, what: str) -> None:
    change, said = OTHERS[what]
    change(card)
    assert foreign_content(card, "worker1", known(images)) == said


def test_the_card_of_another_node_is_not_its_own(card: Path, images: Path) -> None:
    assert foreign_content(card, "worker2", known(images)) == "its root partition is not that of worker2"


def test_an_image_without_a_boot_partition(card: Path) -> None:
    no_boot(card)
    with pytest.raises(PiimgError, match="no boot partition"):
        boot_paths(card)
