"""A help text and a completion load little, so that they are there at once; `make bench` has the times."""

import inspect
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, get_args

import click
import pytest

from imagebuilder.cli.command import COMMANDS
from imagebuilder.cli.main import piimg
from tests.support.checkout import TOP

LIBRARIES = {
    *("cryptography", "jeepney", "jinja2", "parted", "passlib", "pydantic", "pyudev", "requests", "tqdm"),
    *("markupsafe", "segno", "urllib3", "weasyprint", "yaml"),
}
OF_PYTHON = {
    *("asyncio", "concurrent", "dataclasses", "difflib", "email", "hashlib", "importlib.metadata", "json"),
    *("logging", "pathlib", "socket", "ssl", "subprocess", "tempfile", "tomllib"),
}
"""What is slow to load of the standard library, and no help text needs."""

OF_OURS = {f"imagebuilder.{name}" for name in ("cli.commands", "cli.log", "cli.session", "events", "model")}
HEAVY = {*LIBRARIES, *OF_PYTHON, *OF_OURS}

MANIFEST = str(TOP / "manifests" / "picluster.toml")

SCRIPT = """
import atexit, sys
atexit.register(lambda: sys.stderr.write(" ".join(sys.modules)))
from imagebuilder.cli.start import main
sys.argv[0] = "piimg"
main()
"""


def loaded(*words: str, completing: bool = False) -> set[str]:
    """The modules that are loaded when piimg ends, called with ``words``, or completing the last of them."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    env["PYTHONPATH"] = str(TOP)
    if completing:
        env |= {"_PIIMG_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("piimg", *words))}
        env["COMP_CWORD"] = str(len(words))
    argv = [sys.executable, "-c", SCRIPT, *([] if completing else words)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert done.stdout
    return set(done.stderr.split())


def of_click() -> set[str]:
    """What click itself loads, with this version of it and of Python."""
    code = "import sys, click, click.shell_completion; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("words", [("--help",), ("--version",), *((name, "--help") for name in COMMANDS)])
def test_help_loads_no_command_and_no_library_but_click(words: Sequence[str]) -> None:
    modules = loaded(*words)
    reads = {"pathlib"} if words[0] == "init" else set()  # its help lists the ready layers
    assert modules & (HEAVY - of_click()) <= reads
    usages = {name for name in modules if name.startswith("imagebuilder.cli.usage.")}
    assert usages == {f"imagebuilder.cli.usage.{word}" for word in words if word in COMMANDS}


@pytest.mark.parametrize(
    "words", [("",), ("p",), ("--",), ("plan", "--"), ("flash", "--n"), ("station", "--node-from", "")]
)
def test_completion_of_what_is_always_the_same_loads_no_more(words: Sequence[str]) -> None:
    modules = loaded(*words, completing=True)
    assert modules & (HEAVY - of_click()) == set()


def test_completion_of_nodes_loads_what_reads_the_manifest() -> None:
    modules = loaded("--manifest", MANIFEST, "plan", "--node", "", completing=True)
    assert modules & (LIBRARIES | OF_OURS) == set()


def test_completion_of_ready_layers_loads_what_finds_them() -> None:
    assert loaded("init", "--with", "", completing=True) & (HEAVY - of_click()) == {"pathlib"}


def test_completion_of_paths_loads_what_finds_the_layers() -> None:
    modules = loaded("--manifest", MANIFEST, "plan", "--show", "/etc/h", completing=True)
    assert modules & (LIBRARIES | OF_OURS) == set()


def test_what_is_loaded_is_seen() -> None:
    """The tests above must be able to fail."""
    assert {"imagebuilder.cli.commands", "imagebuilder.cli.session", "pydantic"} <= loaded(
        "--manifest", MANIFEST, "plan", "--matrix"
    )


def test_each_command_is_called_in_usage_and_done_in_commands() -> None:
    """By modules of its name; what is called takes what the options give."""
    folder = TOP / "imagebuilder" / "cli" / "usage"
    assert {file.stem for file in folder.glob("[!_]*.py")} == set(COMMANDS)
    with click.Context(piimg) as context:
        for name, about in COMMANDS.items():
            command = piimg.get_command(context, name)
            assert command is not None and command.name == name
            assert command.get_short_help_str(limit=200) == about
            work = value(f"cli.commands.{name}", name)
            takes = [
                parameter
                for parameter in inspect.signature(work).parameters
                if parameter not in ("session", "context")
            ]
            assert sorted(takes) == sorted(param.name or "" for param in command.params)


def value(module: str, name: str) -> Any:
    """What ``module`` calls ``name``; not imported, which would count as a test of it (test_tested.py)."""
    return getattr(import_module(f"imagebuilder.{module}"), name)


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("plan", "release", list(map(str, value("model", "Release")))),
        ("boot", "machine", get_args(value("boot.machine", "Kind"))),
        ("station", "node_from", get_args(value("station.policy", "NodeFrom"))),
        ("export", "what", value("cli.commands.export", "KINDS")),
        ("doctor", "uses", value("requirements.uses", "USES")),
    ],
)
def test_an_option_offers_what_there_is(name: str, option: str, values: Sequence[str]) -> None:
    """The values are written down again in usage/: where they come from is not loaded for a help text."""
    with click.Context(piimg) as context:
        command = piimg.get_command(context, name)
    assert command is not None
    (kind,) = (param.type for param in command.params if param.name == option)
    assert isinstance(kind, click.Choice) and list(kind.choices) == list(values)
