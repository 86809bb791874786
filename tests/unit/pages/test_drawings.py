"""Drawings: well-formed SVG in which text stays within its space, whatever the names are."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.pages.drawing import DARK, LIGHT, colours_css
from imagebuilder.pages.plot import rate_plot, scale_of
from imagebuilder.text import shortened
from tests.unit.pages.making import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_colours_have_contrast() -> None:
    """WCAG 2.1, 1.4.3: text at least 4.5 to 1 on its ground, light and dark."""
    for colours in (LIGHT, DARK):
        for ground in ("paper", "ground"):
            for name in ("ink", "soft", "accent", "read", "good", "bad", "warn"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    assert set(LIGHT) == set(DARK)
    assert all(f"--{name}:" in colours_css() for name in LIGHT)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours (WCAG 2.1)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@given(st.text(max_size=80), st.floats(1, 40))
@settings(max_examples=200, deadline=None)
def test_shortened_text_fits_and_keeps_both_ends(text: str, room: float) -> None:
    short = shortened(text, room)
    assert short == text or "…" in short
    assert len(short) <= len(text) or short == "…"
    if "…" in short and short != "…" and "…" not in text:
        head, _, tail = short.partition("…")
        assert text.startswith(head) and text.endswith(tail)


@pytest.mark.parametrize(
    ("largest", "end"), [(0, 1), (0.7, 1), (1, 1), (3, 5), (41, 50), (88, 100), (101, 200), (math.inf, 1)]
)
def test_an_axis_ends_at_a_round_number(largest: float, end: float) -> None:
    assert scale_of(largest) == end


RATES = st.lists(
    st.tuples(
        st.floats(0, 1e9),
        st.sampled_from(["write", "read-back", "compare", HOSTILE]),
        st.integers(0, 1 << 62),
    ),
    max_size=50,
)


@given(RATES, st.floats(0, 1e9), st.floats(0, 1e18))
@settings(max_examples=100, deadline=None)
def test_a_plot_stays_within_its_picture(
    rates: list[tuple[float, str, int]], seconds: float, most: float
) -> None:
    svg = ElementTree.fromstring(rate_plot(rates, seconds, most, HOSTILE))
    _, _, width, height = map(float, svg.get("viewBox", "").split())
    for element in svg.iter(f"{SVG}polyline"):
        for point in element.get("points", "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width and 0 <= y <= height


def test_a_plot_has_a_line_for_each_task() -> None:
    rates = [
        (1.0, "write", 40_000_000),
        (2.0, "write", 20_000_000),
        (3.0, "read-back", 80_000_000),
        (4.0, "read-back", 80_000_000),
    ]
    svg = rate_plot(rates, 4.0, 80e6, "x")
    lines = [
        element
        for element in ElementTree.fromstring(svg).iter(f"{SVG}polyline")
        if "line" not in element.get("class", "")
    ]
    assert [line.get("class") for line in lines] == ["stroke-accent", "stroke-read"]
    (_, first), (_, second) = (map(float, point.split(",")) for point in lines[0].get("points", "").split())
    assert first < second  # 40 MB/s is above 20 MB/s
    assert "100" in texts(svg) and "4 s" in texts(svg)
