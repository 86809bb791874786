"""What is particular to a release or a network stack is in model.py, networks.py and a layer."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import imagebuilder
from imagebuilder.model import Release
from imagebuilder.networks import NETWORK_STACKS
from imagebuilder.settings import SwapKind
from tests.support.checkout import TOP

PACKAGE = Path(imagebuilder.__file__).parent
OWNERS = ("model.py", "networks.py")
NAMES = {*Release, *(stack.name for stack in NETWORK_STACKS)}
QUOTED = re.compile(rf"""["'](?:{"|".join(Release)})["']""")
SHOWN = "{{ cluster.release }}"
WORD = re.compile(rf"\b(?:{'|'.join(Release)})\b")
OTHERS: Mapping[tuple[str, str], str] = {
    ("cli/usage/fetch.py", "trixie"): "an example in the help",
    ("workspace.py", "bookworm"): "an example in a hint",
    ("boot/kernel.py", "bookworm"): "where the companion kernel comes from, whatever release a node has",
    **{
        ("cli/usage/plan.py", str(name)): "the values of --release; test_starting.py compares"
        for name in Release
    },
}
"""Module and name of every other mention, and why it decides nothing by release."""


def mentions(source: str) -> Iterator[str]:
    """The releases and stacks that a module names in code: as members of Release, or in a text."""
    tree = ast.parse(source)
    about = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}  # docstrings
    for one in ast.walk(tree):
        is_member = isinstance(one, ast.Attribute) and getattr(one.value, "id", "") == "Release"
        if isinstance(one, ast.Attribute) and is_member and one.attr in Release.__members__:
            yield Release[one.attr]
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in about:
            yield from {one.value} & NAMES
            yield from WORD.findall(one.value)


def decisions(text: str) -> list[str]:
    """The lines of a layer's file that ask which release it is: they compare its name, or have a name."""
    asked = [line for line in text.splitlines() if "cluster.release" in line.replace(SHOWN, "")]
    return asked + [line for line in text.splitlines() if QUOTED.search(line)]


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_nobody_else_decides_by_release(file: Path) -> None:
    module = str(file.relative_to(PACKAGE))
    found = {name for name in mentions(file.read_text()) if (module, name) not in OTHERS}
    assert module in OWNERS or not found, (
        f"{module} names {found}: what is particular to it goes into {OWNERS}"
    )


def test_a_mention_is_seen() -> None:
    source = 'if release is Release.TRIXIE:\n    own = "dhcpcd" if x == "bullseye" else Release.lower\n'
    assert set(mentions(source)) == {"trixie", "dhcpcd", "bullseye"}
    assert set(mentions('"""As bullseye."""\nBASE = "raspios-bookworm-lite"\n')) == {"bookworm"}


def test_no_layer_decides_by_release() -> None:
    files = [file for file in sorted((TOP / "overlays").rglob("*")) if file.is_file()]
    found = {str(file.relative_to(TOP)): decisions(file.read_text("utf-8", "replace")) for file in files}
    assert {file: lines for file, lines in found.items() if lines} == {}, (
        "a fact of Programs (model.py) is what a layer asks for: the next release would get the other branch"
    )


def test_a_decision_of_a_layer_is_seen() -> None:
    assert decisions("when = \"cluster.release != 'x'\"")
    assert decisions('{% if codename in ("trixie", "forky") %}')
    assert decisions("RELEASE='{{ cluster.release }}'  # Trixie") == []


@pytest.mark.parametrize("release", Release)
def test_a_release_has_its_facts_and_layers(release: Release) -> None:
    facts = release.facts
    layers = {f"os-{release}", *filter(None, [facts.network.layer])}
    for kind in SwapKind:
        layers |= set(facts.swap_layers[kind]) if kind is not SwapKind.DEFAULT else set()
    assert [name for name in layers if not (TOP / "overlays" / name / "layer.toml").is_file()] == []
    assert facts.network in NETWORK_STACKS
