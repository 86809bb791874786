"""What a layer needs of the manifest: variables of ``[vars]``, and conditions, each with its error."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from imagebuilder.errors import UsageError
from imagebuilder.overlay.rendering import TemplateRenderer


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one line without control characters")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise ValueError(f"{value!r} is not a name of a-z, 0-9 and _")
    return value


OneLine = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[str, AfterValidator(_name)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Variable(_Model):
    """``[vars.NAME]``: a variable of the manifest's ``[vars]`` that the layer reads.

    ``example`` is the default, or for one that is ``required`` a value that shows the form. ``when``: it is
    required only if this expression holds.
    """

    about: OneLine
    example: OneLine | int | bool = ""
    secret: bool = False
    required: bool = False
    when: str | None = None

    def line(self, name: str) -> str:
        """The line of a manifest that sets the variable to its example, or to a secret of its name."""
        value = f'{{ secret = "{name}" }}' if self.secret else json.dumps(self.example, ensure_ascii=False)
        return f"{name} = {value}"


class Need(_Model):
    """``[[needs]]``: what must be so for each node with the layer, and the error otherwise.

    ``that`` is an expression that must hold, or ``file`` a file that some layer of the node must have
    ("root/usr/bin/x"; ``*`` stands for any text). The message follows the words "the layer NAME".
    """

    that: str | None = None
    file: str | None = None
    message: OneLine
    hint: OneLine

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.that is None) == (self.file is None):
            raise ValueError("takes one of that and file")
        return self


def check(
    layer: str,
    file: Path,
    needs: Sequence[Need],
    variables: Mapping[str, Variable],
    renderer: TemplateRenderer,
) -> None:
    """Raise UsageError if the manifest lacks what ``layer`` needs; ``file`` is its layer.toml."""
    for number, need in enumerate(needs, start=1):
        if need.that is not None and not renderer.holds(need.that, f"{file}: needs[{number}]"):
            raise UsageError(f"{renderer.node}: the layer {layer} {need.message}", need.hint)
    for name, variable in variables.items():
        place = f"{file}: vars.{name}"
        is_set = f"cluster.vars.{name} is defined"
        if variable.required and renderer.holds(variable.when, place) and not renderer.holds(is_set, place):
            raise UsageError(
                f"{renderer.node}: the layer {layer} needs {name} in [vars]: {variable.about}",
                f"such as {variable.line(name)}",
            )


def check_files(layer: str, node: str, needs: Sequence[Need], paths: Collection[str]) -> None:
    """Raise UsageError if a file that ``layer`` needs is not among ``paths``, those of all layers."""
    for need in needs:
        if need.file is not None and not any(fnmatchcase(path, need.file) for path in paths):
            raise UsageError(f"{node}: the layer {layer} {need.message}", need.hint)
