"""A drawing of a cluster, as text and as SVG: the internet, the way there, the network, the nodes. No I/O.

The SVG is one file without anything from outside: no script, no font, no image. It follows the colour
scheme of the reader. What the manifest or a card says is text in it, never markup.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from imagebuilder.model import Cluster, Node
from imagebuilder.settings import Policy
from imagebuilder.text import printable, shortened

_POLICIES = {
    Policy.ON: "the others always go out",
    Policy.ON_DEMAND: "the others go out on demand",
    Policy.OFF: "the others do not go out",
}

WIDE, NARROW = 4, 2
"""Nodes beside each other in a drawing: on a page, and on a phone."""

_BOX = (184, 102)  # width and height of a node, in SVG's units
_EDGE, _GAP, _STEP = 36, 20, 34  # around all, between boxes, between rows
_PAD = 10  # beside the text in a box
_LINE = 17  # from one line of small text to the next
_SIZES = {"name": 15 * 1.08, "small": 13.0}  # of letters, in the same units; bold ones are wider

# Every rule begins with the class of the drawing: inside a page of HTML it is in force for all of the page.
_STYLE = """
.cluster text { font-family: system-ui, sans-serif; font-size: 15px; fill: #1b1f24 }
.cluster .name { font-weight: 600 }
.cluster .small { font-size: 13px; fill: #57606a }
.cluster .middle { text-anchor: middle }
.cluster .box { fill: #f6f8fa; stroke: #57606a }
.cluster .gateway { fill: #ddf4ff; stroke: #0969da }
.cluster .switch { fill: #57606a }
.cluster .on { fill: #ffffff }
.cluster path { stroke: #57606a; stroke-width: 1.5; fill: none }
@media screen and (prefers-color-scheme: dark) {
  .cluster { background: #0d1117 }
  .cluster text { fill: #e6edf3 }
  .cluster .small { fill: #9198a1 }
  .cluster .box { fill: #161b22; stroke: #9198a1 }
  .cluster .gateway { fill: #0c2d6b; stroke: #4493f8 }
  .cluster .on { fill: #ffffff }
  .cluster path { stroke: #9198a1 }
}
"""


def as_text(cluster: Cluster, nodes: Sequence[Node], cards: Mapping[str, str]) -> list[str]:
    """The lines of a tree. ``nodes`` are those to draw beside the gateway.

    ``cards`` says by node what is known of its card, such as "card in usb-1".
    """
    gateway, others = cluster.gateway_node, _others(cluster, nodes)
    drawn = ([gateway] if gateway else []) + others
    cells = [_cells(node, cards, radio=node is not gateway) for node in drawn]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in cells]
    lines = ["internet"]
    if gateway:
        lines += [
            f"└─ {_uplink(cluster, gateway)}",
            f"   {rows.pop(0).rstrip()}",
            f"   │  gateway: {_policy(cluster)}",
            f"   └─ {gateway.interface}",
        ]
    else:
        lines += [f"└─ router {cluster.router}"]
    lines.append(f"      {_network(cluster)}")
    for number, row in enumerate(rows):
        lines.append(f"      {'└' if number == len(rows) - 1 else '├'}─ {row.rstrip()}")
    return [printable(line, None) for line in lines]


def _cells(node: Node, cards: Mapping[str, str], *, radio: bool = True) -> tuple[str, ...]:
    own = f"Wi-Fi {node.wifi.ssid}" if node.wifi and radio else ""
    card = cards.get(node.name, "")
    return node.name, _address(node), node.board.name, node.role, ", ".join(filter(None, (own, card)))


def _address(node: Node) -> str:
    return str(node.address) if node.address else "address by DHCP"


def _others(cluster: Cluster, nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if not cluster.is_gateway(node)]


def _policy(cluster: Cluster) -> str:
    return _POLICIES[cluster.gateway.policy] if cluster.gateway else ""


def _network(cluster: Cluster) -> str:
    """The network of the nodes: a switch of their own, or the network of the router."""
    return f"{'switch' if cluster.gateway else 'network'} {cluster.lan}"


def _uplink(cluster: Cluster, gateway: Node) -> str:
    uplink, radio = cluster.gateway.uplink if cluster.gateway else "", gateway.wifi
    return f"{uplink}, Wi-Fi {radio.ssid}" if radio and radio.interface == uplink else uplink


@dataclass(frozen=True)
class _Place:
    """The upper left corner of a box."""

    x: float
    y: float

    @property
    def middle(self) -> float:
        return self.x + _BOX[0] / 2


def as_svg(
    cluster: Cluster, nodes: Sequence[Node], cards: Mapping[str, str], columns: int = WIDE
) -> list[str]:
    """The lines of the SVG, also for a page of HTML; ``columns`` nodes are beside each other.

    The other arguments are those of ``as_text``.
    """
    gateway, others = cluster.gateway_node, _others(cluster, nodes)
    beside = max(2, min(columns, len(others)))
    width = 2 * _EDGE + beside * _BOX[0] + (beside - 1) * _GAP
    middle = width / 2
    master = _Place(middle - _BOX[0] / 2, 96)
    switch = master.y + _BOX[1] + 46
    places = [
        _Place(
            _EDGE + (number % columns) * (_BOX[0] + _GAP),
            switch + 32 + _STEP + (number // columns) * (_BOX[1] + _STEP),
        )
        for number in range(len(others))
    ]
    height = (places[-1].y + _BOX[1] if places else switch + 32) + _EDGE
    about = f"{len(others) + bool(gateway)} nodes on the network {cluster.lan}"
    about += f"; {gateway.name} is the gateway" if gateway else f"; {cluster.router} is their router"
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" class="cluster">',
        f"<title>{_escaped(f'The cluster {cluster.name}')}</title>",
        f"<desc>{_escaped(about)}</desc>",
        f"<style>{_STYLE}</style>",
        f'<rect class="box" x="{middle - 60:g}" y="16" width="120" height="34" rx="17"/>',
        _middle(middle, 38, "internet"),
        f'<path d="M{middle:g} 50V{master.y:g}"/>',
        f'<path d="M{middle:g} {master.y + _BOX[1]:g}V{switch:g}"/>',
        *_way_out(cluster, gateway, width, switch),
        *_wires(places, switch + 32, columns),
        f'<rect class="switch" x="{_EDGE}" y="{switch:g}" width="{width - 2 * _EDGE:g}" height="32" rx="6"/>',
        _middle(middle, switch + 21, _network(cluster), "middle on"),
        *(_box(master, gateway, cards, "gateway") if gateway else _router(master, cluster)),
        *(
            part
            for place, node in zip(places, others, strict=True)
            for part in _box(place, node, cards, "box")
        ),
        "</svg>",
    ]


def _way_out(cluster: Cluster, gateway: Node | None, width: float, switch: float) -> Iterator[str]:
    """What is said of the lines above and below the gateway."""
    if gateway is None:
        return
    left, room = width / 2 + 10, width / 2 - 20
    yield _text(left, 76, _uplink(cluster, gateway), "small", room)
    yield _text(left, switch - 12 - _LINE, gateway.interface, "small", room)
    yield _text(left, switch - 12, _policy(cluster), "small", room)


def _router(place: _Place, cluster: Cluster) -> Iterator[str]:
    """The box of the router, in the place of a gateway."""
    size = f'width="{_BOX[0]}" height="{_BOX[1]}" rx="8"'
    yield f'<rect class="gateway" x="{place.x:g}" y="{place.y:g}" {size}/>'
    yield _text(place.x + _PAD, place.y + 23, "router", "name")
    yield _text(place.x + _PAD, place.y + 42, str(cluster.router), "small")


def _wires(places: Sequence[_Place], switch: float, columns: int) -> Iterator[str]:
    """From the switch to each box: straight to the first row, by a line at the left edge to the others."""
    for number, place in enumerate(places):
        bus = switch if number < columns else place.y - _STEP / 2
        yield f'<path d="M{place.middle:g} {bus:g}V{place.y:g}"/>'
        if number and number % columns == 0:
            last = places[min(number + columns, len(places)) - 1]
            left = _EDGE / 2
            yield f'<path d="M{_EDGE:g} {switch - 16:g}H{left:g}V{bus:g}H{last.middle:g}"/>'


def _box(place: _Place, node: Node, cards: Mapping[str, str], style: str) -> Iterator[str]:
    is_gateway = style == "gateway"  # its Wi-Fi is at the line to the internet
    whole = "; ".join(filter(None, _cells(node, cards, radio=not is_gateway)))
    lines = [_address(node), f"{node.board.short_title}, {node.role}"]
    lines += [f"Wi-Fi {node.wifi.ssid}"] if node.wifi and not is_gateway else []
    lines += [cards[node.name]] if cards.get(node.name) else []
    yield f"<g><title>{_escaped(whole)}</title>"
    size = f'width="{_BOX[0]}" height="{_BOX[1]}" rx="8"'
    yield f'<rect class="{style}" x="{place.x:g}" y="{place.y:g}" {size}/>'
    yield _text(place.x + _PAD, place.y + 23, node.name, "name")
    for number, line in enumerate(lines):
        yield _text(place.x + _PAD, place.y + 42 + _LINE * number, line, "small")
    yield "</g>"


def _text(x: float, y: float, text: str, style: str, room: float = _BOX[0] - 2 * _PAD) -> str:
    """A line of text, shortened to ``room`` units."""
    shown = shortened(printable(text, None), room / _SIZES[style])
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{_escaped(shown)}</text>'


def _middle(x: float, y: float, text: str, style: str = "middle") -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    """Text of the manifest or a card as text of XML."""
    return escape(printable(text, None), {'"': "&quot;", "'": "&#39;"})
