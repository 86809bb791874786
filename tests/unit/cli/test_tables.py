"""Tables and numbers as people read them."""

import pytest

from imagebuilder.cli.format import duration, size
from imagebuilder.cli.tables import table


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    shown = table(["slot", "node", "note"], [["usb 1-1", "master", ""], ["usb 1-12", "", ""]])
    assert shown.splitlines() == ["slot      node", "usb 1-1   master", "usb 1-12  -"]


def test_a_table_without_rows_is_empty() -> None:
    assert table(["slot", "node"], []) == ""


def test_no_cell_can_write_to_the_terminal() -> None:
    assert table(["model"], [["\x1b[2JEVO\n"]]).splitlines() == ["model", "?[2JEVO?"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (31_914_983_424, "31.9 GB"),
        (2 * 10**12, "2.0 TB"),
    ],
)
def test_sizes_are_decimal(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (42.4, "0:42"), (59.6, "1:00"), (727, "12:07"), (3599.6, "1:00:00"), (3723, "1:02:03")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
