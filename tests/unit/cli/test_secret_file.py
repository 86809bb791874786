"""A secret is asked for twice and kept with mode 0600; the rest of the file stays."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.cli import secret_file
from imagebuilder.cli.commands.secrets import LIMIT
from imagebuilder.cli.main import piimg
from imagebuilder.cli.secret_file import ask_secret, keep_secret
from imagebuilder.errors import UsageError
from imagebuilder.resources import shipped

BEFORE = '# my secrets\nwifi_psk = "change-me-please"\nuser_password = "old"  # of pi\n'


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    given_: list[str] = []
    monkeypatch.setattr(secret_file, "ask", lambda *_, **__: given_.pop(0))
    yield given_
    assert given_ == []


def test_it_is_asked_until_both_answers_are_the_same(
    answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers += ["secret1", "secret2", "secret3", "secret3"]
    assert ask_secret("wifi_psk") == "secret3"
    said = capsys.readouterr().err
    assert "the two answers differ" in said and "secret1" not in said


def test_an_empty_answer_says_so(answers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    answers += [""]
    assert ask_secret("wifi_psk") == ""
    assert "nothing was typed: wifi_psk has no value" in capsys.readouterr().err


def test_the_line_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    file = tmp_path / "secrets.toml"
    file.write_text(BEFORE)
    file.chmod(0o644)
    keep_secret(file, "wifi_psk", "new")
    assert file.read_text() == BEFORE.replace("change-me-please", "new")
    assert file.stat().st_mode & 0o777 == 0o600
    keep_secret(file, "other", "third")
    assert file.read_text().endswith('# of pi\nother = "third"\n')


def test_a_new_file(tmp_path: Path) -> None:
    keep_secret(tmp_path / "secrets.toml", "a", "b")
    assert (tmp_path / "secrets.toml").read_text() == 'a = "b"\n'
    assert (tmp_path / "secrets.toml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", ["not = toml = at all", 'a = """\nx = "1"\n"""\nx.y = "2"\n', 'x = """\nsome\n"""\n']
)
def test_what_cannot_be_replaced_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "secrets.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        keep_secret(file, "x", "hidden")
    assert file.read_text() == text and "hidden" not in caught.value.whole


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_can_be_kept(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(BEFORE)
    keep_secret(file, "user_password", value)
    assert tomllib.loads(file.read_text()) == {"wifi_psk": "change-me-please", "user_password": value}


REFUSED: list[tuple[str, str | bytes, str]] = [
    ("wifi_pks", "x", "is wifi_psk meant?"),
    ("wifi_psk", "", "an empty value"),
    ("wifi_psk", b"\xff\xfe", "not UTF-8"),
    ("wifi_psk", "x" * (LIMIT + 1), "at most 65536 bytes"),
]


def test_the_command_takes_it_from_standard_input(tmp_path: Path) -> None:
    manifest = tmp_path / "cluster.toml"
    manifest.write_text((shipped("manifests") / "picluster.toml").read_text())
    words = ["--manifest", str(manifest), "secrets", "set"]
    done = CliRunner().invoke(piimg, [*words, "wifi_psk"], input="a long secret\n")
    assert done.exit_code == 0, done.output
    assert tomllib.loads((tmp_path / "secrets.toml").read_text()) == {"wifi_psk": "a long secret"}
    assert "a long secret" not in done.output
    for name, given_, said in REFUSED:
        refused = CliRunner().invoke(piimg, [*words, name], input=given_)
        assert isinstance(refused.exception, UsageError) and said in refused.exception.whole
