"""A base image whose ext4 has a feature that this host's e2fsprogs does not know: as of a newer mkfs.ext4."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.image import allocation
from imagebuilder.image.ext4 import superblock
from imagebuilder.image.untrusted import Damaged
from tests.support import judge
from tests.support.cluster import Place

KINDS = {"compat": "C", "incompat": "I", "ro_compat": "R"}
BIT = 30  # in all three no feature is known by it (ext2_fs.h of e2fsprogs 1.47.3)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the feature: what who does not know it may still do."""
    return str(request.param)


@pytest.fixture
def newer(specimen: Callable[[str], Path], tmp_path: Path, kind: str) -> Path:
    """A bookworm specimen with such a feature: debugfs sets the bit, and the superblock's checksum."""
    copy = tmp_path / "base.img"
    judge.said("cp", "--sparse=always", "--no-preserve=mode", specimen("bookworm"), copy)
    field = {"compat": 0x5C, "incompat": 0x60, "ro_compat": 0x64}[kind]
    root = judge.places(copy).root
    with copy.open("rb") as stream:
        stream.seek(root + 1024 + field)
        value = int.from_bytes(stream.read(4), "little") | 1 << BIT
    judge.said("debugfs", "-w", "-R", f"ssv feature_{kind} {value:#x}", f"{copy}?offset={root}")
    check = subprocess.run(["e2fsck", "-n", f"{copy}?offset={root}"], capture_output=True, check=False)
    assert f"unsupported feature(s): FEATURE_{KINDS[kind]}{BIT}" in check.stderr.decode()
    return copy


@pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root")
@pytest.mark.usefixtures("nothing_held")
def test_a_build_says_which_and_what_to_do(newer: Path, kind: str, place: Place) -> None:
    said = place.refused(1, "build", "--node", "worker1", "--base", newer)
    feature = f"FEATURE_{KINDS[kind]}{BIT}"
    assert (
        "base.img: its root file system uses ext4 features that the installed e2fsck does not know: "
        f"{feature}" in said
    )
    assert "install a newer e2fsprogs" in said
    assert not list(place.build.glob("worker1.*"))


def test_all_of_the_partition_is_written_to_a_card(newer: Path, kind: str) -> None:
    """What is free is not known; but a feature that anybody may pass over (compat) changes nothing."""
    root = judge.places(newer)
    in_use = [span for span in allocation.used_ranges(newer) if span[1] > root.root]
    whole = in_use[-1] == (in_use[-1][0], root.root + root.root_size) and in_use[-1][0] <= root.root
    assert whole is (kind != "compat")


def test_a_card_is_not_called_damaged(newer: Path, kind: str) -> None:
    root = judge.places(newer).root
    if kind != "incompat":  # others may be read
        assert superblock(newer, root)["Filesystem state"] == "clean"
        return
    with pytest.raises(Damaged) as reported:
        superblock(newer, root)
    assert "ext4 features that this e2fsprogs does not know" in str(reported.value)
    assert "newer e2fsprogs" in reported.value.hint


def test_looking_at_it_says_what_can_be_said(newer: Path, place: Place) -> None:
    found = json.loads(place.good("inspect", newer, "--json"))
    assert len(found["partitions"]) == 2
