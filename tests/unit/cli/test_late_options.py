"""The common options before and after the command, and a node's name without --node."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagebuilder.cli.late_options import moved_to_front
from imagebuilder.cli.main import main, piimg
from imagebuilder.cli.stop_signals import SIGNALS


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """main() ignores signals at its end, as its process ends."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def moved(*words: str) -> list[str]:
    context = piimg.make_context("piimg", [], resilient_parsing=True)
    return moved_to_front(words, piimg.params, lambda name: piimg.get_command(context, name))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("build --all -v", "-v build --all"),
        ("build -vv --all", "-vv build --all"),
        ("build --all --manifest a.toml --verbose", "--manifest a.toml --verbose build --all"),
        ("build --manifest=a.toml --all", "--manifest=a.toml build --all"),
        ("-v --progress plain build --all --log-file x", "-v --progress plain --log-file x build --all"),
        ("build --node -v", "build --node -v"),  # the value of an option stays
        ("plan --diff -v", "-v plan --diff"),  # an option whose value may be missing
        ("plan --diff x -v", "-v plan --diff x"),
        ("plan --diff --manifest a.toml", "--manifest a.toml plan --diff"),
        ("plan --graph --progress plain", "--progress plain plan --graph"),
        ("plan --graph=svg -v", "-v plan --graph=svg"),
        ("plan --diff", "plan --diff"),
        ("inspect -- -v", "inspect -- -v"),
        ("build --node", "build --node"),  # click refuses it
        ("build --help", "build --help"),
        ("bild --all -v", "bild --all -v"),
        ("", ""),
    ],
)
def test_they_are_moved_before_the_command(given: str, meant: str) -> None:
    assert " ".join(moved(*given.split())) == meant


def test_the_manifest_may_follow_the_command(tmp_path: Path) -> None:
    manifest = tmp_path / "other.toml"
    manifest.write_text("[cluster]\nname = 3\n")
    for words in (["--manifest", str(manifest), "plan"], ["plan", "--manifest", str(manifest)]):
        done = CliRunner().invoke(piimg, words)
        assert "other.toml" in str(done.exception), words


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["build", "worker2"], "build --node worker2\n"),
        (["plan", "master", "worker1"], "plan --node master --node worker1\n"),
    ],
)
def test_a_node_is_named_with_its_option(
    words: list[str], meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["piimg", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines(keepends=True)[-1]
    assert last.startswith("A node is named with --node: ") and last.endswith(f"piimg {meant}"), last


def test_another_argument_too_many_is_no_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["piimg", "cleanup", "worker2"])
    with pytest.raises(SystemExit):
        main()
    assert "--node" not in capsys.readouterr().err
