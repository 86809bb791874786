"""Why a disk may not be written to, as types and in words."""

from pathlib import Path

import pytest

from imagebuilder.device.discovery import Disk
from imagebuilder.device.holders import Holding
from imagebuilder.device.policy import DiskRefused, Reason, Refusal, check, refusals
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
    assert [one.reason for one in refusals(CARD, holdings)] == reasons
    if not reasons:
        check(CARD, holdings, None, False)
        return
    with pytest.raises(UsageError) as caught:
        check(CARD, holdings, None, False)
    assert isinstance(caught.value, DiskRefused) and hint in caught.value.hint
    assert caught.value.message == f"/dev/sdx is not written to: {caught.value.problem.partition(': ')[2]}"
    assert [one.reason for one in caught.value.refusals] == reasons
