"""FAT and exFAT file systems read by their own tables: real ones, and whatever a card may hold instead."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.image.filesystem import file_system, walk
from imagebuilder.image.untrusted import InvalidFormat, ReadError, raw_reader
from imagebuilder.system.process import run

SIZE = 36 << 20  # bytes; mtools wants 65525 clusters of a FAT32
NAMES = ["KERNEL.IMG", "lower.txt", "Mixed Case and long.jpeg", "über.txt", "a folder/", "LOST.DIR/"]


def made(folder: Path, *command: str | Path) -> Path:
    file = folder / "part"
    file.touch()
    os.truncate(file, SIZE)
    run([*command, file])
    return file


def fat(folder: Path, bits: int) -> Path:
    """FAT with files that mtools put there."""
    file = made(folder, "mkfs.vfat", "-F", str(bits), "-s", "1" if bits == 32 else "2", "-n", "CARD")
    for name in NAMES:
        if name.endswith("/"):
            run(["mmd", "-i", file, f"::{name[:-1]}"])
        else:
            run(["mcopy", "-i", file, "-", f"::{name}"], data=b"x" * 3000)
    run(["mcopy", "-i", file, "-", "::a folder/inside it"], data=b"x")
    return file


def paths(file: Path) -> list[str]:
    with raw_reader(file, 10) as card:
        system = file_system(card, 0, card.size)
        assert system is not None
        return [path for path, _ in walk(system, lambda folder: True)]


@pytest.mark.parametrize("bits", [16, 32])
def test_what_mtools_put_there_is_found(tmp_path: Path, bits: int) -> None:
    assert paths(fat(tmp_path, bits)) == [*NAMES, "a folder/inside it"]


@pytest.mark.parametrize("bits", [16, 32])
def test_every_cluster_in_use_has_an_owner(tmp_path: Path, bits: int) -> None:
    with raw_reader(fat(tmp_path, bits), 10) as card:
        system = file_system(card, 0, card.size)
        assert system is not None
        owned = set(system.own)
        for _, entry in walk(system, lambda folder: True):
            assert system.uses_more_than(frozenset(owned))
            owned |= system.clusters(entry)
        assert not system.uses_more_than(frozenset(owned))
        assert system.spans[0][0] == 0 and system.spans[-1][1] == SIZE


def test_fat12_is_not_made_out(tmp_path: Path) -> None:
    with (
        raw_reader(made(tmp_path, "mkfs.vfat", "-F", "12", "-s", "64"), 10) as card,
        pytest.raises(InvalidFormat),
    ):
        file_system(card, 0, card.size)


def test_no_file_system_is_none(tmp_path: Path) -> None:
    with raw_reader(made(tmp_path, "mkfs.ext4", "-q"), 10) as card:
        assert file_system(card, 0, card.size) is None
        assert file_system(card, SIZE, 0) is None


def test_time_is_limited(tmp_path: Path) -> None:
    with raw_reader(fat(tmp_path, 16), 0.01) as card:
        time.sleep(0.02)
        with pytest.raises(ReadError, match="takes too long"):
            file_system(card, 0, card.size)


def exfat(folder: Path) -> Path:
    if shutil.which("mkfs.exfat") is None:
        pytest.skip("mkfs.exfat is not installed: sudo apt-get install exfatprogs")
    return made(folder, "mkfs.exfat", "-c", "4K")


MAKERS: dict[str, Callable[[Path], Path]] = {
    "FAT16": lambda folder: fat(folder, 16),
    "FAT32": lambda folder: fat(folder, 32),
    "exFAT": exfat,
}


@pytest.fixture(scope="module", params=MAKERS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A file system, and where a change of it matters."""
    file = MAKERS[request.param](tmp_path_factory.mktemp("sound"))
    return file, interesting(file.read_bytes())


def interesting(data: bytes) -> list[int]:
    """All of the boot sector, and some of each 4 KiB that are not zeros: where a change matters."""
    blocks = [at for at in range(0, len(data), 4096) if data[at : at + 4096].strip(b"\0")]
    return sorted({*range(512), *(at + more for at in blocks[:100] for more in range(200))})


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_spoilt_one_is_never_more_than_a_complaint(
    sound: tuple[Path, list[int]], data: st.DataObject
) -> None:
    """Whatever is changed: no other error, and none of it takes long."""
    file, where = sound
    changes = [
        (data.draw(st.sampled_from(where)), data.draw(st.binary(min_size=1, max_size=8)))
        for _ in range(data.draw(st.integers(1, 6)))
    ]
    with file.open("r+b", buffering=0) as stream:
        before = [(at, os.pread(stream.fileno(), len(new), at)) for at, new in changes]
        try:
            for at, new in changes:
                os.pwrite(stream.fileno(), new, at)
            look_through(file, data.draw(st.sampled_from([1 << 40, SIZE // 2, 4096, 512, 100])))
        finally:
            for at, old in reversed(before):
                os.pwrite(stream.fileno(), old, at)


def look_through(file: Path, size: int) -> None:
    """Do all that can be done with what is there, of which only ``size`` bytes are."""
    begun = time.monotonic()
    with raw_reader(file, 20) as whole:
        card = replace(whole, size=min(size, whole.size))
        try:
            system = file_system(card, 0, card.size)
            if system is not None:
                known = set(system.own)
                for path, entry in walk(system, lambda folder: True):
                    assert path
                    known |= system.clusters(entry)
                system.uses_more_than(frozenset(known))
                assert all(0 <= low <= high <= card.size for low, high in system.spans)
        except InvalidFormat:
            pass
    assert time.monotonic() - begun < 5
