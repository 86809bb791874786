"""The report of the last batch, read back: what the program saved, and anything at all."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.card.report import Verdict, WriteMode, document, save
from imagebuilder.errors import PiimgError
from imagebuilder.history.batch import newest_of, read_batch
from tests.unit.history.making import READER, SLOT, report_of


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    good = replace(
        report_of(SLOT, Verdict.GOOD),
        mode=WriteMode.ALL,
        rates=((1.0, "write", 40_000_000), (2.0, "read-back", 80_000_000)),
        seconds=2.5,
        write_rate=4e7,
    )
    bad = report_of(READER, Verdict.BAD, "wrong data was read back", 4096)
    file = tmp_path / "flash-report.json"
    save(file, [good, bad], ["worker9"])
    batch = read_batch(file)
    assert [card.verdict for card in batch.cards] == [Verdict.GOOD, Verdict.BAD]
    assert batch.cards[0].rates == good.rates and batch.cards[0].seconds == 2.5
    assert (batch.cards[1].offset, batch.cards[1].error) == (4096, "wrong data was read back")
    assert batch.remaining == ("worker9",)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-5],
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"good"', '"excellent"'),
        lambda text: text.replace('"seconds": 0.0', '"seconds": NaN'),
        lambda text: text.replace('"seconds": 0.0', '"seconds": -1'),
        lambda text: text.replace('"seconds": 0.0', '"seconds": 1e999'),
        lambda text: text.replace('"size": ', '"size": -'),
        lambda text: text.replace('"rates": []', '"rates": [[1.0, "write", 1e999]]'),
        lambda text: text.replace('"rates": []', '"rates": [[1.0, "write"]]'),
        lambda text: "[" * 100_000,
        lambda text: "",
        lambda text: "\udcff",
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    text = json.dumps(document([report_of(SLOT, Verdict.GOOD)]), indent=2)
    assert spoil(text) != text
    file = tmp_path / "report.json"
    file.write_bytes(spoil(text).encode("utf-8", "surrogateescape"))
    with pytest.raises(PiimgError, match="is not a report"):
        read_batch(file)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["format", "time", "cards", "rates", "node"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_is_a_report_or_an_error(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "any.json"
    file.write_bytes(data)
    with pytest.raises(PiimgError):
        read_batch(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        with pytest.raises(PiimgError, match="cannot read the report"):
            read_batch(tmp_path / name)


def test_the_newest_of_several(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("flash", "station", "missing")]
    assert newest_of(files) is None
    for age, file in enumerate(files[:2]):
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    assert newest_of(files) == files[0]
