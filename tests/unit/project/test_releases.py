"""What is particular to a release or a network stack is in model.py, networks.py and a layer."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import imagebuilder
from imagebuilder.model import Release, SwapKind
from imagebuilder.networks import NETWORK_STACKS
from tests.support.checkout import TOP

PACKAGE = Path(imagebuilder.__file__).parent
OWNERS = ("model.py", "networks.py")
NAMES = {*Release, *(stack.name for stack in NETWORK_STACKS)}
OTHERS: Mapping[tuple[str, str], str] = {
    ("boot/kernel.py", "bookworm"): "where the companion kernel comes from, whatever release a node has",
    **{
        ("cli/usage/plan.py", str(name)): "the values of --release; test_starting.py compares"
        for name in Release
    },
}
"""Module and name of every other mention, and why it decides nothing by release."""


def mentions(source: str) -> Iterator[str]:
    """The releases and stacks that a module names in code: as members of Release, or as a text."""
    for one in ast.walk(ast.parse(source)):
        is_member = isinstance(one, ast.Attribute) and getattr(one.value, "id", "") == "Release"
        if isinstance(one, ast.Attribute) and is_member and one.attr in Release.__members__:
            yield Release[one.attr]
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value in NAMES:
            yield one.value


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


@pytest.mark.parametrize("release", Release)
def test_a_release_has_its_facts_and_layers(release: Release) -> None:
    facts = release.facts
    layers = {f"os-{release}", *filter(None, [facts.network.layer])}
    for kind in SwapKind:
        layers |= set(facts.swap_layers[kind]) if kind is not SwapKind.DEFAULT else set()
    assert [name for name in layers if not (TOP / "overlays" / name / "layer.toml").is_file()] == []
    assert facts.network in NETWORK_STACKS
