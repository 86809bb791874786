"""The Raspberry Pi models, and what each has. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from imagebuilder.networks import Radio


class Medium(StrEnum):
    """The storage that a board boots from."""

    CARD = "card"
    EITHER = "either"  # a Compute Module: eMMC, or (Lite) a card in its carrier
    EMMC = "eMMC"  # soldered on


@dataclass(frozen=True)
class Board:
    """A Raspberry Pi model and the architectures (Debian names) of the images that it can boot.

    ``wifi`` and ``wired``: whether it has Wi-Fi and an Ethernet port; None where it depends on the variant of
    the model or the carrier of a Compute Module. From Raspberry Pi's product briefs and the device trees in
    github.com/raspberrypi/firmware, boot/. ``radio`` is its Wi-Fi chip, None where it has none or several.
    """

    name: str
    title: str
    architectures: tuple[str, ...]
    wifi: bool | None = True
    wired: bool | None = True
    medium: Medium = Medium.CARD
    radio: Radio | None = None

    @property
    def short_title(self) -> str:
        """The title for narrow places: "Pi 3B+", "CM4"."""
        short = self.title.removeprefix("Raspberry ").replace("Compute Module ", "CM")
        return short.replace(" Model ", "")


_ARMHF, _BOTH = ("armhf",), ("arm64", "armhf")

BOARDS: Mapping[str, Board] = {
    board.name: board
    for board in (
        Board("pi-zero", "Raspberry Pi Zero / Zero W", _ARMHF, wifi=None, wired=False),
        Board("pi-1", "Raspberry Pi 1", _ARMHF, wifi=False, wired=None),
        Board("pi-2", "Raspberry Pi 2 Model B", _ARMHF, wifi=False),
        Board("pi-zero-2", "Raspberry Pi Zero 2 W", _BOTH, wired=False, radio=Radio.CYW43436),
        Board("pi-3a+", "Raspberry Pi 3 Model A+", _BOTH, wired=False, radio=Radio.CYW43455),
        Board("pi-3b", "Raspberry Pi 3 Model B", _BOTH, radio=Radio.CYW43438),
        Board("pi-3b+", "Raspberry Pi 3 Model B+", _BOTH, radio=Radio.CYW43455),
        Board("pi-4b", "Raspberry Pi 4 Model B", _BOTH, radio=Radio.CYW43455),
        Board("pi-400", "Raspberry Pi 400", _BOTH, radio=Radio.CYW43456),
        Board("pi-5", "Raspberry Pi 5", _BOTH, radio=Radio.CYW43455),
        Board("pi-500", "Raspberry Pi 500", _BOTH, radio=Radio.CYW43455),
        Board("pi-500+", "Raspberry Pi 500+", _BOTH, radio=Radio.CYW43455),
        Board("cm0", "Compute Module Zero", _BOTH, wifi=None, wired=None, medium=Medium.EITHER),
        Board("cm1", "Compute Module 1", _ARMHF, wifi=False, wired=None, medium=Medium.EMMC),
        Board("cm3", "Compute Module 3", _BOTH, wifi=False, wired=None, medium=Medium.EITHER),
        Board("cm3+", "Compute Module 3+", _BOTH, wifi=False, wired=None, medium=Medium.EITHER),
        Board("cm4", "Compute Module 4", _BOTH, None, None, Medium.EITHER, Radio.CYW43455),
        Board("cm4s", "Compute Module 4S", _BOTH, wifi=False, wired=None, medium=Medium.EITHER),
        Board("cm5", "Compute Module 5", _BOTH, None, None, Medium.EITHER, Radio.CYW43455),
    )
}
