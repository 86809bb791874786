"""Shell completion: nodes of the manifest, cards, base images, ready layers. Called by click; never raises.

On an error it offers files, or nothing: a message would be printed into the user's command line. A function
imports what it needs itself: a help text needs nothing of it, and one kind of name nothing of another.
"""

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from imagebuilder.cli.manifest_file import manifest_file

if TYPE_CHECKING:
    from pathlib import Path

    from click.shell_completion import CompletionItem


def complete_nodes(context: click.Context, param: click.Parameter, begun: str) -> "list[CompletionItem]":
    """The nodes of the manifest that are not named yet, also if the manifest has errors elsewhere."""
    import tomllib

    from click.shell_completion import CompletionItem

    from imagebuilder import toml
    from imagebuilder.text import printable

    taken = _several(context.params.get(param.name or ""))
    with contextlib.suppress(Exception):
        tables = tomllib.loads(toml.read(manifest_file(_manifest(context))).decode())["node"]
        return [
            CompletionItem(table["name"], help=printable(str(table.get("role", ""))))
            for table in tables
            if table["name"].startswith(begun) and table["name"] not in taken and table["name"].isprintable()
        ]
    return []


def complete_devices(context: click.Context, param: click.Parameter, begun: str) -> "list[CompletionItem]":
    """The cards in the slots, with size and model; files when no card matches."""
    from click.shell_completion import CompletionItem

    taken = {str(path) for path in _several(context.params.get(param.name or ""))}
    cards = []
    with contextlib.suppress(Exception):
        cards = list(_cards(bool(context.params.get("virtual"))))
    free = [(node, about) for node, about in cards if node.startswith(begun) and node not in taken]
    found = [CompletionItem(node, help=about) for node, about in free]
    return found or [CompletionItem(begun, type="file")]


def complete_images(context: click.Context, param: click.Parameter, begun: str) -> "list[CompletionItem]":
    """Files, or cards for a path that begins with /."""
    if begun.startswith("/"):
        return complete_devices(context, param, begun)
    from click.shell_completion import CompletionItem

    return [CompletionItem(begun, type="file")]


def complete_against(context: click.Context, param: click.Parameter, begun: str) -> "list[CompletionItem]":
    """Manifests, folders and images; cards for a path below /dev."""
    from click.shell_completion import CompletionItem

    found = complete_devices(context, param, begun) if begun.startswith("/dev") else []
    return found or [CompletionItem(begun, type="file")]


def complete_paths(context: click.Context, param: click.Parameter, begun: str) -> "list[CompletionItem]":
    """The paths of the files of all layers, as a node has them, or with their partition."""
    from click.shell_completion import CompletionItem

    texts: set[str] = set()
    with contextlib.suppress(Exception):
        for path in _layer_paths(_manifest(context)):
            texts |= {path, path.removeprefix("root")} if path.startswith("root/") else {path}
    return [CompletionItem(text) for text in sorted(texts) if text.startswith(begun) and text.isprintable()]


def complete_ready_layers(
    context: click.Context, param: click.Parameter, begun: str
) -> "list[CompletionItem]":
    """The ready layers that are not named yet, after those before the last comma."""
    from click.shell_completion import CompletionItem

    from imagebuilder.cli.ready_layers import ready_layers

    before, comma, last = begun.rpartition(",")
    texts = [str(value) for value in _several(context.params.get(param.name or ""))]
    taken = {name for text in (*texts, before) for name in text.split(",")}
    with contextlib.suppress(Exception):
        return [
            CompletionItem(f"{before}{comma}{name}", help=about)
            for name, about in ready_layers().items()
            if name.startswith(last) and name not in taken
        ]
    return []


def complete_bases(context: click.Context, param: click.Parameter, begun: str) -> "list[CompletionItem]":
    """The names of base images; files when no name matches."""
    from click.shell_completion import CompletionItem

    found = []
    with contextlib.suppress(Exception):
        names = _names(_manifest(context))
        found = [CompletionItem(name) for name in names if name.startswith(begun)]
    return found or [CompletionItem(begun, type="file")]


def _manifest(context: click.Context) -> "Path | None":
    """The manifest named before the command: click runs no command for completion, so there is no session."""
    from pathlib import Path

    given = context.find_root().params.get("manifest")
    return Path(given) if given else None


def _layer_paths(manifest: "Path | None") -> Iterable[str]:
    from imagebuilder.resources import shipped

    for overlays in (shipped("overlays"), manifest_file(manifest).resolve().parent / "overlays"):
        for file in overlays.rglob("*"):
            parts = file.relative_to(overlays).parts
            at = next((number for number, part in enumerate(parts) if part in ("boot", "root")), None)
            if at is not None and file.is_file():
                yield "/".join(parts[at:]).removesuffix(".j2")


def _several(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _cards(virtual: bool) -> Iterable[tuple[str, str]]:
    from imagebuilder.cli.format import size
    from imagebuilder.device import policy
    from imagebuilder.device.discovery import find_disks

    for disk in find_disks(virtual):
        if disk.has_medium and not policy.kind(disk, virtual):
            yield str(disk.node), f"{size(disk.size)} {disk.model}".strip()


def _names(manifest: "Path | None") -> list[str]:
    from imagebuilder.base import catalogue
    from imagebuilder.cli.progress.choice import renderer
    from imagebuilder.cli.session import Session

    images = catalogue.load(Session(renderer("plain"), manifest).catalogues)
    return sorted({*images, *catalogue.aliases(images)})
