"""The library: what __all__ says is there, typed, and loaded when used; docs/library.md uses nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import imagebuilder
from tests.support.checkout import TOP
from tests.support.cluster import make_place
from tests.support.library import EXAMPLES, PLAN, ran

LINES_LIMIT = 10


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_is_short_and_uses_public_names_only(code: str) -> None:
    assert len([line for line in code.splitlines() if line.strip()]) <= LINES_LIMIT
    assert "environ" not in code
    tree = ast.parse(code)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names <= {"pathlib.Path", *(f"imagebuilder.{name}" for name in imagebuilder.__all__)}


def test_plan_a_cluster(tmp_path: Path) -> None:
    place = make_place(tmp_path, tmp_path / "cache")
    lines = ran(place, PLAN).splitlines()
    nodes = [node.name for node in place.workspace.cluster.nodes]
    assert [line.split()[:2] for line in lines] == [[name, "trixie"] for name in nodes]
    assert not place.workspace.state.exists()  # no key was kept


def test_all_names_are_there_and_typed() -> None:
    """__all__, the table of where each name lies, and what type checkers see say the same."""
    tree = ast.parse(Path(imagebuilder.__file__).read_bytes())
    typed = {
        (node.module.removeprefix("imagebuilder."), alias.name)
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert typed == {(module, name) for module, names in imagebuilder._EXPORTS.items() for name in names}
    assert {name for _, name in typed} | {"__version__"} == set(imagebuilder.__all__)
    for name in imagebuilder.__all__:
        assert getattr(imagebuilder, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(imagebuilder, "nonsense")  # noqa: B009 - mypy would refuse the name
    assert Path(imagebuilder.__file__).with_name("py.typed").exists()


def test_importing_loads_nothing_that_is_not_used() -> None:
    code = (
        "import sys, imagebuilder; print(*(name for name in sys.modules if name.startswith('imagebuilder')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(TOP)}, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {"imagebuilder", "imagebuilder.version"}
