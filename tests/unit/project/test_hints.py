"""Errors say what to do next, and the page on troubleshooting quotes messages that there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import TOP

PACKAGE = TOP / "imagebuilder"
PAGE = TOP / "docs" / "troubleshooting.md"
HINT_AT = {"PiimgError": 1, "UsageError": 1, "DeviceError": 2}
"""The errors that are raised directly, and the place of the hint among their arguments."""

COMPLETED = {"not an OpenSSH private key: ", "not an ed25519 key"}
"""Messages without a hint, because the only caller adds the name of the file and a hint."""


def texts(node: ast.AST) -> Iterator[str]:
    """The fixed parts of the texts in an expression or a module."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def without_hint(file: Path) -> Iterator[str]:
    """The errors in a module that are given no hint, as FILE:LINE: MESSAGE."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in HINT_AT):
            continue
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            continue
        given = len(node.args) > HINT_AT[node.func.id] or any(word.arg == "hint" for word in node.keywords)
        if not given and not COMPLETED & set(texts(node)):
            yield f"{file.relative_to(TOP)}:{node.lineno}: {''.join(texts(node))}"


def test_every_error_has_a_hint() -> None:
    assert [problem for file in sorted(PACKAGE.rglob("*.py")) for problem in without_hint(file)] == []


def quoted() -> list[str]:
    """The messages and reasons in the tables of the page."""
    rows = re.findall(r"^\| (?!message|reason|verdict|---)([^|]+?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    return [row.strip() for row in rows]


@pytest.fixture(scope="module")
def spoken() -> str:
    """All texts of the product."""
    return "\n".join(
        text for file in sorted(PACKAGE.rglob("*.py")) for text in texts(ast.parse(file.read_text("utf-8")))
    )


@pytest.mark.parametrize("message", quoted())
def test_a_message_on_the_page_is_one_of_the_product(message: str, spoken: str) -> None:
    parts = [part.strip() for part in re.split(r"…|/dev/sdX|NAME", message)]
    assert [part for part in parts if part and part not in spoken] == []
