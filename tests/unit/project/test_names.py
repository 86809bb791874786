"""No two public classes with one name, and no module that makes text printable in its own way."""

import ast
from collections import defaultdict
from pathlib import Path

import imagebuilder

PACKAGE = Path(imagebuilder.__file__).parent
MODULES = {
    str(file.relative_to(PACKAGE)): ast.parse(file.read_bytes()) for file in sorted(PACKAGE.rglob("*.py"))
}


def public_classes() -> dict[str, list[str]]:
    """By name of a public class: the modules that define one."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, tree in MODULES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module)
    return found


CLASSES = public_classes()


def test_no_two_public_classes_have_one_name() -> None:
    twice = {name: modules for name, modules in CLASSES.items() if len(modules) > 1}
    assert twice == {}


def letters_joined(tree: ast.AST) -> list[int]:
    """The lines where text is joined from what ``isprintable`` was asked about, letter by letter."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "join"
        and "isprintable" in ast.unparse(call.args[0])
    ]


def test_only_one_module_makes_text_printable() -> None:
    found = {module: lines for module, tree in MODULES.items() if (lines := letters_joined(tree))}
    assert set(found) == {"text.py"}, found


def test_the_search_sees_what_makes_text_printable() -> None:
    bad = [
        "''.join(c if c.isprintable() else '?' for c in text)",
        "''.join([c for c in text if c.isprintable()])",
    ]
    assert [letters_joined(ast.parse(line)) for line in bad] == [[1], [1]]
    assert letters_joined(ast.parse("', '.join(name for name in names)")) == []
