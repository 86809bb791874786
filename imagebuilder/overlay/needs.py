"""What a layer needs of the manifest: variables of ``[vars]``, and conditions, each with its error."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from imagebuilder.errors import UsageError
from imagebuilder.model import Secret, Value
from imagebuilder.overlay.rendering import TemplateRenderer


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one line without control characters")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise ValueError(f"{value!r} is not a name of a-z, 0-9 and _")
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from None
    return value


OneLine = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[str, AfterValidator(_name)]
Pattern = Annotated[OneLine, AfterValidator(_pattern)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Variable(_Model):
    """``[vars.NAME]``: a variable of the manifest's ``[vars]`` that the layer reads.

    ``example`` is the default, or for one that is ``required`` a value that shows the form; a value must have
    its type, and match the regular expression ``matches`` as a whole. ``when``: it is required only if this
    expression holds.
    """

    about: OneLine
    example: OneLine | int | bool = ""
    matches: Pattern | None = None
    secret: bool = False
    required: bool = False
    when: str | None = None

    def line(self, name: str) -> str:
        """The line of a manifest that sets the variable to its example, or to a secret of its name."""
        value = f'{{ secret = "{name}" }}' if self.secret else json.dumps(self.example, ensure_ascii=False)
        return f"{name} = {value}"

    @model_validator(mode="after")
    def _only_text_matches(self) -> Self:
        if self.matches is not None and (self.secret or not isinstance(self.example, str)):
            raise ValueError("takes matches only if it is a text, and no secret")
        if self.matches is not None and self.example and not re.fullmatch(self.matches, str(self.example)):
            raise ValueError("has an example that does not match")
        return self


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
    for name, variable in variables.items():
        if name in renderer.vars:
            _check_value(layer, file, name, variable, renderer)
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


def _check_value(layer: str, file: Path, name: str, variable: Variable, renderer: TemplateRenderer) -> None:
    """Raise UsageError if the value of a variable that the manifest has is none for the layer."""
    value = renderer.vars[name]
    place = f"{renderer.node}: the layer {layer}: {name} in [vars]"
    line = variable.line(name)
    if variable.secret:
        if not isinstance(value, Secret):  # it may be the secret itself: it is not shown
            raise UsageError(
                f"{place} must name a secret, and not contain it: {variable.about}",
                f"write {line}, and give the value with: piimg secrets set {name}",
            )
        if value.name in renderer.secrets and not renderer.secrets[value.name].strip():
            raise UsageError(
                f"{place}: the secret {value.name} is empty: {variable.about}",
                f"give it a value: piimg secrets set {value.name}",
            )
    elif type(value) is not type(variable.example):
        kind = _KINDS[type(variable.example)]
        raise UsageError(f"{place} must be {kind}, not {_shown(value)}: {variable.about}", f"such as {line}")
    elif variable.matches is not None:
        # by a template, whose time is limited: some regular expressions take for ever
        expression = f"cluster.vars.{name} is matching({variable.matches!a})"
        if not renderer.holds(expression, f"{file}: matches of vars.{name}"):
            hint = f"such as {line}" if variable.example else f"it must match {variable.matches}"
            raise UsageError(f"{place} cannot be {_shown(value)}: {variable.about}", hint)


_KINDS = {bool: "true or false", int: "a number", str: "a text"}


def _shown(value: Value) -> str:
    """The value as the manifest has it, cut if it is long."""
    if isinstance(value, Secret):
        return "a secret"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_SHOWN = 100  # characters


def check_files(layer: str, node: str, needs: Sequence[Need], paths: Collection[str]) -> None:
    """Raise UsageError if a file that ``layer`` needs is not among ``paths``, those of all layers."""
    for need in needs:
        if need.file is not None and not any(fnmatchcase(path, need.file) for path in paths):
            raise UsageError(f"{node}: the layer {layer} {need.message}", need.hint)
