"""What no output option may name: the inputs of the cluster folder, and the other files of the same command.

A command replaces the file that an output option names, without a question. One wrong word would replace the
manifest or the secrets by a page.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from imagebuilder.base.catalogue import is_file, lookup
from imagebuilder.cli.file_path import Output
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.keys.missing import NOTE
from imagebuilder.resources import shipped
from imagebuilder.workspace import Workspace, shipped_catalogue

_FILES = {
    "secrets.toml": "the secrets of the cluster",
    NOTE: "the names of the cluster's keys",
    "images.toml": "the cluster's base images",
}
_FOLDERS = {"overlays": "the cluster's own layers", "state": "the keys and the history of the cluster"}


def refuse_inputs(workspace: Workspace | None, context: click.Context) -> None:
    """Raise UsageError when an output option of the command names an input.

    The inputs are those of the cluster folder, if there is one, the log, and the files that other options of
    the command name.
    """
    given = _given(context)
    outputs = {name: path for name, (path, is_output) in given.items() if is_output}
    if not outputs:
        return
    known = dict(_base(workspace))
    log = context.find_root().params.get("log_file")
    if log is not None:
        known[log] = "the log"
    for name, (path, is_output) in given.items():
        if not is_output and not path.is_dir():  # a folder of images may get the report
            known[path] = f"the file of {name}"
    for name, path in outputs.items():
        refuse_replaced(workspace, name, path, known)


def refuse_built(workspace: Workspace, paths: Iterable[Path]) -> None:
    """Raise UsageError when one of ``paths``, the results of a build, is an input."""
    for path in paths:
        refuse_replaced(workspace, "--output", path, _base(workspace))


def refuse_replaced(
    workspace: Workspace | None, option: str, target: Path, more: Mapping[Path, str] | None = None
) -> None:
    """Raise UsageError when the ``target`` of ``option`` is an input, or one of ``more``.

    ``more`` has what each of its files is. The manifest may have errors.
    """
    places = _places(target)
    for path, what in {**_inputs(workspace), **(more or {})}.items():
        real = Path(os.path.realpath(path))
        for place in places if real.is_dir() else places[:1]:
            if place == real or _same(place, real):
                inside = "" if place == places[0] else "in "
                raise UsageError(f"{option} {target} is {inside}{path}: {what}", "name a file of its own")


def _inputs(workspace: Workspace | None) -> Mapping[Path, str]:
    """The inputs of the cluster folder, with what each is; a folder stands for all in it."""
    known = {shipped("overlays"): "piimg's own layers", shipped_catalogue(): "piimg's own base images"}
    if workspace is not None:
        known[workspace.file] = "the cluster manifest"
        for name, what in {**_FILES, **_FOLDERS}.items():
            known[workspace.folder / name] = what
    return known


def _base(workspace: Workspace | None) -> Mapping[Path, str]:
    """The base image of the manifest, if it is a file."""
    if workspace is None:
        return {}
    try:
        base = lookup(workspace.cluster.base, workspace.catalogues, workspace.folder)
    except PiimgError:
        return {}
    return {} if base.file is None else {base.file: "the base image"}


def _given(context: click.Context) -> Mapping[str, tuple[Path, bool]]:
    """The paths on the command line by the names of their options, and whether each is an output."""
    named = {
        max(param.opts, key=len): (Path(context.params[param.name]), isinstance(param.type, Output))
        for param in context.command.params
        if param.name and isinstance(param.type, click.Path) and _is_one(context.params.get(param.name))
    }
    base = context.params.get("base")
    return {**named, "--base": (Path(base), False)} if base and is_file(base) else named


def _is_one(value: Any) -> bool:
    return isinstance(value, (str, Path)) and str(value) != "-"


def _places(target: Path) -> list[Path]:
    """Where ``target`` leads to, without links, and the folders above it."""
    real = Path(os.path.realpath(target))
    return [real, *real.parents]


def _same(one: Path, other: Path) -> bool:
    """Whether both are the same file by another name: a hard link, a bind mount, FAT's capitals."""
    try:
        return one.samefile(other)
    except OSError:
        return False
