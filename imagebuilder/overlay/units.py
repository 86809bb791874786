"""Enabling and masking systemd units without systemd, by the links that ``systemctl`` would create."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from imagebuilder.errors import UsageError
from imagebuilder.model import Entry, Kind, Partition
from imagebuilder.overlay.content import parse_unit
from imagebuilder.overlay.layer import Layer, check_unit_name

_FOLDER = "/etc/systemd/system"


def links(layer: Layer, entries: Sequence[Entry]) -> Iterator[Entry]:
    """The links for ``[units]`` of ``layer``; ``entries`` are those of the merged overlay.

    A unit whose file the layer leaves out for this node (``when``) is not enabled.
    """
    toml = str(layer.folder / "layer.toml")
    units = layer.declared.units
    own = {source.path for source in layer.sources}
    for unit in units.enable:
        entry = _find(unit, entries)
        if entry is None and f"root{_FOLDER}/{unit}" in own:
            continue
        if entry is None:
            raise UsageError(
                f"{toml}: units.enable names {unit}, which is in no layer of the node",
                f'for a unit of the base image write [units.enable_in] "{unit}" = "multi-user.target"',
            )
        for target in _wanted_by(entry, toml):
            yield _link(layer, toml, f"{_FOLDER}/{target}.wants/{unit}", entry.path)
    for unit, target in units.enable_in.items():
        yield _link(layer, toml, f"{_FOLDER}/{target}.wants/{unit}", f"/usr/lib/systemd/system/{unit}")
    for unit in units.mask:
        yield _link(layer, toml, f"{_FOLDER}/{unit}", "/dev/null")


def _find(unit: str, entries: Sequence[Entry]) -> Entry | None:
    for entry in entries:
        path = PurePosixPath(entry.path)
        if entry.kind is Kind.FILE and path.name == unit and path.parent.name == "system":
            return entry
    return None


def _wanted_by(entry: Entry, toml: str) -> list[str]:
    values = parse_unit(entry.content, entry.source).get(("Install", "WantedBy"), [])
    targets = " ".join(values).split()
    if not targets:
        raise UsageError(
            f"{entry.source}: has no WantedBy= under [Install]", f"add it, as {toml} enables the unit"
        )
    for target in targets:
        try:
            check_unit_name(target)
        except ValueError as error:
            raise UsageError(
                f"{entry.source}: WantedBy= under [Install]: {error}",
                "name a unit, such as multi-user.target",
            ) from None
    return targets


def _link(layer: Layer, toml: str, path: str, target: str) -> Entry:
    return Entry(Partition.ROOT, path, Kind.LINK, layer.name, toml, 0o777, target=target)
