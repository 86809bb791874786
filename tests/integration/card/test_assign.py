"""Which node a card carries, read from its boot partition."""

from pathlib import Path

from imagebuilder.device.identity import NOTHING, Carried, carried
from imagebuilder.system.process import run
from tests.integration.card.conftest import BOOT, MIB


def card_with(images: Path, tmp_path: Path, identity: bytes) -> Path:
    """A copy of a node image with another identity file."""
    image = tmp_path / "card"
    image.write_bytes((images / "worker1.img").read_bytes())
    (tmp_path / "identity").write_bytes(identity)
    run(["mcopy", "-o", "-i", f"{image}@@{BOOT}", tmp_path / "identity", "::piimg.json"])
    return image


def test_what_a_card_carries_is_read_from_its_boot_partition(images: Path, tmp_path: Path) -> None:
    assert carried(images / "worker1.img") == Carried("worker1", "picluster")
    image = card_with(images, tmp_path, b'{"node": "worker2", "cluster": "ours"}')
    assert carried(image) == Carried("worker2", "ours")


def test_a_hostile_card_carries_nothing(images: Path, tmp_path: Path) -> None:
    padded = b'{"node": "worker1"}' + b" " * MIB
    assert carried(card_with(images, tmp_path, padded)) == NOTHING
    image = card_with(images, tmp_path, b"{}")
    with image.open("r+b") as stream:
        stream.seek(BOOT)
        stream.write(b"\xff" * MIB)
    assert carried(image) == NOTHING
    image.write_bytes(bytes(MIB))
    assert carried(image) == NOTHING
    assert carried(tmp_path / "nothing") == NOTHING
