"""An option that takes a value is a usage error without one, and with an empty one, as by an unset "$X"."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from imagebuilder.cli.command import COMMANDS
from imagebuilder.cli.main import piimg
from imagebuilder.cli.optional_value import OptionalValue


def options() -> list[tuple[str, str, bool]]:
    """Each command, each name of an option of it that takes a value, and whether the value may be omitted."""
    context = click.Context(piimg)
    found = []
    for name in COMMANDS:
        command = piimg.get_command(context, name)
        assert command is not None
        for param in (*command.params, *piimg.params):
            if isinstance(param, click.Option) and not param.is_flag and not param.count:
                maybe = isinstance(param, OptionalValue) or isinstance(param.flag_value, str)
                found += [(name, option, maybe) for option in param.opts]
    return found


def output_of(*words: str) -> str:
    done = CliRunner().invoke(piimg, words)
    assert done.exit_code == 2, (words, done.output, done.exception)
    return done.output


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_many() -> None:
    assert len(options()) > 100 and ("sheet", "--output", False) in options()


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command, option, maybe in options() if not maybe]
)
def test_an_option_without_its_value_is_a_usage_error(command: str, option: str, folder: Path) -> None:
    assert f"Option {option!r} requires an argument." in output_of(command, option)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("command", "option"), [(command, option) for command, option, _ in options()])
def test_an_option_with_an_empty_value_is_a_usage_error(command: str, option: str, folder: Path) -> None:
    assert f"The value of {option} is empty." in output_of(command, option, "")
    if option.startswith("--"):
        assert f"The value of {option} is empty." in output_of(command, f"{option}=")
    assert not list(folder.iterdir())


def test_an_empty_value_before_the_command_is_a_usage_error() -> None:
    for words in (["--manifest", "", "plan"], ["--log-file=", "plan"]):
        assert "The value of --" in output_of(*words)


@pytest.mark.parametrize("command", ["init", "inspect", "fetch", "verify", "flash"])
def test_an_empty_argument_is_a_usage_error(command: str, folder: Path) -> None:
    assert "An argument is empty." in output_of(command, "")
    assert "An argument is empty." in output_of(command, "--", "")
    assert not list(folder.iterdir())


def test_an_empty_manifest_variable_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIIMG_MANIFEST", "")
    done = CliRunner().invoke(piimg, ["plan"])
    assert "there is no cluster manifest" in str(done.exception)
