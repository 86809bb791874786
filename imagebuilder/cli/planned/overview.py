"""A cluster on one screen: a table of the nodes, what all have in common once, and what is each one's own."""

import sys
from collections.abc import Iterator, Mapping, Sequence

from imagebuilder.cli.output import Line, Style
from imagebuilder.cli.planned.wording import listed, named, places_text
from imagebuilder.cli.tables import columns, fitted_table
from imagebuilder.model import Cluster, NodePlan
from imagebuilder.plan import board_notes
from imagebuilder.summary import ClusterSummary, Group, NodeRow, descriptions, summary

_HEADS = ("NODE", "ROLE", "BOARD", "ADDRESS", "WAY OUT", "LAYERS", "PACKAGES", "SCRIPTS", "SECRETS")
_LINES = 2  # of paths of a group
_LINES_ALONE = 5  # the same, if there is only one node
_INDENT = 13  # columns before what is said of a group


def overview(cluster: Cluster, plans: Sequence[NodePlan], base: str) -> Iterator[Line]:
    """The lines of the overview. ``base`` is the name of the base image."""
    found, everyone = summary(cluster, plans), [plan.node.name for plan in plans]
    release, count = plans[0].release, len(cluster.nodes)
    nodes = f"{count} node{'s' * (count != 1)}" if len(plans) == count else f"{len(plans)} of {count} nodes"
    yield Line(f"{cluster.name}: {nodes}, {release}, base image {base}", Style.HEAD)
    if len(plans) == 1:
        yield from _alone(plans[0], found)
        return
    rows = [_row(row) for row in found.rows]
    head, *lines = fitted_table(_HEADS, rows, columns())
    yield Line(head, Style.HEAD)
    yield from (Line(line) for line in lines)
    for plan in plans:
        yield from (Line(f"note: {plan.node.name}: {note}") for note in board_notes(plan.node, plan.release))
    yield Line()
    yield from _common(found)
    for group in found.own:
        yield from _group(group, found, descriptions(plans), everyone)


def _alone(plan: NodePlan, found: ClusterSummary) -> Iterator[Line]:
    """One node: what it has, below each other."""
    node, (row,) = plan.node, found.rows
    yield Line(node.name, Style.HEAD)
    yield from _items("role", [node.role])
    yield from _items("board", [f"{node.board.title} ({node.board.name})"])
    yield from _items("address", [f"{node.address or 'by DHCP'} on {node.interface}"])
    yield from _items("way out", [row.way_out])
    for number, name in enumerate(plan.layers):
        text = f"{name}: {plan.descriptions[name]}" if name in plan.descriptions else name
        yield from _items("" if number else "layers", [text])
    yield from _items("packages", row.packages)
    yield from _items("scripts", row.scripts)
    yield from _items("secrets", row.secrets)
    places = [place for group in found.own for place in group.places]
    yield from _items("paths", list(places_text(places)), _LINES_ALONE)
    yield from (Line(f"  note: {note}") for note in board_notes(node, plan.release))


def _row(row: NodeRow) -> Sequence[str | Sequence[str]]:
    node = row.node
    layers = [name for name in row.layers if name not in (node.role, f"{node.role} (own)")]
    cells = (node.name, node.role, node.board.name, str(node.address or "DHCP"), row.way_out)
    return (*cells, layers, row.packages, row.scripts, row.secrets)


def _common(found: ClusterSummary) -> Iterator[Line]:
    yield Line("all nodes", Style.HEAD)
    yield from _items("layers", found.layers)
    yield from _items("packages", found.packages)
    yield from _items("scripts", found.scripts)
    yield from _items("secrets", found.secrets)
    varying = set(found.common.varying)
    same = len(found.common.places) - len(varying)
    different = list(places_text(found.common.varying))
    yield from _items("paths", different, start=f"{same} the same{'; different: ' if different else ''}")


def _group(
    group: Group, found: ClusterSummary, texts: Mapping[str, str], everyone: Sequence[str]
) -> Iterator[Line]:
    """What only the nodes of ``group`` have."""
    yield Line(named(group.nodes, everyone), Style.HEAD)
    names = [
        name for name in dict.fromkeys(entry.layer for entry in group.entries) if name not in found.layers
    ]
    yield from _items("layers", [f"{name} ({texts[name]})" if name in texts else name for name in names])
    yield from _items("paths", list(places_text(group.places)))
    yield from _items("different", list(places_text(group.varying)))


def _items(label: str, items: Sequence[str], most: int = _LINES, start: str = "") -> Iterator[Line]:
    width = columns()
    lines = listed(items, width - _INDENT if width < sys.maxsize else width, most, start)
    for number, text in enumerate(lines):
        yield Line(f"  {'' if number else label:<{_INDENT - 2}}{text}")
