"""No output option of any command may name an input: it would be replaced without a question."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from imagebuilder.cli.command import COMMANDS
from imagebuilder.cli.file_path import Output
from imagebuilder.cli.main import piimg
from imagebuilder.errors import UsageError

WORDS = {
    "backup": ["/dev/null"],
    "build": ["--all"],
    "boot": ["--all"],
    "flash": ["--all"],
}
"""What a command needs besides the output option."""

WRITING = {
    ("backup", "file"),
    ("boot", "--report"),
    ("build", "--output"),
    ("doctor", "--report"),
    ("flash", "--report"),
    ("sheet", "--output"),
    ("station", "--report"),
}
"""Each option and argument that names what is written. Those that only read are in READING."""

READING = {
    ("backup", "device"),
    ("boot", "--identity"),
    ("boot", "--images"),
    ("cards", "--test"),
    ("flash", "devices"),
    ("flash", "--image"),
    ("flash", "--images"),
    ("init", "folder"),  # a new folder
    ("init", "--ssh-key"),
    ("init", "--wifi-passphrase-file"),
    ("inspect", "subject"),
    ("sheet", "--report"),
    ("station", "--images"),
    ("verify", "device"),
    ("verify", "--image"),
    ("verify", "--images"),
}

INPUTS = (
    "cluster.toml",
    "secrets.toml",
    ".piimg-keys.json",
    "images.toml",
    "overlays/mine/overlay.toml",
    "state/picluster/history.jsonl",
    "base.img",
)


def commands() -> dict[str, click.Command]:
    context = click.Context(piimg)
    found = {name: piimg.get_command(context, name) for name in COMMANDS}
    return {name: command for name, command in found.items() if command is not None}


def name_of(param: click.Parameter) -> str:
    return max(param.opts, key=len)


def test_each_option_with_a_path_is_an_output_or_an_input() -> None:
    paths = {
        (name, name_of(param)): isinstance(param.type, Output)
        for name, command in commands().items()
        for param in command.params
        if isinstance(param.type, click.Path)
    }
    assert {key for key, is_output in paths.items() if is_output} == WRITING
    assert {key for key, is_output in paths.items() if not is_output} == READING


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(piimg, ["init", "c", "--yes"]).exit_code == 0
    made = tmp_path / "c"
    monkeypatch.chdir(made)
    manifest = made / "cluster.toml"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text(
        "".join('base = "./base.img"\n' if line.startswith("base = ") else line for line in lines)
    )
    assert "./base.img" in manifest.read_text()
    for name in INPUTS:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).touch(0o600)
    return made


def run(command: str, option: str, value: str, *before: str) -> Result:
    words = [*WORDS.get(command, []), *([option] if option.startswith("-") else []), value]
    return CliRunner().invoke(piimg, [*before, command, *words])


def refused(done: Result) -> bool:
    return isinstance(done.exception, UsageError) and "name a file of its own" in str(done.exception.hint)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("command", "option"), sorted(WRITING))
def test_it_refuses_each_input_by_each_spelling(folder: Path, command: str, option: str) -> None:
    before = content(folder)
    (folder.parent / "elsewhere").symlink_to(folder)
    for number, name in enumerate(INPUTS):
        link, hard = folder.parent / f"link{number}", folder.parent / f"hard{number}"
        link.symlink_to(folder / name)
        hard.hardlink_to(folder / name)
        spellings = [name, f"./{name}", str(folder / name), f"../elsewhere/{name}", str(link)]
        if command == "build" and "/" in name:  # it takes a folder
            spellings = [str(Path(spelling).parent) for spelling in spellings[:-1]]
        elif "/" not in name:
            spellings.append(str(hard))
        for spelling in spellings:
            done = run(command, option, spelling)
            assert done.exit_code != 0, (spelling, done.output)
            is_folder = command == "build" and "/" not in name
            assert refused(done) or is_folder, (spelling, done.exception, done.output)
    assert content(folder) == before


@pytest.mark.parametrize(("command", "option"), sorted(WRITING))
def test_it_refuses_a_new_file_where_inputs_are(folder: Path, command: str, option: str) -> None:
    (folder / "secrets.toml").unlink()
    for name in ("overlays/new.html", "state/new.html", *(() if command == "build" else ("secrets.toml",))):
        assert refused(run(command, option, name)), name


def test_the_log_is_no_input_either(folder: Path) -> None:
    before = content(folder)
    for name in (*INPUTS[:-1], "overlays/new.log"):
        assert refused(CliRunner().invoke(piimg, ["--log-file", name, "plan"])), name
    assert content(folder) == before


def test_nor_is_a_file_of_another_option(folder: Path) -> None:
    for words in (
        ["flash", "/dev/null", "--image", "x.img", "--report", "./x.img"],
        ["flash", "--all", "--base", "./x.img", "--report", "x.img"],
        ["sheet", "--report", "x.img", "-o", "x.img"],
        ["boot", "--all", "--identity", "x.img", "--report", "x.img"],
        ["--log-file", "x.log", "doctor", "--report", "x.log"],
        ["--log-file", "x.log", "sheet", "--output", "x.log"],
    ):
        (folder / "x.img").touch()
        assert refused(CliRunner().invoke(piimg, words)), words


def test_a_build_never_replaces_the_base_image(folder: Path) -> None:
    manifest = folder / "cluster.toml"
    manifest.write_text(manifest.read_text().replace("./base.img", "./worker1.img"))
    (folder / "worker1.img").touch()
    assert refused(run("build", "--output", "."))


def test_other_files_are_written(folder: Path) -> None:
    for name in ("page.html", "mine/page.html", "overlays.html", "../page.html"):
        (folder / name).parent.mkdir(exist_ok=True)
        done = CliRunner().invoke(piimg, ["sheet", "-o", name])
        assert done.exit_code == 0, (name, done.output, done.exception)
    assert CliRunner().invoke(piimg, ["sheet", "-o", "-"]).exit_code == 0


def test_a_manifest_with_errors_is_not_replaced(folder: Path) -> None:
    (folder / "cluster.toml").write_text("not toml")
    assert refused(run("doctor", "--report", "cluster.toml"))
