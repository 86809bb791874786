"""Each module of the product is imported by a unit test, or named here with the folder that tests it."""

import ast
import functools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

import imagebuilder
from imagebuilder.cli.command import COMMANDS
from tests.support.checkout import TOP

PACKAGE = Path(imagebuilder.__file__).parent
UNIT = TOP / "tests" / "unit"

TESTED_ELSEWHERE: Mapping[str, str] = {
    "imagebuilder.base.fetch": "integration/base",
    "imagebuilder.base.notes": "integration/base",
    "imagebuilder.base.cached": "integration/base",
    "imagebuilder.base.signature": "integration/base",
    "imagebuilder.base.trust": "integration/base",
    "imagebuilder.base.unpack": "integration/base",
    "imagebuilder.base.archive": "integration/base",
    "imagebuilder.base.wire": "integration/base",
    "imagebuilder.boot.firmware": "integration/boot",
    "imagebuilder.boot.qmp": "system/station",
    "imagebuilder.card.backup": "integration/card",
    "imagebuilder.card.surface_test": "integration/card",
    "imagebuilder.cli.commands.backup": "integration/card",
    "imagebuilder.cli.commands.build": "integration/building",
    "imagebuilder.cli.commands.cards_test": "integration/card",
    "imagebuilder.cli.commands.cleanup": "integration/building",
    "imagebuilder.cli.commands.doctor": "integration/cli",
    "imagebuilder.cli.commands.export": "unit/export",
    "imagebuilder.cli.commands.fetch": "integration/base",
    "imagebuilder.cli.commands.init": "unit/plan",
    "imagebuilder.cli.commands.inspect": "integration/image",
    "imagebuilder.cli.commands.plan": "unit/plan",
    "imagebuilder.cli.commands.station": "integration/card",
    "imagebuilder.cli.commands.status": "integration/card",
    "imagebuilder.cli.commands.verify": "integration/card",
    "imagebuilder.cli.new_cluster": "unit/plan",
    "imagebuilder.cli.start": "integration/building",
    "imagebuilder.cli.status": "integration/card",
    "imagebuilder.cli.verify_text": "integration/card",
    "imagebuilder.cli.planned.against": "unit/plan",
    "imagebuilder.cli.planned.drawing": "unit/plan",
    "imagebuilder.cli.planned.listing": "unit/plan",
    "imagebuilder.cli.planned.overview": "unit/plan",
    **{f"imagebuilder.cli.usage.{name}": "unit/cli" for name in COMMANDS},
    "imagebuilder.cli.web.app": "integration/cli",
    "imagebuilder.cli.web.serve": "integration/cli",
    "imagebuilder.device.monitor": "integration/card",
    "imagebuilder.dressing.apt": "integration/dressing",
    "imagebuilder.dressing.bases": "integration/dressing",
    "imagebuilder.dressing.chroot": "integration/dressing",
    "imagebuilder.dressing.downloads": "integration/dressing",
    "imagebuilder.dressing.dress": "integration/dressing",
    "imagebuilder.dressing.enter": "system/real",
    "imagebuilder.dressing.inside": "integration/dressing",
    "imagebuilder.dressing.namespace": "integration/dressing",
    "imagebuilder.dressing.secrets": "integration/dressing",
    "imagebuilder.dressing.store": "integration/dressing",
    "imagebuilder.dressing.tidy": "integration/dressing",
    "imagebuilder.image.base.account": "integration/image",
    "imagebuilder.image.base.leftovers": "integration/image",
    "imagebuilder.image.base.reader": "integration/image",
    "imagebuilder.image.base.starting": "integration/image",
    "imagebuilder.image.base.units": "integration/image",
    "imagebuilder.image.base_index": "integration/image",
    "imagebuilder.image.directory": "integration/image",
    "imagebuilder.image.exfat": "integration/image",
    "imagebuilder.image.filesystem": "integration/image",
    "imagebuilder.image.card_drift": "integration/building",
    "imagebuilder.image.prepare": "integration/building",
    "imagebuilder.image.signatures": "integration/card",
    "imagebuilder.overlay.child": "unit/overlay",
    "imagebuilder.station.writer": "integration/card",
    "imagebuilder.system.eject": "integration/card",
}
"""By module: the folder below tests/ that tests it, on real devices, file systems, servers or terminals."""


def modules() -> dict[str, Path]:
    """The modules of the product by name; of a package, its ``__init__``."""
    return {
        ".".join(("imagebuilder", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): file
        for file in sorted(PACKAGE.rglob("*.py"))
    }


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """What ``file`` imports: modules, and names in them that may be modules."""
    return frozenset(_imports(file))


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def reached(files: Collection[Path], known: Mapping[str, Path]) -> set[str]:
    """The modules of ``known`` that ``files`` import, and those that such a module imports itself."""
    direct = {name for file in files for name in imports(file)} & set(known)
    return direct | {name for module in direct for name in imports(known[module])} & set(known)


def untested() -> set[str]:
    known = modules()
    return {
        name
        for name in set(known) - reached(list(UNIT.rglob("*.py")), known)
        if known[name].name != "__init__.py"
    }


def test_every_module_has_a_unit_test_or_is_named() -> None:
    assert untested() == set(TESTED_ELSEWHERE)


@pytest.mark.parametrize("module", TESTED_ELSEWHERE)
def test_the_folder_that_tests_it_is_there(module: str) -> None:
    assert list((TOP / "tests" / TESTED_ELSEWHERE[module]).glob("test_*.py"))


def test_imports_are_found(tmp_path: Path) -> None:
    """The test above must be able to fail."""
    (tmp_path / "one.py").write_text("import p.two\nfrom p import three\nfrom p.four import name\n")
    assert {"p.two", "p.three", "p.four"} <= set(imports(tmp_path / "one.py"))
    (tmp_path / "two.py").write_text("from p import five\n")
    (tmp_path / "five.py").write_text("from p import six\n")
    known = {"p.two": tmp_path / "two.py", "p.five": tmp_path / "five.py", "p.six": tmp_path / "none.py"}
    assert reached([tmp_path / "one.py"], known) == {"p.two", "p.five"}
