"""`piimg plan`: what each node gets, before anything is built. Needs no root, no image and no network."""

import hashlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence

import click

from imagebuilder.base.catalogue import lookup
from imagebuilder.cli.options import named_nodes
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.secrets import gather
from imagebuilder.cli.session import Session, chosen_nodes, tell_of_idle_layers
from imagebuilder.errors import UsageError
from imagebuilder.image.results import entry_document
from imagebuilder.model import Entry, Kind, Node, NodePlan, Release
from imagebuilder.overlay.layer import USER_ID
from imagebuilder.plan import board_notes, plan_nodes

EXAMPLES = """\b
Examples:
  piimg plan                          every node of the manifest
  piimg plan --node worker2           one node
  piimg plan --json | jq '.nodes[].entries[].path'
  piimg plan --matrix                 the jobs of a CI matrix, one a node
"""


@click.command("plan", epilog=EXAMPLES, short_help="Show what each node gets.")
@named_nodes("Only this node (repeatable).")
@click.option("--release", type=click.Choice([r.value for r in Release]), help="Plan for this release.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON document.")
@click.option("--matrix", is_flag=True, help="Print the jobs of a CI matrix, a node each. Needs no secret.")
@click.pass_obj
def plan(session: Session, nodes: tuple[str, ...], release: str | None, as_json: bool, matrix: bool) -> None:
    """Show what each node gets: every entry with its mode, owner and layer, and what it overrides."""
    cluster = session.cluster
    chosen = chosen_nodes(cluster, nodes, every=not nodes)
    if matrix:
        if as_json:
            raise UsageError("--json and --matrix exclude each other", "--matrix is JSON already")
        echo_json(_matrix(session, chosen, release), None)
        return
    named = Release(release) if release else session.workspace.release
    # Nothing is kept: keys that the cluster does not have yet are made when it is built.
    credentials = gather(session.workspace, session.workspace.keys(keep=False), session.reporter)
    plans = plan_nodes(cluster, chosen, named, credentials, session.workspace.overlays)
    tell_of_idle_layers(session)
    if as_json:
        nodes_as_data = [_document(one) for one in plans]
        echo_json({"cluster": cluster.name, "layers": _descriptions(plans), "nodes": nodes_as_data})
        return
    for number, one in enumerate(plans):
        _print(one, first=number == 0)
    _print_layers(_descriptions(plans))


def _matrix(session: Session, nodes: Sequence[Node], release: str | None) -> dict[str, object]:
    """A GitHub Actions matrix, a job for each node. ``cache`` is another one when the base image is another.

    That is so for a pinned base image; of one that is not, only its name can be told from another.
    """
    cluster = session.cluster
    base = lookup(cluster.base, session.workspace.catalogues, session.workspace.folder)
    known = release or cluster.release or base.release or ""  # else the job will see it in the image
    pin = base.sha256 or base.extract_sha256 or hashlib.sha256(cluster.base.encode()).hexdigest()
    return {
        "include": [
            {
                "node": node.name,
                "role": node.role,
                "board": node.board.name,
                "release": known,
                "base": base.name,
                "cache": f"piimg-base-{pin}",
            }
            for node in nodes
        ]
    }


def _document(one: NodePlan) -> dict[str, object]:
    return {
        "node": one.node.name,
        "role": one.node.role,
        "board": one.node.board.name,
        "address": str(one.node.address),
        "release": one.release.value,
        "layers": list(one.layers),
        "notes": list(board_notes(one.node)),
        "entries": [entry_document(entry) for entry in one.entries],
    }


def _print(one: NodePlan, first: bool) -> None:
    if not first:
        echo()
    node = one.node
    echo(f"{node.name}: {node.role}, {node.board.title}, {node.address}, {one.release}", bold=True)
    echo(f"  layers: {', '.join(one.layers)}")
    for note in board_notes(node):
        echo(f"  note: {note}")
    width = max((len(entry.layer) for entry in one.entries), default=0)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for entry in one.entries:
        mode = f"{entry.mode:04o}" if entry.kind in (Kind.FILE, Kind.DIRECTORY) else "   -"
        line = f"  {entry.kind.value:<9} {mode} {_owner(entry):<4}  {entry.layer:<{width}}  "
        indent = len(line)
        line += f"{entry.partition.value}{entry.path}"
        for more in _notes(entry):
            fits = len(line.rpartition("\n")[2]) + 1 + len(more) <= columns
            line += f" {more}" if fits else f"\n{' ' * indent}  {more}"
        echo(line)


def _descriptions(plans: Sequence[NodePlan]) -> dict[str, str]:
    """What each layer of the nodes is for, where it says so."""
    return {name: text for one in plans for name, text in one.descriptions.items()}


def _print_layers(descriptions: Mapping[str, str]) -> None:
    width = max(map(len, descriptions), default=0)
    if descriptions:
        echo("\nlayers", bold=True)
    for name, text in descriptions.items():
        echo(f"  {name:<{width}}  {text}")


def _notes(entry: Entry) -> Iterator[str]:
    if entry.target:
        yield f"-> {entry.target}"
    if entry.kind is Kind.NETPLAN:
        yield f"(of the base image: removed if it sets up {', '.join(entry.content.decode().split())})"
    if entry.section:
        yield f"(under {entry.section})"
    if entry.secret:
        yield "(secret)"
    if entry.overrides:
        yield f"(overrides {', '.join(entry.overrides)})"


def _owner(entry: Entry) -> str:
    known = {(0, 0): "root", (USER_ID, USER_ID): "user"}
    return known.get((entry.uid, entry.gid), f"{entry.uid}:{entry.gid}")
