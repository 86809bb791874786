"""The examples of docs/library.md that need a base image and a card, run as they stand there."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from imagebuilder.system.files import copy_sparse
from tests.integration.card.test_write import flip
from tests.integration.card.verifying import as_card
from tests.support.cluster import make_place
from tests.support.library import BUILD, VERIFY, ran

CARD_SIZE = 2 * 10**9  # bytes


def test_build_a_node_and_verify_its_card(
    tmp_path: Path, specimen: Callable[[str], Path], root: None
) -> None:
    place = make_place(tmp_path, tmp_path / "cache")
    copy_sparse(specimen("trixie"), place.folder / "raspios.img")
    image = place.build / "worker2.img"
    printed = ran(place, BUILD).split()
    assert printed[0] == str(image)
    assert re.fullmatch(r"[0-9a-f]{64}", printed[1])
    made = {".worker2.lock", "worker2.bmap", "worker2.img", "worker2.json"}
    assert {file.name for file in place.build.iterdir()} == made

    card = tmp_path / "card"
    copy_sparse(image, card)
    os.truncate(card, CARD_SIZE)
    with as_card(card) as disk:
        code = VERIFY.replace("/dev/sdb", str(disk.node))
        assert code != VERIFY
        assert ran(place, code) == f"{disk.node} good \n"
        flip(disk, 0)
        assert re.fullmatch(rf"{disk.node} bad .+\nfirst bad byte: 0 in partition None \n", ran(place, code))
