"""What a layer needs of the manifest: a missing variable or condition is an error of one sentence."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.model import Release, Secret, Value
from imagebuilder.overlay import layer
from imagebuilder.overlay.merge import merge
from imagebuilder.overlay.needs import Variable
from imagebuilder.overlay.rendering import TemplateRenderer
from tests.integration.overlays.rendered import cluster
from tests.unit.overlay.making import CREDENTIALS, entries, merged, refused, rendering, write

FOUND = {
    "required": (
        '[vars.size]\nabout = "how large it is"\nexample = "2G"\nrequired = true',
        ("master: the layer mine needs size in [vars]: how large it is", 'such as size = "2G"'),
    ),
    "a secret": (
        '[vars.token]\nabout = "what opens it"\nsecret = true\nrequired = true',
        (
            "master: the layer mine needs token in [vars]: what opens it",
            'such as token = { secret = "token" }',
        ),
    ),
    "required here": (
        '[vars.size]\nabout = "how large"\nexample = 3\nrequired = true\nwhen = "node.is_gateway"',
        ("master: the layer mine needs size in [vars]: how large", "such as size = 3"),
    ),
    "required elsewhere": (
        '[vars.size]\nabout = "how large"\nrequired = true\nwhen = "not node.is_gateway"',
        None,
    ),
    "not required": ('[vars.size]\nabout = "how large"', None),
    "a need": (
        '[[needs]]\nthat = "not node.is_gateway"\nmessage = "is for workers"\nhint = "remove it"',
        ("master: the layer mine is for workers", "remove it"),
    ),
    "a need that is met": (
        '[[needs]]\nthat = "node.is_gateway"\nmessage = "is for the gateway"\nhint = "remove it"',
        None,
    ),
    "a file": (
        '[[needs]]\nfile = "root/srv/*.img"\nmessage = "needs an image"\nhint = "put one there"',
        ("master: the layer mine needs an image", "put one there"),
    ),
    "a file that is there": (
        '[[needs]]\nfile = "root/etc/*"\nmessage = "needs a file"\nhint = "put one there"',
        None,
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_is_missing_is_one_sentence(case: str, tmp_path: Path) -> None:
    text, said = FOUND[case]
    files = {"layer.toml": text, "root/etc/x": "x"}
    if said is None:
        assert "root/etc/x" in entries(tmp_path / "mine", files)
        return
    with pytest.raises(UsageError) as error:
        entries(tmp_path / "mine", files)
    assert (error.value.message, error.value.hint) == said


def test_a_file_may_be_of_another_layer(tmp_path: Path) -> None:
    need = '[[needs]]\nfile = "root/etc/given"\nmessage = "needs a file"\nhint = "put one there"'
    first = write(tmp_path / "first", {"layer.toml": need})
    second = write(tmp_path / "second", {"root/etc/given": "x"})
    assert [entry.path for entry in merged(first, second)] == ["/etc/given"]


@pytest.mark.parametrize("example", ["", 'a "b" \\ ü', 7, True])
def test_the_line_of_a_manifest_is_toml(example: str | int | bool) -> None:
    assert tomllib.loads(Variable(about="x", example=example).line("size")) == {"size": example}


def given(
    folder: Path, table: str, value: Value, secrets: Mapping[str, str] | None = None
) -> UsageError | None:
    """The error of a layer with one variable ``x``, which the manifest sets to ``value``."""
    toml = f'[vars.x]\nabout = "what it is"\n{table}'
    found = dataclasses.replace(cluster(), vars={"x": value})
    credentials = dataclasses.replace(CREDENTIALS, secrets=secrets or {})
    renderer = TemplateRenderer(rendering(), found, found.node("master"), Release.TRIXIE, credentials)
    mine = layer.read("mine", write(folder / "mine", {"layer.toml": toml, "root/etc/x": "x"}))
    try:
        merge([mine], renderer)
    except UsageError as error:
        return error
    return None


BOOL, NUMBER, TEXT = "example = false", "example = 3", 'example = "2G"'
OTHER: list[tuple[str, Value, str]] = [
    (BOOL, "false", 'must be true or false, not "false"'),
    (BOOL, 1, "must be true or false, not 1"),
    (BOOL, Secret("y"), "must be true or false, not a secret"),
    (NUMBER, True, "must be a number, not true"),
    (NUMBER, "3", 'must be a number, not "3"'),
    (TEXT, 3, "must be a text, not 3"),
    (TEXT, Secret("y"), "must be a text, not a secret"),
    ("", False, "must be a text, not false"),
    ("", 10**18, "must be a text, not 1000000000000000000"),
]


@pytest.mark.parametrize(("table", "value", "said"), OTHER)
def test_a_value_has_the_type_of_the_example(table: str, value: Value, said: str, tmp_path: Path) -> None:
    error = given(tmp_path, table, value, {"y": "hidden"})
    assert error is not None
    assert error.message == f"master: the layer mine: x in [vars] {said}: what it is"
    assert error.hint.startswith("such as x = ")


@pytest.mark.parametrize(
    ("table", "value"), [(BOOL, True), (BOOL, False), (NUMBER, 0), (TEXT, ""), ("", "any text")]
)
def test_a_value_of_this_type_is_accepted(table: str, value: Value, tmp_path: Path) -> None:
    assert given(tmp_path, table, value) is None


@pytest.mark.parametrize("value", ["hunter2", "", True, 7])
def test_a_secret_is_not_in_the_manifest_itself(value: Value, tmp_path: Path) -> None:
    error = given(tmp_path, "secret = true", value)
    assert error is not None
    assert error.message == (
        "master: the layer mine: x in [vars] must name a secret, and not contain it: what it is"
    )
    assert error.hint == 'write x = { secret = "x" }, and give the value with: piimg secrets set x'


@pytest.mark.parametrize("value", ["", " \n"])
def test_a_secret_is_not_empty(value: str, tmp_path: Path) -> None:
    error = given(tmp_path, "secret = true", Secret("y"), {"y": value})
    assert error is not None
    assert error.message == "master: the layer mine: x in [vars]: the secret y is empty: what it is"
    assert error.hint == "give it a value: piimg secrets set y"
    assert given(tmp_path, "secret = true", Secret("y"), {"y": "z"}) is None


MATCHES = """matches = "[a-z'é]+[.]x"\n"""


@pytest.mark.parametrize("value", ["", "a.y", "a.x\n", "A.x", "b a.x", "a" * 300])
def test_a_text_must_match(value: str, tmp_path: Path) -> None:
    error = given(tmp_path, MATCHES, value)
    assert error is not None
    assert error.message.startswith('master: the layer mine: x in [vars] cannot be "')
    assert error.message.endswith(": what it is") and error.message.isprintable()
    assert error.hint == "it must match [a-z'é]+[.]x"
    example = given(tmp_path, f'{MATCHES}example = "good.x"', value)
    assert example is not None and example.hint == 'such as x = "good.x"'


@pytest.mark.parametrize("value", ["a.x", "d'été.x"])
def test_a_text_that_matches_is_accepted(value: str, tmp_path: Path) -> None:
    assert given(tmp_path, MATCHES, value) is None


def test_a_regular_expression_without_end_is_ended(tmp_path: Path) -> None:
    error = given(tmp_path, 'matches = "(a+)+b"', "a" * 60)
    assert error is not None and "layer.toml: matches of vars.x: takes more than 2 seconds" in error.message


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('matches = "("', "'(' is not a regular expression"),
        ('matches = "[a-z]+"\nexample = 3', "takes matches only if it is a text, and no secret"),
        ('matches = "[a-z]+"\nsecret = true', "takes matches only if it is a text, and no secret"),
        ('matches = "[a-z]+"\nexample = "3"', "has an example that does not match"),
    ],
)
def test_what_matches_is_checked_when_the_layer_is_read(table: str, said: str, tmp_path: Path) -> None:
    text = f'[vars.x]\nabout = "what it is"\n{table}'
    assert said in refused(tmp_path / "mine", {"layer.toml": text})
