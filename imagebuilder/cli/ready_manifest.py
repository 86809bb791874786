"""What ready layers put into a new manifest: their names, on the roles that they are for, and variables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imagebuilder.overlay import layer
from imagebuilder.overlay.needs import Variable
from imagebuilder.resources import shipped

ROLES = ("master", "worker")
"""The roles of the nodes in a new manifest. Without workers there is only the first."""


@dataclass(frozen=True)
class ReadyLayer:
    """A ready layer: its name, the roles that it is for, its variables by name."""

    name: str
    roles: tuple[str, ...]
    variables: dict[str, Variable]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The variables that are secrets of the cluster, and can be made of anything."""
        return tuple(name for name, one in self.variables.items() if one.secret)

    @property
    def to_fill_in(self) -> tuple[str, ...]:
        """The variables that the user must give a value: no secrets, and without a default."""
        return tuple(
            name
            for name, one in self.variables.items()
            if not one.secret and (one.required or one.example == "")
        )


def read_ready(name: str) -> ReadyLayer:
    """The ready layer ``name``, which must be one of ``ready_layers()``."""
    declared = layer.read(name, shipped("overlays") / name).declared
    return ReadyLayer(name, tuple(declared.for_roles), declared.vars)


def section(chosen: Sequence[ReadyLayer], roles: Sequence[str]) -> str:
    """The tables of a manifest for ready layers on nodes with these ``roles``; empty without any layer."""
    return "".join(_tables(chosen, roles))


def _tables(chosen: Sequence[ReadyLayer], roles: Sequence[str]) -> Iterator[str]:
    for role in roles:
        if names := [each.name for each in chosen if role in each.roles]:
            listed = ", ".join(f'"{name}"' for name in names)
            yield f"[role.{role}]\n# docs/recipes.md says what each of them does\nlayers = [{listed}]\n\n"
    if any(each.variables for each in chosen):
        yield "[vars]\n"
        for each in chosen:
            for name, one in each.variables.items():
                mark = "" if one.secret else "# "
                yield f"# {each.name}: {one.about}\n{mark}{one.line(name)}\n"
        yield "\n"
