"""Manual pages: what two readers make of them, and that they say what --help says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from imagebuilder import __version__
from imagebuilder.cli.main import piimg
from tests.support.checkout import TOP

with click.Context(piimg) as _context:
    NAMES = ["piimg", *(f"piimg-{name}" for name in piimg.list_commands(_context))]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A share/man folder, as it is installed."""
    folder = tmp_path_factory.mktemp("share")
    subprocess.run([sys.executable, TOP / "scripts/make-share", folder], check=True)
    return folder / "man"


def words(text: str) -> str:
    """A text as its words alone, whatever the lines and the hyphens at their ends."""
    return " ".join(text.split())


def shown(pages: Path, name: str) -> str:
    """A page as man shows it, on lines too long to be broken."""
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "1000", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(
        ["man", "--warnings", "--no-hyphenation", "--no-justification", pages / f"man1/{name}.1"],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def test_every_command_has_a_page(pages: Path) -> None:
    assert {path.name for path in (pages / "man1").iterdir()} == {f"{name}.1" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_groff_and_mandoc_find_nothing_wrong(pages: Path, name: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("needs mandoc")
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "style", pages / f"man1/{name}.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)
    shown(pages, name)


def test_the_readers_do_complain_of_what_is_wrong(tmp_path: Path) -> None:
    """The test above must be able to fail."""
    (tmp_path / "man1").mkdir()
    (tmp_path / "man1/bad.1").write_text(".TH BAD 1\n.SH NAME\nbad\n.nosuch thing\n")
    with pytest.raises(AssertionError):
        shown(tmp_path, "bad")
    with pytest.raises(AssertionError):
        test_groff_and_mandoc_find_nothing_wrong(tmp_path, "bad")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_help_says(pages: Path, name: str) -> None:
    """All of it, in the same order: what it is for, the options with their texts, and the examples."""
    page = words(shown(pages, name))
    with click.Context(piimg, info_name="piimg", **piimg.context_settings) as top:
        command: click.Command | None = piimg
        if name != "piimg":
            command = piimg.get_command(top, name.removeprefix("piimg-"))
        assert command is not None and command.help is not None
        assert words(command.help.replace("\b", "")) in page
        assert command.get_short_help_str(limit=200).rstrip(".") in page
        at = page.index(" OPTIONS ")
        for get_param in command.get_params(top):
            record = get_param.get_help_record(top) if isinstance(get_param, click.Option) else None
            at = page.index(words(" ".join(record)), at) if record else at
        examples = (command.epilog or "").replace("\b", "").split("\n")[2:]
        assert [line for line in examples if words(line) not in page[at:]] == []
    assert f"piimg {__version__}" in page


def test_a_page_can_be_found_by_its_name(pages: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "MANPATH": str(pages)}
    for words_ in (["piimg-flash"], ["piimg", "flash"]):
        done = subprocess.run(["man", "-w", *words_], env=env, capture_output=True, text=True, check=True)
        assert str(pages / "man1/piimg-flash.1") in done.stdout


def test_nothing_a_text_may_hold_is_taken_for_a_request(pages: Path) -> None:
    """A dot or a quote at the start of a line; and a dash that is not escaped cannot be copied and run."""
    whole = "".join(path.read_text("utf-8") for path in (pages / "man1").iterdir())
    requests = set(re.findall(r"^[.'](\S*)", whole, flags=re.MULTILINE))
    assert requests == {"TH", "SH", "PP", "TP", "B", "BR", "nf", "fi"}
    text = re.sub(r"^\.TH .*$", "", whole, flags=re.MULTILINE)
    assert "-" not in text.replace("\\-", "")
    assert set(re.findall(r"\\(.)", text)) <= set("-&ef")
