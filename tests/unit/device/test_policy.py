"""Why a disk may not be written to, as types and in words."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.device.discovery import Disk
from imagebuilder.device.holders import Holding
from imagebuilder.device.policy import LARGEST, DiskRefused, Reason, Refusal, check, refusals
from imagebuilder.errors import UsageError

CARD = Disk(Path("/dev/sdx"), "8:16", 32 * 10**9, "usb", "usb 1-1", removable=True)
MOUNTED = Holding("sdx1", "mounted at /mnt", "/mnt")
DESKTOP = Holding("sdx1", "mounted at /media/a/CARD", "/media/a/CARD")
WRITTEN = Holding("sdx", "open for writing by dd (process 5)", writer=True)
ROOT = Holding("sdx2", "mounted at /", "/")


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_a_text_that_names_its_detail(reason: Reason) -> None:
    text = str(Refusal(reason, "DETAIL"))
    assert text and "{" not in text
    assert ("DETAIL" in text) is (str(Refusal(reason)) != text)


@pytest.mark.parametrize(
    ("holdings", "reasons", "hint"),
    [
        ([DESKTOP], [], ""),
        ([MOUNTED], [Reason.IN_USE], "if this is the card you mean: sudo umount /mnt"),
        ([WRITTEN], [Reason.OPEN_FOR_WRITING], "end that program"),
        ([DESKTOP, WRITTEN], [Reason.OPEN_FOR_WRITING], "end that program"),
        ([MOUNTED, WRITTEN], [Reason.IN_USE, Reason.OPEN_FOR_WRITING], "sudo umount /mnt"),
        ([ROOT, MOUNTED], [Reason.SYSTEM], "piimg cards"),
    ],
)
def test_the_hint_follows_from_the_reasons(holdings: list[Holding], reasons: list[Reason], hint: str) -> None:
    assert [refusal.reason for refusal in refusals(CARD, holdings)] == reasons
    if not reasons:
        check(CARD, holdings, None, False)
        return
    with pytest.raises(UsageError) as caught:
        check(CARD, holdings, None, False)
    assert isinstance(caught.value, DiskRefused) and hint in caught.value.hint
    assert caught.value.message == f"/dev/sdx is not written to: {caught.value.problem.partition(': ')[2]}"
    assert [refusal.reason for refusal in caught.value.refusals] == reasons


@pytest.mark.parametrize(
    ("change", "need", "virtual", "reasons"),
    [
        ({}, None, False, []),
        ({"removable": False}, None, False, [Reason.FIXED]),
        ({"driver": "mmc", "sd": True}, None, False, []),
        ({"driver": "mmc", "sd": False}, None, False, [Reason.BUILT_IN]),
        ({"driver": "virtual"}, None, True, [Reason.VIRTUAL]),
        ({"driver": "loop", "direct": True}, None, False, [Reason.LOOP]),
        ({"driver": "loop", "direct": True}, None, True, []),
        ({"driver": "loop", "direct": False}, None, True, [Reason.CACHED]),
        ({"driver": "loop", "direct": False}, None, False, [Reason.LOOP, Reason.CACHED]),
        ({"size": 0}, None, False, [Reason.NO_MEDIUM]),
        ({"size": LARGEST}, None, False, []),
        ({"size": LARGEST + 1}, None, False, [Reason.TOO_LARGE]),
        ({}, CARD.size, False, []),
        ({}, CARD.size + 1, False, [Reason.TOO_SMALL]),
        ({"read_only": True, "removable": False}, None, False, [Reason.FIXED, Reason.READ_ONLY]),
    ],
)
def test_every_reason_of_a_disk_is_given(
    change: dict[str, Any], need: int | None, virtual: bool, reasons: list[Reason]
) -> None:
    found = refusals(replace(CARD, **change), [], need, virtual)
    assert [one.reason for one in found] == reasons
