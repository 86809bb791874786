"""The documents against the program: command lines parse, links lead somewhere, no command is left out."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from imagebuilder.boot.checks import CHECKS
from imagebuilder.cli.main import piimg
from imagebuilder.overlay.template import ClusterView, NodeView
from tests.support.checkout import TOP

DOCUMENTS = [
    *(TOP / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    TOP / "scripts/bench/README.md",
    *sorted((TOP / "docs").glob("*.md")),
]
HELP_WIDTH = 80  # columns

with click.Context(piimg) as _context:
    COMMANDS = {
        name: command
        for name in piimg.list_commands(_context)
        if (command := piimg.get_command(_context, name)) is not None
    }

_LINE = re.compile(r"^(?: {4}|)(?:\$ )?(?:[A-Z_]+=\S+ )?(?:sudo )?(piimg(?: .*)?)$")
_SPAN = re.compile(r"`(?:sudo )?(piimg [^`]+)`")
_SYNOPSIS = re.compile(r"[][|…()]")  # a line that shows what may be said, not what is said
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def command_lines(text: str) -> Iterator[tuple[int, str]]:
    """The piimg command lines of a document, in blocks and in sentences, with their line numbers."""
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        fenced ^= line.startswith("```")
        if (fenced or line.startswith("    ")) and (found := _LINE.match(line)):
            yield number, re.split(r"\s{2,}|\s+[|<>]\s", found[1])[0]
        elif not fenced:
            yield from ((number, span) for span in _SPAN.findall(line.replace("\\|", "|")))


def complaint(line: str) -> str:
    """What click finds wrong with a command line; empty when it would be accepted."""
    if _SYNOPSIS.search(line.replace("PIIMG_SECRET_WIFI_PSK=…", "")):
        return _unknown_options(line)
    words = shlex.split(line)[1:]
    at = next((index for index, word in enumerate(words) if word in COMMANDS), len(words))
    try:
        with piimg.make_context("piimg", words[: at + 1]) as context:
            command = COMMANDS[words[at]] if at < len(words) else None
            if command is None:
                return f"no command of piimg in it: {line}"
            if words[at + 1 :] or not any(param.required for param in command.params):
                command.make_context(command.name, words[at + 1 :], parent=context)
    except click.exceptions.Exit:
        return ""  # --help, --version
    except click.ClickException as error:
        return error.format_message()
    return ""


def _unknown_options(synopsis: str) -> str:
    words = re.sub(r"\[[^]]*\]", "", synopsis).split()
    name = words[1] if len(words) > 1 else ""
    if name not in COMMANDS and name != "COMMAND":
        return f"no such command {name!r}"
    params = [*piimg.params, *(COMMANDS[name].params if name in COMMANDS else [])]
    known = {option for param in params for option in (*param.opts, *param.secondary_opts)}
    unknown = set(_OPTION.findall(synopsis)) - known - {"-h", "--help"}
    return f"no such option: {', '.join(sorted(unknown))}" if unknown else ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_line_is_one(document: Path) -> None:
    found = command_lines(document.read_text("utf-8"))
    wrong = [f"{document.name}:{at}: {line}: {what}" for at, line in found if (what := complaint(line))]
    assert wrong == []


def test_command_lines_are_found_and_judged() -> None:
    """The test above must be able to fail."""
    text = "    sudo piimg flash /dev/sdb --nod x\n`piimg bild --all`\n    piimg fetch --lst   all\n"
    assert [bool(complaint(line)) for _, line in command_lines(text)] == [True, True, True]
    assert complaint("piimg plan [--nodes N]…") == "no such option: --nodes"
    everything = "".join(document.read_text("utf-8") for document in DOCUMENTS)
    reported = {line.split()[1] for _, line in command_lines(everything) if len(line.split()) > 1}
    assert set(COMMANDS) <= reported


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = [link.partition("#")[0] for link in _LINK.findall(document.read_text("utf-8"))]
    gone = [link for link in links if link and "://" not in link and not (document.parent / link).exists()]
    assert gone == []


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    texts = (
        re.sub(r"\]\([^)]*\)", "", text).lower() for text in _HEADING.findall(document.read_text("utf-8"))
    )
    return {re.sub(r"[^\w -]", "", text).strip().replace(" ", "-") for text in texts}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_heading_leads_to_one(document: Path) -> None:
    links = [link.partition("#") for link in _LINK.findall(document.read_text("utf-8")) if "://" not in link]
    wanted = [((document.parent / name) if name else document, anchor) for name, _, anchor in links if anchor]
    assert [
        (page.name, anchor) for page, anchor in wanted if page.suffix == ".md" and anchor not in anchors(page)
    ] == []


def after_tables(text: str) -> list[str]:
    """The lines that follow a table without an empty line: they would be a row of it."""
    lines = text.splitlines()
    return [
        now for before, now in pairwise(lines) if before.startswith("|") and now.strip() and now[0] != "|"
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_sentence_is_a_row_of_a_table(document: Path) -> None:
    assert after_tables(document.read_text("utf-8")) == []
    assert after_tables("| a |\n|---|\n| b |\nNext\n") == ["Next"]


def test_every_check_of_a_booted_node_is_explained() -> None:
    cells = re.findall(r"^\| (`[^|]+`) \|", (TOP / "docs/boot.md").read_text("utf-8"), re.MULTILINE)
    assert {check.name for check in CHECKS} - set(re.findall(r"`([^`]+)`", " ".join(cells))) == set()


@pytest.mark.parametrize(("view", "name"), [(NodeView, "node"), (ClusterView, "cluster")])
def test_every_variable_of_a_template_is_explained(view: type[Any], name: str) -> None:
    page = (TOP / "docs/overlays.md").read_text("utf-8")
    rows = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
    named = set(re.findall(r"[a-z_0-9]+", " ".join(rows)))
    assert {field.name for field in dataclasses.fields(view)} - named == set()


def test_the_list_of_commands_is_whole_at_80_columns() -> None:
    shown = CliRunner().invoke(piimg, ["--help"], terminal_width=HELP_WIDTH).output
    assert max(len(line) for line in shown.splitlines()) <= HELP_WIDTH
    listed = shown.partition("\nCommands:\n")[2].splitlines()
    assert len(listed) == len(COMMANDS)
    assert [line for line in listed if line.endswith("...")] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_reported_with_its_options(name: str) -> None:
    """In its --help with an example that parses, and in docs/commands.md with every option."""
    shown = CliRunner().invoke(piimg, [name, "--help"], terminal_width=HELP_WIDTH)
    assert shown.exit_code == 0
    assert [line for line in shown.output.splitlines() if len(line) > HELP_WIDTH] == []
    examples = re.split(r"\n *Examples?:\n", shown.output)[1].splitlines()
    lines = [re.split(r"\s{2,}|\s+(?:[|>]|&&)\s", line.strip())[0].removeprefix("sudo ") for line in examples]
    assert [line for line in lines if not line.startswith(f"piimg {name}") or complaint(line)] == []

    document = (TOP / "docs" / "commands.md").read_text("utf-8")
    section = re.split(r"^## ", document.partition(f"\n## piimg {name}\n")[2], flags=re.MULTILINE)[0]
    options = [param.opts[-1] for param in COMMANDS[name].params if isinstance(param, click.Option)]
    assert section
    assert [option for option in options if option not in section] == []
