"""A root partition of the manifest's size and a data partition, on every release, also after a power cut."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.boot.machine import card
from imagebuilder.boot.run import bring_up, guest, prove, settle, wait_for_login
from imagebuilder.events import Silent
from imagebuilder.image.inspect import inspect_image
from imagebuilder.image.partitions import read_table
from imagebuilder.system.process import ToolError
from tests.support.cluster import Place
from tests.system.boot.conftest import RELEASES
from tests.system.boot.rig import expected, laboratory

CARD = 5 << 30  # bytes
ROOT = 3 << 30  # bytes
MIB = 1 << 20

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("release", RELEASES)
def test_root_has_its_size_and_the_rest_is_data(
    built: Callable[[str], Place], release: str, tmp_path: Path
) -> None:
    place, image = built(release), tmp_path / "card"
    with (place.build / "worker3.img").open("rb") as source, image.open("wb") as target:
        while chunk := source.read(MIB):
            target.seek(len(chunk), 1) if not chunk.strip(b"\0") else target.write(chunk)
        target.truncate(CARD)
    before = read_table(image)
    with laboratory(place, ["worker3"]) as lab:
        node = lab.cluster.node("worker3")
        with guest(lab, node, card(image)) as one:
            bring_up(one, Silent())
            wanted = expected(place, "worker3", release)
            first = prove(one, wanted, Silent())
            assert first.good, (first.trouble, [o for o in first.outcomes if o.wrong])
            one.login.run("sudo sh -c 'echo kept >/srv/data/file'; sudo sync")
            one.machine.power_cut()
            one.machine.power_on()
            wait_for_login(one)
            settle(one, wanted)
            assert one.login.run("cat /srv/data/file").stdout == b"kept\n"
            again = prove(one, wanted, Silent())
            assert again.good, (again.trouble, [o for o in again.outcomes if o.wrong])
            with contextlib.suppress(ToolError):  # the connection may end before the command does
                one.login.run("sudo systemctl poweroff")
            one.machine.wait_off(120)
    table = read_table(image)
    assert table.disk_id != before.disk_id
    boot, root, data = table.slices
    assert (boot, root.start) == (before.slices[0], before.slices[1].start)
    assert root.size == ROOT
    assert root.end <= data.start < root.end + 4 * MIB and data.end == CARD
    assert inspect_image(image).identity["node"] == "worker3"
