"""Jinja2's sandbox with limits: endless templates and endless output are refused.

Limited are the iterations of loops, the calls, the output, and the results of ``*`` and ``**``. These limits
are the same on every machine. All other operations (``|center(10000000000)``) are limited by the process
(bounds.py).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateRuntimeError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from imagebuilder.overlay.bounds import OUTPUT

STEP_LIMIT = 200_000  # iterations of loops and calls in one template
_NUMBER_LIMIT = 4096  # bits
_KEPT = 500  # compiled templates, and as many expressions, that are kept for the other nodes
_KEPT_LENGTH = 32 << 10  # characters of a template that is kept: the process may use little memory


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment without a loader: a template can compute text, nothing else."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
        )
        del self.globals["lipsum"], self.filters["random"]  # the same inputs give the same output
        self.filters["_counted"] = self._counted
        self.tests["matching"] = _matching
        self._steps = 0
        self._codes: dict[tuple[str, str], CodeType] = {}
        self._expressions: dict[str, Callable[..., Any]] = {}

    def text(self, source: str, place: str, names: Mapping[str, object]) -> str:
        """The output of the template ``source``; ``place`` is its file name in tracebacks."""
        code = self._codes.get((source, place)) or self._compiled(source, place)
        template = Template.from_code(self, code, self.make_globals(None))
        self._steps = 0
        return "".join(_bounded(template.generate(names)))

    def _compiled(self, source: str, place: str) -> CodeType:
        tree = self.parse(source, place, place)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None)
        code = self.compile(tree, place, place)
        if len(source) <= _KEPT_LENGTH and len(self._codes) < _KEPT:
            self._codes[source, place] = code
        return code

    def value(self, expression: str, names: Mapping[str, object]) -> object:
        """The value of an expression."""
        self._steps = 0
        compiled = self._expressions.get(expression)
        if compiled is None:
            compiled = self.compile_expression(expression, undefined_to_none=False)
            if len(expression) <= _KEPT_LENGTH and len(self._expressions) < _KEPT:
                self._expressions[expression] = compiled
        return compiled(names)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > STEP_LIMIT:
            raise TemplateRuntimeError(f"more than {STEP_LIMIT} iterations of loops and calls")

    def _counted(self, items: Iterable[object]) -> Iterator[object]:
        for item in items:
            self._step()
            yield item

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call ``obj`` for a template, if it is safe."""
        self._step()
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """``left * right`` or ``left ** right``, unless the result would be too large."""
        if isinstance(left, int) and isinstance(right, int):
            bits = (
                left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            )
            too_much = bits > _NUMBER_LIMIT
        elif operator == "*":
            too_much = _length(left) * _length(right) > OUTPUT
        else:
            too_much = False
        if too_much:
            raise TemplateRuntimeError(f"the result of {operator} would be too large")
        return super().call_binop(context, operator, left, right)


def _matching(value: object, pattern: str) -> bool:
    """Whether the regular expression matches the whole text."""
    return re.fullmatch(pattern, str(value)) is not None


def _length(value: Any) -> int:
    """The length of a text or a list; for a number, the number of repetitions."""
    return abs(value) if isinstance(value, int) else len(value) if hasattr(value, "__len__") else 1


def _bounded(parts: Iterable[str]) -> Iterator[str]:
    length = 0
    for part in parts:
        length += len(part)
        if length > OUTPUT:
            raise TemplateRuntimeError("the output is larger than 16 MiB")
        yield part
