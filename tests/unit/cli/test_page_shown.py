"""The page is announced after the checks, its QR code just before the question; --web and its value."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imagebuilder.cli import flashing
from imagebuilder.cli.flashing import WriteOptions, confirm
from imagebuilder.cli.main import piimg
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.cli.session import Session
from imagebuilder.cli.web import run_page as module
from imagebuilder.cli.web.run_page import showing


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(piimg, words)


@pytest.mark.parametrize(
    "words",
    [
        ["flash", "--all", "--yes", "--web"],
        ["flash", "--all", "--web"],
        ["flash", "/dev/null", "--node", "worker1", "--web"],
        ["station", "--yes", "--web"],
    ],
)
@pytest.mark.parametrize("manifest", [None, "not toml"])
def test_a_refused_run_has_no_page(words: list[str], manifest: str | None, folder: Path) -> None:
    if manifest:
        (folder / "cluster.toml").write_text(manifest)
    done = run(*words)
    assert done.exit_code != 0 and "page:" not in done.output


def test_the_place_and_the_code_are_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(module, "_token", lambda session: "token")
    monkeypatch.setattr(module, "_announce", lambda session, place, token: shown.append("place"))
    monkeypatch.setattr(module, "echo_code", lambda lines: shown.append("code"))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Plain(io.StringIO()) as reporter, showing(session := Session(reporter), "0.0.0.0:0", "flash"):
        assert shown == []
        session.show_page()
        session.show_code()
        session.show_code()
    assert shown == ["place", "code"]


@pytest.mark.parametrize(("yes", "bad"), [(False, []), (True, []), (False, ["it was bad"])])
def test_the_code_comes_just_before_the_question(
    yes: bool, bad: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str, answer: object) -> Callable[..., object]:
        def called(*words: object, **more: object) -> object:
            order.append(name)
            return answer

        return called

    monkeypatch.setattr(flashing, "at_terminal", lambda: True)
    monkeypatch.setattr(flashing, "echo", noted("table", None))
    monkeypatch.setattr(flashing, "confirmed", noted("question", True))
    monkeypatch.setattr(flashing, "ask", noted("question", "yes"))
    monkeypatch.setattr(flashing, "_discard_typed_keys", lambda: None)
    confirm([], ["a note"], WriteOptions(yes), bad, before=lambda: order.append("code"))
    assert order == ["table", "table", "code", *([] if yes else ["question"])]


@pytest.mark.parametrize("word", ["8180", "0.0.0.0:22x", "localhost", "http://127.0.0.1:8180/"])
@pytest.mark.parametrize("command", [["flash"], ["station"]])
def test_a_word_that_is_no_path_is_a_wrong_address(command: list[str], word: str) -> None:
    done = run(*command, "--web", word)
    assert done.exit_code == 2
    assert f"{word} is no value of --web: write --web ADDRESS:PORT" in done.output


def test_a_device_may_follow_it(folder: Path) -> None:
    (folder / "sdx").touch()
    for word in ("/dev/null", "./sdx", "sdx"):
        assert "is no value of --web" not in run("flash", "--web", word).output
