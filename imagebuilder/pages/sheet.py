"""The sheet of a cluster for the bench: its network, its nodes, labels, the first power-on, the last batch.

It is made of the manifest, the history and a report; it needs no secret, so it cannot contain one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from markupsafe import Markup

from imagebuilder.card.report import Verdict
from imagebuilder.export import Via
from imagebuilder.graph import NARROW, WIDE, as_svg
from imagebuilder.history.batch import Batch, BatchCard
from imagebuilder.history.store import shown
from imagebuilder.history.written import WrittenCard
from imagebuilder.model import Cluster, Node
from imagebuilder.pages.labels import CARDS, CASES, LabelSheet, Paper, qr_code
from imagebuilder.pages.plot import rate_plot
from imagebuilder.pages.rendering import rendered
from imagebuilder.settings import SSH_PORT, Policy
from imagebuilder.text import size
from imagebuilder.version import __version__

_T = TypeVar("_T")

_LONG, _LONGER, _LONGEST = 9, 16, 30  # characters of a name, from which it is set smaller on a label


@dataclass(frozen=True)
class Sheet:
    """What a sheet is made of.

    ``cards`` are the last cards of the nodes, by name. ``batch`` is the last report, if there is one. ``via``
    is where ssh reaches the gateway from home, None without a gateway; ``login`` is the command that logs in
    first, ``made`` the present time.
    """

    cluster: Cluster
    cards: Mapping[str, WrittenCard]
    batch: Batch | None
    via: Via | None
    login: str
    paper: Paper = Paper.A4
    made: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class _Row:
    """One node on the page: values for the template. ``serial`` to ``verdict`` are of its last card, which is
    the card of the node only if it is ``good``."""

    node: Node
    is_gateway: bool
    out: str
    ssh: str
    qr: Markup
    serial: str
    slot: str
    written: str
    verdict: str
    good: bool

    @property
    def length(self) -> str:
        """A class for the size of its name on a label."""
        length = len(self.node.name)
        if length > _LONGEST:
            return "longest"
        return "longer" if length > _LONGER else "long" if length > _LONG else "short"


@dataclass(frozen=True)
class _Placed:
    """A label at its place on the paper, in mm."""

    row: _Row
    x: str
    y: str


@dataclass(frozen=True)
class _LabelPage:
    labels: Sequence[_Placed]


@dataclass(frozen=True)
class _Labels:
    """All labels of one kind."""

    kind: str
    title: str
    sheet: LabelSheet
    width: str
    height: str
    code: str
    pages: Sequence[_LabelPage]


@dataclass(frozen=True)
class _Written:
    """One card of the last batch."""

    card: BatchCard
    plot: Markup | None
    figures: str

    @property
    def place(self) -> str:
        """Where the error is, if its text does not say so."""
        card = self.card
        if card.partition is not None:
            return f" (partition {card.partition}{', ' if card.file else ''}{card.file})"
        if card.offset is None or re.search(rf"\b{card.offset}\b", card.error):
            return ""
        return f" (byte {card.offset})"


def sheet_page(sheet: Sheet) -> str:
    """The sheet as one HTML page."""
    cluster, paper = sheet.cluster, sheet.paper
    rows = [_row(sheet, node) for node in _gateway_first(cluster)]
    notes = {row.node.name: _note(row) for row in rows}
    width, height = paper.size
    values = {
        "cluster": cluster,
        "gateway": cluster.gateway_node,
        "wireless": _wireless(cluster),
        "radios": [node for node in cluster.nodes if node.lan_wifi],
        "wired": [node for node in cluster.nodes if not node.lan_wifi],
        "on_demand": cluster.gateway is not None and cluster.gateway.policy is Policy.ON_DEMAND,
        "rows": rows,
        "others": [row for row in rows if not row.is_gateway],
        "wide": _graph(cluster, notes, WIDE),
        "narrow": _graph(cluster, notes, NARROW),
        "paper": {
            "width": _mm(width),
            "height": _mm(height),
            "name": "A4" if paper is Paper.A4 else "US Letter",
        },
        "labels": [
            _labels("case", "Labels for the cases", CASES[paper], rows),
            _labels("card", "Labels for the boxes of the cards", CARDS[paper], rows),
        ],
        "login": sheet.login,
        "via": sheet.via,
        "batch": sheet.batch,
        "ended": _time(sheet.batch.time) if sheet.batch else "",
        "written": _plotted(sheet.batch.cards) if sheet.batch else [],
        "tasks": {task for card in sheet.batch.cards for _, task, _ in card.rates} if sheet.batch else set(),
        "made": sheet.made.astimezone().strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
    }
    return rendered("sheet.html.j2", values)


def _gateway_first(cluster: Cluster) -> list[Node]:
    return sorted(cluster.nodes, key=lambda node: not cluster.is_gateway(node))


def _graph(cluster: Cluster, notes: Mapping[str, str], columns: int) -> Markup:
    return Markup("\n".join(as_svg(cluster, cluster.nodes, notes, columns)))


def _wireless(cluster: Cluster) -> bool:
    """Whether the gateway reaches the home network by Wi-Fi."""
    wifi = cluster.gateway_node.wifi if cluster.gateway_node else None
    return wifi is not None and cluster.gateway is not None and wifi.interface == cluster.gateway.uplink


def _row(sheet: Sheet, node: Node) -> _Row:
    cluster, card = sheet.cluster, sheet.cards.get(node.name)
    is_gateway = cluster.is_gateway(node)
    via = sheet.via if is_gateway and sheet.via else Via(node.host, node.ssh_port)
    host = f"[{via.host}]" if ":" in via.host else via.host
    port = "" if via.port == SSH_PORT else f":{via.port}"
    ssh = f"ssh://{cluster.user.name}@{host}{port}"
    return _Row(
        node=node,
        is_gateway=is_gateway,
        out=_way_out(cluster, node),
        ssh=ssh,
        qr=qr_code(ssh),
        serial=card.begun.serial if card and card.certain else "",
        slot=card.begun.slot if card else "",
        written=shown(card.time) if card else "",
        verdict=card.verdict if card else "",
        good=card is not None and card.done,
    )


def _way_out(cluster: Cluster, node: Node) -> str:
    """How a node reaches the internet, in words."""
    gateway = cluster.gateway
    if gateway is None:
        router = f"router {cluster.router}" if cluster.router else "router"
        return f"{router}, by Wi-Fi {node.lan_wifi.ssid}" if node.lan_wifi else router
    if cluster.is_gateway(node):
        if _wireless(cluster) and node.wifi:
            return f"Wi-Fi {node.wifi.ssid} ({gateway.uplink})"
        return f"cable ({gateway.uplink})"
    if node.wifi:
        return f"Wi-Fi {node.wifi.ssid}; LAN by {gateway.node}"
    when = {Policy.ON: "always", Policy.OFF: "never", Policy.ON_DEMAND: "on demand"}[gateway.policy]
    return "none" if gateway.policy is Policy.OFF else f"{gateway.node}, {when}"


def _note(row: _Row) -> str:
    """What the drawing says of a node's card; empty without a good one."""
    if not row.good:
        return ""
    return f"card {row.serial}" if row.serial else f"card from {row.slot}" if row.slot else ""


def _labels(kind: str, title: str, sheet: LabelSheet, rows: Sequence[_Row]) -> _Labels:
    pages = []
    for some in _chunks(rows, sheet.labels):
        places = zip(some, sheet.places(), strict=False)
        pages.append(_LabelPage([_Placed(row, _mm(x), _mm(y)) for row, (x, y) in places]))
    return _Labels(kind, title, sheet, _mm(sheet.width), _mm(sheet.height), _mm(sheet.code), pages)


def _chunks(items: Sequence[_T], count: int) -> Iterator[list[_T]]:
    left = iter(items)
    while some := list(islice(left, count)):
        yield some


def _mm(length: float) -> str:
    return f"{length:.3f}".rstrip("0").rstrip(".") + "mm"


def _time(text: str) -> str:
    """The time of a report in the time zone of this machine; as it is when it is none."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return text


_FIRST = (Verdict.BAD, Verdict.FAILED, Verdict.INTERRUPTED)


def _plotted(cards: Sequence[BatchCard]) -> list[_Written]:
    """The cards with their plots, all on one scale; those that are not good come first."""
    most = max((rate for card in cards for _, _, rate in card.rates), default=0)
    longest = max((card.seconds for card in cards), default=0.0)
    return [
        _Written(
            card,
            rate_plot(card.rates, longest, most, f"Rates of {card.node or card.slot} over time")
            if card.rates
            else None,
            _figures(card),
        )
        for card in sorted(cards, key=lambda card: card.verdict not in _FIRST)
    ]


def _figures(card: BatchCard) -> str:
    parts = []
    if card.written:
        rate = f" at {size(round(card.write_rate))}/s" if card.write_rate else ""
        parts.append(f"{size(card.written)} written{rate}")
    if card.skipped:
        parts.append(f"{size(card.skipped)} kept")
    if card.read_back:
        rate = f" at {size(round(card.read_rate))}/s" if card.read_rate else ""
        parts.append(f"{size(card.read_back)} read back{rate}")
    parts.append(f"{card.seconds:.0f} s")
    if card.retries:
        parts.append("1 try repeated" if card.retries == 1 else f"{card.retries} tries repeated")
    return ", ".join(parts)
