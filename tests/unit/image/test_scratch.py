"""Which blocks of a scratch copy differ from the base image."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from imagebuilder.image.allocation import Span
from imagebuilder.image.base.opening import Base
from imagebuilder.image.scratch import Template, changed_spans

BLOCK = 4096
ZEROS = bytes(BLOCK)
NOISE = [os.urandom(BLOCK) for _ in range(8)]


def span(*blocks: int) -> list[Span]:
    return [(at * BLOCK, (at + 1) * BLOCK) for at in blocks]


def image(file: Path, blocks: Sequence[bytes]) -> Path:
    """An image with a hole for each empty block."""
    with file.open("wb") as stream:
        for at, block in enumerate(blocks):
            if block:
                stream.seek(at * BLOCK)
                stream.write(block)
        stream.truncate(len(blocks) * BLOCK)
    return file


def changed(
    folder: Path,
    base: Sequence[bytes],
    template: Sequence[bytes],
    work: Sequence[bytes],
    *,
    used_before: Sequence[int] = (0, 1, 2, 3),
    used: Sequence[int] = (0, 1, 2, 3),
    written: Sequence[int] = (),
    complete: bool = False,
) -> list[int]:
    """The numbers of the changed blocks."""
    files = [image(folder / name, blocks) for name, blocks in (("b", base), ("t", template), ("w", work))]
    table = SimpleNamespace(size=len(base) * BLOCK)
    opened = cast(Base, SimpleNamespace(file=files[0], name="base", table=table))
    spans = changed_spans(
        opened,
        Template(files[1], complete),
        files[2],
        used_before=span(*used_before),
        used=span(*used),
        written=span(*written),
    )
    return [at // BLOCK for start, end in spans for at in range(start, end, BLOCK)]


@pytest.mark.parametrize(
    ("work", "more", "expected"),
    [
        ([NOISE[0], b"", b"", b""], {}, []),  # data of the base is not missed
        ([NOISE[4], b"", b"", b""], {}, [0]),  # metadata
        ([NOISE[0], NOISE[4], b"", b""], {}, [1]),  # written where the base has data
        ([NOISE[0], NOISE[1], b"", b""], {}, []),  # written as it was
        ([NOISE[0], b"", ZEROS, b""], {"written": [2]}, [2]),  # only zeros, in a block that had data
        ([NOISE[0], b"", b"", b""], {"written": [2]}, [2]),  # the same, as a hole
        ([NOISE[0], b"", b"", b""], {"used_before": [0, 1, 2]}, [3]),  # zeros where the base has rubbish
        ([NOISE[0], NOISE[4], b"", b""], {"used": [0, 2, 3]}, []),  # no longer in use
        ([ZEROS, b"", b"", b""], {}, [0]),  # metadata that became zeros
        ([b"", b"", b"", b""], {}, [0]),  # the same, as a hole
        ([b"", NOISE[4], b"", b""], {}, [0, 1]),  # and another block was written
    ],
)
def test_a_copy_without_data(
    work: list[bytes], more: dict[str, Sequence[int]], expected: list[int], tmp_path: Path
) -> None:
    assert changed(tmp_path, NOISE[:4], [NOISE[0], b"", b"", b""], work, **more) == expected  # type: ignore[arg-type]


def test_a_complete_copy(tmp_path: Path) -> None:
    work = [NOISE[0], NOISE[4], ZEROS, b""]
    assert changed(tmp_path, NOISE[:4], NOISE[:4], work, complete=True) == [1, 2, 3]
    assert changed(tmp_path, NOISE[:4], NOISE[:4], work, complete=True, used=[0, 2]) == [2]


def test_a_copy_that_has_grown(tmp_path: Path) -> None:
    work = [*NOISE[:4], NOISE[5], b""]
    assert changed(tmp_path, NOISE[:4], NOISE[:4], work, complete=True, used=range(6)) == [4]
