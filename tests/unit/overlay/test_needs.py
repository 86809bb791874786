"""What a layer needs of the manifest: a missing variable or condition is an error of one sentence."""

import tomllib
from pathlib import Path

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.overlay.needs import Variable
from tests.unit.overlay.making import entries, merged, write

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
