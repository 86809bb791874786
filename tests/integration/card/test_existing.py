"""What would be lost if a card were erased, on file systems that the real tools made."""

import os
from pathlib import Path

import pytest

from imagebuilder.device.existing import existing_data
from imagebuilder.errors import PiimgError
from imagebuilder.image.untrusted import RawReader
from imagebuilder.system.process import run
from tests.integration.card.conftest import MIB, make_image
from tests.integration.card.existing_cards import (
    BLANKS,
    HELD,
    poke,
    starts_with,
    zeros,
)
from tests.integration.card.rig import Rig


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card that holds nothing: a file of zeros."""
    return zeros(tmp_path)


@pytest.mark.parametrize("what", BLANKS)
def test_nothing_is_lost_of_a_new_card(card: Path, what: str) -> None:
    BLANKS[what](card)
    assert existing_data(card) == ""


@pytest.mark.parametrize("what", HELD)
def test_what_is_lost_is_reported(card: Path, what: str) -> None:
    make, reported = HELD[what]
    make(card)
    assert existing_data(card) == reported


def test_a_node_is_lost_too(tmp_path: Path) -> None:
    assert "files (piimg.json, noise) on partition 1" in existing_data(
        make_image(tmp_path / "x.img", "worker1")
    )


def test_what_cannot_be_opened_is_no_empty_card(tmp_path: Path) -> None:
    with pytest.raises(PiimgError, match="cannot read"):
        existing_data(tmp_path / "none")


def test_noise_is_something(card: Path) -> None:
    starts_with(card, b"x" + os.urandom(MIB))
    assert existing_data(card).endswith("at byte 0")


def test_what_lies_between_two_places_is_not_seen(tmp_path: Path) -> None:
    """The limit that docs/station.md names: 512 bytes somewhere on 32 GB, which nothing points to."""
    card = tmp_path / "large"
    card.touch()
    os.truncate(card, 32 * 10**9)
    poke(card, 9_999_999_999, b"x")
    assert existing_data(card) == ""
    poke(card, 16 * 1024 * MIB + 1024, b"x")
    assert existing_data(card) == f"data at byte {16 * 1024 * MIB + 1024}"


def test_a_place_that_cannot_be_read_is_something(make_faulty: Rig) -> None:
    card = make_faulty.serve(fault="read-error", at=24 * MIB)
    assert existing_data(card).startswith("data that cannot be read: byte ")


def cost(card: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """The seconds that looking at ``card`` takes where a read takes 1 ms and 50 ns a byte."""
    seconds, read = 0.0, RawReader.read

    def counted(self: RawReader, position: int, length: int) -> bytes:
        nonlocal seconds
        seconds += 1e-3 + length / 20e6
        return read(self, position, length)

    with monkeypatch.context() as patched:
        patched.setattr(RawReader, "read", counted)
        assert existing_data(card) == ""
    return seconds


def test_looking_at_a_card_takes_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card of 32 GB with 20 MB/s: counted, not waited for."""
    file = tmp_path / "large"
    file.touch()
    os.truncate(file, 32 * 10**9)
    assert cost(file, monkeypatch) < 1.6
    run(["sfdisk", "--quiet", file], data=b"label: dos\nstart=4MiB,type=c\n")
    run(["mkfs.vfat", "-F", "32", "-s", "64", "--offset", "8192", file, str((32 * 10**9 >> 10) - 4096)])
    assert cost(file, monkeypatch) < 1.6
