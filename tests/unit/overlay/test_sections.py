"""Lines that mean something only under their heading: config.txt and dhcpcd.conf, and files like them."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.overlay.sections import ALL, is_heading, lines_under, normalised, with_lines

DHCPCD = "interface X"


def config(content: bytes, heading: str, *lines: bytes) -> bytes:
    return with_lines(content, b"\n".join(lines) + b"\n", heading, ALL)


def dhcpcd(content: bytes, heading: str, *lines: bytes) -> bytes:
    return with_lines(content, b"\n".join(lines) + b"\n", heading, DHCPCD)


def test_a_line_in_another_section_does_not_count() -> None:
    before = b"a=1\n[cm4]\nb=2\n"
    assert config(before, ALL, b"b=2") == before + b"[all]\nb=2\n"
    assert config(before, "[cm4]", b"b=2") == before
    assert config(before, "[pi4]", b"b=2") == before + b"[pi4]\nb=2\n[all]\n"
    assert config(before, ALL, b"a=1") == before  # before any heading is for all boards


def test_a_section_at_the_end_is_gone_on_with() -> None:
    assert config(b"[pi4]\na=1\n[all]\n", ALL, b"b=2", b"c=3") == b"[pi4]\na=1\n[all]\nb=2\nc=3\n"
    assert config(b"[PI4]\nx=1\n[ALL]", ALL, b"b=2") == b"[PI4]\nx=1\n[ALL]\nb=2\n"
    assert config(b"", ALL, b"b=2") == b"[all]\nb=2\n"


def test_every_section_of_the_heading_counts() -> None:
    before = b"[all]\na=1\n[pi4]\nx=1\n[all]\nb=2\n"
    assert config(before, ALL, b"a=1", b"b=2") == before
    assert config(before, ALL, b"a=1", b"c=3") == before + b"c=3\n"


def test_filters_that_would_add_up_are_ended() -> None:
    before = b"[gpio4=1]\na=1\n"
    assert config(before, "[pi4]", b"x=1") == before + b"[all]\n[pi4]\nx=1\n[all]\n"
    before = b"[gpio4=1]\n[pi4]\nx=1\n"  # x=1 needs both
    assert config(before, "[pi4]", b"x=1") == before + b"[all]\n[pi4]\nx=1\n[all]\n"
    before = b"[cm4]\na=1\n[pi4]\nx=1\n"  # the second model replaces the first
    assert config(before, "[pi4]", b"x=1") == before
    assert config(before, "[pi4]", b"y=1") == before + b"y=1\n[all]\n"
    assert config(b"[gpio4=1]\n[all]\n", "[pi4]", b"x=1") == b"[gpio4=1]\n[all]\n[pi4]\nx=1\n[all]\n"


def test_dhcpcd_lines_stand_under_their_interface() -> None:
    before = b"hostname\n\ninterface wlan0\nstatic routers=10.0.0.1\n"
    added = dhcpcd(before, "interface eth0", b"static routers=10.0.0.1", b"noipv6rs")
    assert added == before + b"interface eth0\nstatic routers=10.0.0.1\nnoipv6rs\n"
    assert dhcpcd(added, "interface  eth0", b"noipv6rs", b"noarp") == added + b"noarp\n"
    assert dhcpcd(b"interface eth0\nx\nprofile p\ny\n", "interface eth0", b"y").endswith(
        b"interface eth0\ny\n"
    )


def test_a_line_without_a_heading_goes_before_the_first() -> None:
    assert (
        dhcpcd(b"hostname\ninterface wlan0\nnoarp\n", "", b"noarp")
        == b"hostname\nnoarp\ninterface wlan0\nnoarp\n"
    )
    assert dhcpcd(b"hostname", "", b"noarp") == b"hostname\nnoarp\n"
    assert dhcpcd(b"hostname\n", "", b"hostname") == b"hostname\n"


@pytest.mark.parametrize(
    ("line", "like", "is_one"),
    [
        ("[all]", "[pi4]", True),
        ("  [EDID=x]  ", "[all]", True),
        ("#[all]", "[all]", False),
        ("[a][b]", "[all]", False),
        ("interface eth0", DHCPCD, True),
        ("\tSSID home", DHCPCD, True),
        ("interfaces eth0", DHCPCD, False),
        ("#interface eth0", DHCPCD, False),
        ("Match User x", "Host y", True),
        ("", "", False),
        ("", DHCPCD, False),
    ],
)
def test_what_is_a_heading(line: str, like: str, is_one: bool) -> None:
    assert is_heading(line, like) is is_one


LINE = st.sampled_from(
    [
        b"a=1",
        b"b=2",
        b"[all]",
        b"[pi4]",
        b"[PI4]",
        b"[gpio4=1]",
        b"",
        b"# x",
        b"interface eth0",
        b"\xff",
        b"c\r",
    ]
)
CONTENT = st.one_of(st.binary(max_size=200), st.lists(LINE, max_size=15).map(b"\n".join))
ADDED = st.lists(st.sampled_from([b"a=1", b"b=2", b"z=9"]), min_size=1, max_size=4)
HEADINGS = [("[all]", ALL), ("[pi4]", ALL), ("interface eth0", DHCPCD), ("", DHCPCD)]


@given(CONTENT, ADDED, st.sampled_from(HEADINGS))
def test_what_was_added_stands_there_and_the_rest_is_as_it_was(
    before: bytes, added: list[bytes], where: tuple[str, str]
) -> None:
    """Twice is once; every line that was there is there still, in the same order, under its heading."""
    heading, like = where
    after = with_lines(before, b"\n".join(added) + b"\n", heading, like)
    assert set(added) <= lines_under(after, heading, like)
    assert with_lines(after, b"\n".join(added) + b"\n", heading, like) == after
    old = list(under(before, like))
    rest = iter(under(after, like))
    assert all(one in rest for one in old)


def under(content: bytes, like: str) -> Iterator[tuple[str, bytes]]:
    """Each line with the heading above it, read another way than by the code that is tested."""
    heading = ""
    for line in content.splitlines():
        text = line.decode("utf-8", "replace")
        if is_heading(text, like):
            heading = normalised(text)
        yield heading, line
