"""TOML texts for fuzzing: random documents, and changes of a good one."""

import json
from collections.abc import Sequence

from hypothesis import strategies as st


def quoted(text: str) -> str:
    """A text as a TOML string (what JSON escapes, TOML escapes alike)."""
    return json.dumps(text)


SCALARS: st.SearchStrategy[str] = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12).map(quoted),
    st.integers().map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.floats().map(str),
    st.sampled_from(["1979-05-27", "07:32:00", '"10.0.0.0/24"', '"10.0.0.1"', '{ secret = "x" }', '"pi-4b"']),
)


def values(keys: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Scalars, lists and inline tables of them."""
    return st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
            st.dictionaries(keys, inner, max_size=3).map(
                lambda table: f"{{ {', '.join(f'{key} = {value}' for key, value in table.items())} }}"
            ),
        ),
        max_leaves=6,
    )


def documents(words: Sequence[str]) -> st.SearchStrategy[str]:
    """Documents with tables and keys called by ``words`` or anything else."""
    keys = st.sampled_from([*words]) | st.text(st.characters(codec="utf-8"), max_size=6).map(quoted)
    body = st.dictionaries(keys, values(keys), max_size=4)
    tables = st.tuples(st.sampled_from(["[{}]", "[[{}]]", "[{}.x]"]), keys, body)
    return st.tuples(body, st.lists(tables, max_size=5)).map(
        lambda drawn: "\n".join(
            [_lines(drawn[0]), *(f"{form.format(key)}\n{_lines(inner)}" for form, key, inner in drawn[1])]
        )
    )


def _lines(table: dict[str, str]) -> str:
    return "\n".join(f"{key} = {value}" for key, value in table.items())


@st.composite
def mutated(draw: st.DrawFn, text: str) -> bytes:
    """``text`` with one to four changes: a value replaced, a line lost, doubled or moved, a byte changed."""
    lines = text.split("\n")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["value", "lose", "double", "move", "key"])):
            case "value" if "=" in lines[at]:
                key = lines[at].partition("=")[0]
                lines[at] = f"{key}= {draw(values(st.just('secret')))}"
            case "key" if "=" in lines[at]:
                lines[at] = f"{draw(st.sampled_from(['name', 'role', 'x']))} ={lines[at].partition('=')[2]}"
            case "double":
                lines.insert(at, lines[at])
            case "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            case _ if len(lines) > 1:
                del lines[at]
    raw = "\n".join(lines).encode()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=2)) + raw[at + 1 :]
    return raw
