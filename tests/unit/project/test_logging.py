"""A library is silent: no module outside cli/ prints, and only cli/log.py configures logging."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import imagebuilder

PACKAGE = Path(imagebuilder.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
CONFIGURES = "cli/log.py"
NAMES_ANOTHER = ("cli/output.py", CONFIGURES)  # what the user is shown; the package's own logger
USES_STREAMS = {
    "overlay/child.py": "the process that renders templates: it answers on its standard output",
    "system/files.py": "flushes what was printed before a report goes to the same stream",
}
"""Modules that use standard output and error for something else than printing, and for what."""

CONFIGURING = {
    *("basicConfig", "dictConfig", "fileConfig", "captureWarnings", "disable", "lastResort"),
    *("addHandler", "removeHandler", "setLevel", "addLevelName", "setLoggerClass", "propagate"),
}
PRINTING = {"print", "echo", "secho"}
STREAMS = {"sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__"}


def breaches(source: str) -> Iterator[str]:
    """Where a module prints, uses standard output or error, or does more about logging than log."""
    for one in ast.walk(ast.parse(source)):
        if isinstance(one, ast.Attribute):
            if one.attr in CONFIGURING:
                yield f"configures: {one.attr}"
            elif ast.unparse(one) in STREAMS:
                yield f"prints: {ast.unparse(one)}"
        elif isinstance(one, ast.ImportFrom) and one.module == "logging":
            yield "configures: from logging"
        elif isinstance(one, ast.Call):
            name = one.func.attr if isinstance(one.func, ast.Attribute) else getattr(one.func, "id", "")
            if name in PRINTING or ast.unparse(one.func) == "warnings.warn":
                yield f"prints: {name}"
            elif name == "getLogger" and [ast.unparse(word) for word in one.args] != ["__name__"]:
                yield "names: another logger than its own"


def allowed(module: str) -> tuple[str, ...]:
    """The kinds of breach that are none in this module."""
    kinds = [
        *(["prints"] if module.startswith("cli/") or module in USES_STREAMS else []),
        *(["configures"] if module == CONFIGURES else []),
        *(["names"] if module in NAMES_ANOTHER else []),
    ]
    return tuple(kinds)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_logs_and_nothing_else(file: Path) -> None:
    module = str(file.relative_to(PACKAGE))
    found = [
        breach for breach in breaches(file.read_text()) if not breach.startswith(allowed(module) or ("-",))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("print('x')", "prints"),
        ("click.echo('x')", "prints"),
        ("sys.stderr.write('x')", "prints"),
        ("f(file=sys.stdout)", "prints"),
        ("warnings.warn('x')", "prints"),
        ("logging.basicConfig()", "configures"),
        ("logging.getLogger(__name__).setLevel(10)", "configures"),
        ("_log.propagate = False", "configures"),
        ("from logging import basicConfig as b", "configures"),
        ("logging.getLogger()", "names"),
        ("logging.getLogger('piimg')", "names"),
    ],
)
def test_a_breach_is_seen(line: str, kind: str) -> None:
    assert [breach.partition(":")[0] for breach in breaches(line)] == [kind]


def test_a_logger_of_its_own_is_fine() -> None:
    assert list(breaches("import logging\n_log = logging.getLogger(__name__)\n_log.info('x')\n")) == []


IMPORTED = """
import importlib, logging, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
print([(one.name, one.level, one.handlers) for one in loggers
       if one.name.startswith(("root", "imagebuilder")) and (one.handlers or one.level not in (0, 30))])
"""


def test_importing_configures_nothing() -> None:
    names = [".".join(("imagebuilder", *one.relative_to(PACKAGE).with_suffix("").parts)) for one in FILES]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *(name.removesuffix(".__init__") for name in names)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": "/usr/bin:/bin"},
        check=True,
    )
    assert done.stdout.strip() == "[]"
