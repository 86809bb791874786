"""SVG drawings: their colours, light and dark, and text that stays within its space. Pure.

A drawing is an element tree, so all text in it is escaped when it is written out. Each colour is given twice:
as an attribute, for programs that do not apply the page's style sheet to drawings (WeasyPrint), and as a
class, whose rule in the page wins and follows light and dark.
"""

from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from imagebuilder.text import printable, shortened

LIGHT: Mapping[str, str] = {
    "ground": "#f4f6f8",
    "paper": "#ffffff",
    "ink": "#17212b",
    "soft": "#566373",
    "line": "#cfd6de",
    "accent": "#b01446",
    "read": "#1f66b5",
    "good": "#14713f",
    "bad": "#b3261e",
    "warn": "#8a5a00",
}
DARK: Mapping[str, str] = {
    "ground": "#0f151b",
    "paper": "#18212a",
    "ink": "#e7edf3",
    "soft": "#9dabba",
    "line": "#33414f",
    "accent": "#ff7aa5",
    "read": "#78b4f5",
    "good": "#5ccb93",
    "bad": "#ff8a80",
    "warn": "#e6b450",
}
"""The colours of all pages by name."""

SANS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"


def colours_css() -> str:
    """The rules that colour pages and drawings: dark on a dark screen, always light in print."""
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in colours.items()) for colours in (LIGHT, DARK)
    )
    classes = "".join(
        f".fill-{name}{{fill:var(--{name})}}.stroke-{name}{{stroke:var(--{name})}}" for name in LIGHT
    )
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{classes}"


def drawing(width: float, height: float, about: str) -> Element:
    """An empty drawing of ``width`` by ``height`` units; ``about`` describes it for screen readers."""
    return Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:g} {height:g}",
            "role": "img",
            "aria-label": printable(about, None),
        },
    )


def painted(element: Element, *, fill: str = "", stroke: str = "", width: float = 1.0) -> Element:
    """Give ``element`` colours by name; without ``fill`` it is not filled. ``width`` is the stroke's."""
    element.set("fill", LIGHT[fill] if fill else "none")
    classes = [f"fill-{fill}"] if fill else []
    if stroke:
        element.set("stroke", LIGHT[stroke])
        element.set("stroke-width", f"{width:g}")
        classes.append(f"stroke-{stroke}")
    if classes:
        element.set("class", " ".join(classes))
    return element


def line(
    svg: Element, points: list[tuple[float, float]], *, stroke: str, width: float, dash: str = ""
) -> None:
    """A line through ``points``."""
    element = SubElement(svg, "polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))
    element.set("stroke-linejoin", "round")
    if dash:
        element.set("stroke-dasharray", dash)
    painted(element, stroke=stroke, width=width)


def words(
    svg: Element,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    room: float = 0.0,
    fill: str = "ink",
    bold: bool = False,
    mono: bool = False,
    anchor: str = "start",
) -> None:
    """A line of text with its baseline at ``y``; shortened to ``room`` units if that is given."""
    shown = printable(text, None)
    if room:
        shown = shortened(shown, room / size / (1.08 if bold else 1.0), mono)
    element = SubElement(svg, "text", x=f"{x:.1f}", y=f"{y:.1f}")
    element.set("font-family", MONO if mono else SANS)
    element.set("font-size", f"{size:g}")
    if bold:
        element.set("font-weight", "700")
    if anchor != "start":
        element.set("text-anchor", anchor)
    painted(element, fill=fill)
    element.text = shown


def markup(svg: Element) -> Markup:
    """The drawing as text, escaped as XML."""
    return Markup(tostring(svg, encoding="unicode"))
