"""The log: what --log-file keeps, what -v shows with each kind of progress, and how the file is opened."""

import io
import json
import logging
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from imagebuilder.cli.log import end_logged, logging_to, tail
from imagebuilder.cli.main import piimg
from imagebuilder.cli.progress.bars import Bars
from imagebuilder.cli.progress.base import Renderer
from imagebuilder.cli.progress.jsonlines import JsonLines
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Event, Message, Started
from imagebuilder.system import process

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \d+ [A-Z]+ [a-z_.]+ \[[^]]+\] .+")
STEPS = logging.getLogger("imagebuilder.image.build")


def both(stream: io.StringIO, make: Callable[[io.StringIO], Renderer], file: Path | None, count: int) -> str:
    """What is shown of a step, a command and a message with ``count`` -v."""
    with make(stream) as reporter, logging_to(file, count, reporter):
        reporter.emit(Started("build", "worker1"))
        STEPS.info("%s: %s", "worker1", "copy")
        process.run(["true"])
        reporter.emit(Message("warning", "look at this", "worker1"))
    return stream.getvalue()


@pytest.mark.parametrize("make", [Plain, JsonLines, Bars])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_verbose_shows_steps_then_commands_in_every_mode(
    make: Callable[[io.StringIO], Renderer], count: int
) -> None:
    shown = both(io.StringIO(), make, None, count)
    assert ("worker1: copy" in shown) == (count >= 1)
    assert ("/true: status 0 after" in shown) == (count >= 2)
    assert shown.count("look at this") == 1


@pytest.mark.parametrize(
    "words", [("plan",), ("status",), ("export", "hosts"), ("sheet", "-o", "-")], ids=lambda words: words[0]
)
def test_verbose_shows_the_steps_of_a_command_that_takes_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(piimg, ["init", "c", "--yes"]).exit_code == 0
    monkeypatch.chdir(tmp_path / "c")
    done = CliRunner().invoke(piimg, ["-v", *words])
    assert done.exit_code == 0, done.stderr
    assert "cluster.toml: cluster c, 6 nodes" in done.stderr
    if words == ("plan",):
        assert re.search(r"worker5: planned for trixie: \d+ entries of base ", done.stderr)


def test_in_json_a_record_is_a_message_with_its_level() -> None:
    found = [json.loads(line) for line in both(io.StringIO(), JsonLines, None, 2).splitlines()]
    records = [one for one in found if one["event"] == "message" and "logger" in one["data"]]
    assert [(record["data"]["level"], record["level"]) for record in records] == [
        ("INFO", "info"),
        ("DEBUG", "info"),
    ]
    assert records[0]["data"]["logger"] == "imagebuilder.image.build"
    assert records[0]["text"] == "worker1: copy"


@pytest.mark.parametrize("make", [Plain, JsonLines, Bars])
@pytest.mark.parametrize("count", [0, 2])
def test_the_file_has_all_of_it_once_whatever_is_shown(
    make: Callable[[io.StringIO], Renderer], count: int, tmp_path: Path
) -> None:
    file = tmp_path / "piimg.log"
    both(io.StringIO(), make, file, count)
    text = file.read_text()
    assert all(LINE.fullmatch(line) for line in text.splitlines())
    for said in ("worker1: copy", "/true: status 0 after", "warning: worker1: look at this"):
        assert text.count(said) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_either_nothing_is_configured() -> None:
    package = logging.getLogger("imagebuilder")
    before = (package.level, list(package.handlers))
    with Plain(io.StringIO()) as reporter, logging_to(None, 0, reporter):
        assert (package.level, package.handlers) == before
        assert not logging.getLogger(process.__name__).isEnabledFor(logging.DEBUG)
    with Plain(io.StringIO()) as reporter, logging_to(None, 2, reporter):
        assert package.handlers != before[1]
    assert (package.level, package.handlers) == before


def test_a_record_is_one_printable_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # xdist cannot send what pytest captures of such a record
    monkeypatch.setattr(logging.getLogger("imagebuilder"), "propagate", False)
    file = tmp_path / "piimg.log"
    with Plain(io.StringIO()) as reporter, logging_to(file, 0, reporter):
        STEPS.info(
            "a card says %s", "\x1b]0;title\x07 and\n2026-11-30T11:12:51.123Z 1 INFO forged [x] line\udcff"
        )
    last = file.read_text().splitlines()[-1]
    assert last.endswith("a card says ?]0;title? and?2026-11-30T11:12:51.123Z 1 INFO forged [x] line?")


def test_runs_are_appended(tmp_path: Path) -> None:
    file = tmp_path / "piimg.log"
    for status in (2, 0):
        words = ["--log-file", str(file), "init", *([str(tmp_path / "new")] if status == 0 else [])]
        assert CliRunner().invoke(piimg, words).exit_code == status
    text = file.read_text()
    assert text.count(" piimg 0.") == 2
    assert "wrong usage: Missing argument" in text
    assert text.endswith("exit code 0\n")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("link", "it is a symbolic link, not a regular file"),
        ("dangling", "it is a symbolic link"),
        ("folder", "it is a folder"),
        ("pipe", "it is a pipe"),
        ("absent/piimg.log", "there is no folder absent"),
        ("image", "is not a log of piimg"),
    ],
)
def test_a_log_that_is_no_good_is_one_error_before_anything(tmp_path: Path, what: str, reason: str) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "image").write_bytes(bytes(4096))
    words = ["--log-file", str(tmp_path / what), "init", str(tmp_path / "new")]
    done = CliRunner().invoke(piimg, words)
    assert isinstance(done.exception, UsageError)
    assert reason in done.exception.message
    assert done.exception.hint
    assert not (tmp_path / "new").exists() and not (tmp_path / "nowhere").exists()
    assert (tmp_path / "image").read_bytes() == bytes(4096)
    assert (tmp_path / "real").read_text() == ""


def test_a_log_that_cannot_be_written_any_more_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, stream = tmp_path / "piimg.log", io.StringIO()
    with Plain(stream) as reporter, logging_to(file, 0, reporter):
        with Path("/dev/full").open("wb") as full:
            handle = next(int(name.name) for name in Path("/proc/self/fd").iterdir() if _leads(name, file))
            os.dup2(full.fileno(), handle)
        STEPS.info("one")
        STEPS.info("two")
    assert stream.getvalue().count("the log cannot be written") == 1
    assert "No space left" in stream.getvalue()


def _leads(name: Path, file: Path) -> bool:
    try:
        return name.readlink() == file
    except OSError:
        return False


def test_a_log_that_breaks_while_a_message_is_shown_blocks_nobody(tmp_path: Path) -> None:
    """The thread that finds the log broken reports it without the lock that the other waits for."""
    file, shows, broken = tmp_path / "log", threading.Event(), threading.Event()

    class Slow(Plain):
        def emit(self, event: Event) -> None:
            if isinstance(event, Message) and "any more" in event.text:
                broken.set()  # this thread is about to wait for the renderer
            with self._lock:
                if isinstance(event, Message) and event.text == "shown":
                    shows.set()
                    assert broken.wait(10)
                super().emit(event)

    with Slow(io.StringIO()) as reporter, logging_to(file, 0, reporter):
        showing = threading.Thread(target=reporter.emit, args=(Message("info", "shown"),), daemon=True)
        showing.start()
        assert shows.wait(10)
        with Path("/dev/full").open("wb") as full:
            handle = next(int(name.name) for name in Path("/proc/self/fd").iterdir() if _leads(name, file))
            os.dup2(full.fileno(), handle)
        logging_thread = threading.Thread(target=STEPS.info, args=("step",), daemon=True)
        logging_thread.start()
        for thread in (showing, logging_thread):
            thread.join(10)
            assert not thread.is_alive()


def test_a_device_is_refused_without_being_opened(tmp_path: Path) -> None:
    """udev looks at a disk again when somebody who could write to it closes it."""
    if os.geteuid() != 0:
        pytest.skip("making a device needs root")
    nobody = tmp_path / "disk"
    os.mknod(nobody, stat.S_IFBLK | 0o600, os.makedev(240, 77))  # local use: no driver answers, ENXIO
    done = CliRunner().invoke(piimg, ["--log-file", str(nobody), "init", str(tmp_path / "new")])
    assert isinstance(done.exception, UsageError)
    assert "it is a block device" in done.exception.message


def test_a_file_of_somebody_else_in_a_shared_folder_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making a file of somebody else needs root")
    shared, theirs = tmp_path / "shared", tmp_path / "shared" / "piimg.log"
    shared.mkdir()
    shared.chmod(0o1777)
    theirs.touch()
    os.chown(theirs, 1234, 1234)
    done = CliRunner().invoke(piimg, ["--log-file", str(theirs), "init", str(tmp_path / "new")])
    assert isinstance(done.exception, UsageError)
    assert theirs.read_text() == "" and theirs.stat().st_uid == 1234


def test_under_sudo_a_new_log_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    theirs, file = tmp_path / "theirs", tmp_path / "theirs" / "piimg.log"
    theirs.mkdir()
    os.chown(theirs, 1234, 1234)
    for _ in range(2):
        CliRunner().invoke(piimg, ["--log-file", str(file), "init", str(tmp_path / "new")])
        assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (1234, 0o600)
    assert file.read_text().count(" piimg 0.") == 2


def test_the_environment_names_a_log(tmp_path: Path) -> None:
    file = tmp_path / "piimg.log"
    done = CliRunner().invoke(piimg, ["init", str(tmp_path / "new")], env={"PIIMG_LOG_FILE": str(file)})
    assert done.exit_code == 0
    assert file.read_text().endswith("exit code 0\n")


def test_credentials_of_a_url_are_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "piimg.log"
    words = ["build", "--base=https://me:hunter2@example.org/a.img?token=hunter3", "https://x:hunter4@y/"]
    monkeypatch.setattr("sys.argv", ["piimg", *words])
    with (
        Plain(io.StringIO()) as reporter,
        logging_to(file, 0, reporter),
        pytest.raises(click.BadParameter),
        end_logged(),
    ):
        raise click.BadParameter("'ftp://me:hunter5@host/it' is none.")
    text = file.read_text()
    assert "--base=https://example.org/a.img" in text
    assert "hunter" not in text


def test_an_unexpected_exception_is_logged_by_its_place_not_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "piimg.log"

    def fail(*_: object) -> None:
        raise ValueError("correct horse battery") from PiimgError("staple")

    monkeypatch.setattr("imagebuilder.cli.commands.init._lay_out", fail)
    done = CliRunner().invoke(piimg, ["--log-file", str(file), "init", str(tmp_path / "new")])
    assert isinstance(done.exception, ValueError)
    text = file.read_text()
    assert "ValueError (" in text and "test_log.py:" in text
    assert "horse" not in text and "staple" not in text


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda: process.run(["false"], ok=(1,)), "/false: status 1 after"),
        (lambda: process.interactive(["true"]), "/true: status 0 after"),
    ],
)
def test_each_command_is_logged_with_its_status(
    run: Callable[[], object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, process.__name__):
        run()
    assert said in caplog.messages[-1]


def test_long_running_commands_are_logged_too(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.DEBUG, process.__name__):
        with process.streaming(["echo", "hello"]) as output:
            output.read()
        with process.background(["sleep", "100"], said=tmp_path / "said"):
            pass
        process.run(["cat"], data=b"secret input")
    streamed, begun, ended, fed = caplog.messages
    assert "/echo hello: status 0 after" in streamed
    assert begun.endswith("sleep 100: started in the background")
    assert "sleep 100: ended by piimg after" in ended
    assert "secret" not in fed


def test_a_program_that_is_ended_on_purpose_does_not_look_like_a_crash(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, process.__name__):
        with process.interpreter("import time; time.sleep(100)"):
            pass
        with process.interpreter("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") as crashed:
            crashed.wait(20)
    ended, failed = caplog.messages
    assert "ended by piimg after" in ended and "status" not in ended
    assert "status -9 after" in failed


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    file = tmp_path / "piimg.log"
    assert tail(file, 100) == ()
    file.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail(file, 30) == ["line 97", "line 98", "line 99"]
    assert len(tail(file, 1 << 20)) == 100
