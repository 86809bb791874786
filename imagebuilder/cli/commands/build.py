"""`piimg build`: build each node's image from the base image and the node's overlay."""

import os
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.builder import build_nodes, opened_base
from imagebuilder.cli.format import size
from imagebuilder.cli.inputs import refuse_built
from imagebuilder.cli.keys import usable_keys
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.secrets import gather, secrets
from imagebuilder.cli.session import Session, chosen_nodes, warn_of_idle_layers
from imagebuilder.cli.signals import graceful_stop
from imagebuilder.cli.status import name_outdated
from imagebuilder.events import Message
from imagebuilder.image.build import NodeImage
from imagebuilder.image.results import Results, read_document
from imagebuilder.plan import board_notes, plan_nodes
from imagebuilder.requirements.uses import sudo_is_not_needed
from imagebuilder.system.cleanup import free_leftovers

_STOPPING = "stopping and cleaning up …"


def build(
    session: Session,
    nodes: tuple[str, ...],
    every: bool,
    base: str | None,
    new_keys: bool,
    output: Path | None,
    jobs: int | None,
    refresh: bool,
    as_json: bool,
) -> None:
    """Run ``piimg build``, called as ``usage/build.py`` says."""
    chosen = chosen_nodes(session.cluster, nodes, every)
    workspace, reporter = session.workspace, session.reporter
    results = [Results(output or workspace.images, node.name) for node in chosen]
    refuse_built(workspace, (file for result in results for file in result.files))
    if sudo_is_not_needed(workspace.folder):
        text = "sudo is not needed; the result is the same without it, by fuse2fs and more slowly"
        reporter.emit(Message("info", text))
    keys = usable_keys(session, new_keys)
    free_leftovers()
    given = secrets(workspace, reporter)  # before a long download, not after it
    with opened_base(workspace, base or "", reporter=reporter) as opened:
        credentials = gather(workspace, keys, reporter, given)
        plans = plan_nodes(workspace.cluster, chosen, opened.info.release, credentials, workspace.overlays)
        warn_of_idle_layers(session)
        for node in chosen:
            for note in board_notes(node, opened.info.release):
                reporter.emit(Message("info", note, node.name))
            reporter.expect(node.name, opened.file.stat().st_size, node.name)
        with graceful_stop(session.stop, reporter, says=_STOPPING, exits=False) as graceful:
            built = build_nodes(
                workspace.cluster,
                plans,
                opened,
                output or workspace.images,
                jobs=jobs or os.cpu_count() or 1,
                reporter=reporter,
                stop=session.stop,
                refresh=refresh,
            )
            graceful.work_ended()
            session.settle()
            _show(built, as_json)
            name_outdated(session, [node.name for node in chosen], opened, credentials)


def _show(built: Sequence[NodeImage], as_json: bool) -> None:
    """Print what was built."""
    if as_json:
        echo_json([read_document(image.results.json) for image in built])
        return
    for image in built:
        used = image.block_map
        echo(f"{image.results.image}  {size(used.image_size)}, {size(used.used)} in use")
