"""Clusters, histories and reports for pages, some of them hostile; and the structure of a page."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from html.parser import HTMLParser
from typing import Any, TypeVar

from imagebuilder import manifest
from imagebuilder.card.report import Verdict
from imagebuilder.export import default_via
from imagebuilder.history.batch import Batch, BatchCard
from imagebuilder.history.store import Begun, Ended
from imagebuilder.history.written import WrittenCard
from imagebuilder.model import Cluster
from imagebuilder.pages.sheet import Sheet
from imagebuilder.resources import shipped

_T = TypeVar("_T")

HOSTILE = (
    "\"'><script>alert(1)</script><img src=http://evil.invalid/x onerror=alert(1)>"
    "&amp;</style></svg>]]>\u202e\x1b[2J"
)
"""Ends every context of HTML, CSS and SVG, and has characters that reorder text and control a terminal."""

WHEN = "2026-11-24T13:03:00+00:00"
MADE = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
CARD = 31_914_983_424  # bytes


def example() -> Cluster:
    """The cluster of the README."""
    return manifest.load(shipped("manifests") / "picluster.toml")


def written(node: str, number: int, *, certain: bool = True, verdict: Verdict = Verdict.GOOD) -> WrittenCard:
    """A card of ``node``."""
    serial = f"0x4a{number:06x}"
    key = f"sd SC32G {serial}" if certain else f"usb reader usb 1-1.{number}"
    begun = Begun(
        device=f"/dev/mmcblk{number}", slot=f"usb 1-1.{number}", model="SC32G", serial=serial, size=CARD,
        run=f"run{number}", time=WHEN, key=key, node=node, image="0" * 64,
    )  # fmt: skip
    ended = Ended(run=f"run{number}", time=WHEN, key=key, size=CARD, node=node, verdict=verdict)
    return WrittenCard(begun, ended, certain)


def batch_card(node: str, number: int, verdict: Verdict = Verdict.GOOD) -> BatchCard:
    """A card of a report, with rates over time."""
    writing = [
        (float(second), "write", 38_000_000 + 900_000 * (second * number % 5)) for second in range(1, 45)
    ]
    reading = [(45.0 + second, "read-back", 88_000_000 - 700_000 * (second % 7)) for second in range(20)]
    good = verdict is Verdict.GOOD
    return BatchCard(
        device=f"/dev/sd{chr(97 + number)}",
        slot=f"usb 1-1.{number}",
        model="Card Reader",
        serial=f"0x4a{number:06x}",
        size=CARD,
        node=node,
        verdict=verdict,
        written=1_760_000_000,
        read_back=1_760_000_000 if good else 0,
        seconds=65.0,
        write_rate=40e6,
        read_rate=88e6,
        rates=(*writing, *(reading if good else reading[:6])),
        error="" if good else "wrong data was read back",
        hint="" if good else "do not use this card",
        offset=None if good else 734_003_200,
    )


def sheet_of(cluster: Cluster) -> Sheet:
    """The sheet of a cluster whose cards are all written; the last of them was bad in the last batch."""
    names = [node.name for node in cluster.nodes]
    cards = [batch_card(name, number) for number, name in enumerate(names[:-1])]
    cards.append(batch_card(names[-1], len(names), Verdict.BAD))
    return Sheet(
        cluster=cluster,
        cards={name: written(name, number, certain=number % 4 != 3) for number, name in enumerate(names)},
        batch=Batch(format=1, time=WHEN, cards=tuple(cards), remaining=(names[-1],)),
        via=default_via(cluster),
        login=f"ssh {cluster.user.name}@{cluster.nodes[0].name}.local",
        made=MADE,
    )


def poisoned(value: _T, mark: str = "") -> _T:
    """``value`` with every text in it, but times, replaced by ``HOSTILE`` and where it was."""
    return _poisoned(value, mark)  # type: ignore[no-any-return]


def _poisoned(value: Any, mark: str) -> Any:
    if isinstance(value, str) and not isinstance(value, Enum) and value != WHEN:
        return f"{HOSTILE}{mark}"
    if isinstance(value, tuple):
        return tuple(_poisoned(one, f"{mark}-{number}") for number, one in enumerate(value))
    if isinstance(value, dict):
        return {_poisoned(key, f"{mark}-key"): _poisoned(one, f"{mark}-value") for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init and field.name != "event"]
        changed = {name: _poisoned(getattr(value, name), f"{mark}.{name}") for name in fields}
        return dataclasses.replace(value, **changed)
    if isinstance(value, Batch | BatchCard):
        fields = list(type(value).model_fields)
        return value.model_copy(
            update={
                name: _poisoned(getattr(value, name), f"{mark}.{name}") for name in fields if name != "rates"
            }
        )
    return value


def poisoned_cluster() -> Cluster:
    """The example cluster with every text in it hostile. The gateway is still the first node."""
    cluster: Cluster = poisoned(example(), "cluster")
    first = cluster.nodes[0]
    uplink = first.wifi.interface if first.wifi else ""
    return with_gateway(cluster, node=first.name, uplink=uplink)


def with_gateway(cluster: Cluster, **changes: Any) -> Cluster:
    """``cluster`` with changes of its gateway."""
    assert cluster.gateway
    return dataclasses.replace(cluster, gateway=dataclasses.replace(cluster.gateway, **changes))


class _Structure(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *sorted(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def structure(page: str) -> list[tuple[str, ...]]:
    """All tags of a page, each with the names of its attributes."""
    parser = _Structure()
    parser.feed(page)
    parser.close()
    return parser.tags


def text_of(page: str) -> str:
    """The text of a page, without the style sheet."""
    parser = _Structure()
    parser.feed(page)
    parser.close()
    return " ".join(parser.text)


def outside(page: str) -> Iterator[str]:
    """What a browser would load from elsewhere: the values of attributes that name something."""
    loading = {"src", "href", "srcset", "data", "poster", "action", "formaction", "background", "xlink:href"}

    class Links(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [value or "" for name, value in attrs if name in loading]

    parser = Links()
    parser.found = []
    parser.feed(page)
    yield from (value for value in parser.found if value != "data:,")
