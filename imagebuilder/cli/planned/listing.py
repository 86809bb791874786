"""All entries of each node: `piimg plan --full`."""

from collections.abc import Iterator, Mapping, Sequence

from imagebuilder.cli.output import Line, Style
from imagebuilder.cli.planned.wording import mode_of, owner_text
from imagebuilder.cli.tables import columns
from imagebuilder.model import Entry, Kind, NodePlan
from imagebuilder.plan import board_notes
from imagebuilder.summary import descriptions


def full_list(plans: Sequence[NodePlan]) -> Iterator[Line]:
    """The entries of each node in the order in which they are applied, and what the layers are for."""
    for number, plan in enumerate(plans):
        if number:
            yield Line()
        yield from _node(plan)
    yield from _layers(descriptions(plans))


def _node(plan: NodePlan) -> Iterator[Line]:
    node, most = plan.node, columns()
    yield Line(
        f"{node.name}: {node.role}, {node.board.title}, {node.address or 'DHCP'}, {plan.release}", Style.HEAD
    )
    yield Line(f"  layers: {', '.join(plan.layers)}")
    yield from (Line(f"  note: {note}") for note in board_notes(node, plan.release))
    software = plan.software
    yield from (Line(f"  package   {name} ({', '.join(by)})") for name, by in software.packages.items())
    yield from (Line(f"  build.d   {script.name} (layer {script.layer})") for script in software.scripts)
    width = max((len(entry.layer) for entry in plan.entries), default=0)
    for entry in plan.entries:
        owner = owner_text(entry.uid, entry.gid)
        line = f"  {entry.kind.value:<9} {mode_of(entry) or '   -'} {owner:<4}  {entry.layer:<{width}}  "
        indent = len(line)
        line += f"{entry.partition.value}{entry.path}"
        for note in _notes(entry):
            if len(line) + 1 + len(note) <= most:
                line += f" {note}"
            else:
                yield Line(line)
                line = f"{' ' * indent}  {note}"
        yield Line(line)


def _notes(entry: Entry) -> Iterator[str]:
    if entry.target:
        yield f"-> {entry.target}"
    if entry.kind is Kind.NETPLAN:
        yield f"(of the base image: removed if it sets up {', '.join(entry.content.decode().split())})"
    if entry.download:
        yield f"({'unpacked ' if entry.download.unpack else ''}from {entry.download.url})"
    if entry.section:
        yield f"(under {entry.section})"
    if entry.secret:
        yield "(secret)"
    if entry.overrides:
        yield f"(overrides {', '.join(entry.overrides)})"


def _layers(texts: Mapping[str, str]) -> Iterator[Line]:
    width = max(map(len, texts), default=0)
    if texts:
        yield Line()
        yield Line("layers", Style.HEAD)
    yield from (Line(f"  {name:<{width}}  {text}") for name, text in texts.items())
