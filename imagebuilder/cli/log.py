"""The log of a run, for --log-file and -v. No other module configures logging.

Library modules log to loggers of their own names: steps at INFO, commands at DEBUG. Without --log-file and
-v there is no handler and the level is not changed, so nothing is formatted or stored. Output on standard
error is logged, too, so that a log is complete. No secret reaches a log: the text of an error
is logged as it is shown; of an unexpected exception only type and place, because its text may quote anything.
"""

import contextlib
import logging
import os
import platform
import re
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from imagebuilder import __version__
from imagebuilder.base.catalogue import shown as without_credentials
from imagebuilder.cli.output import SHOWN
from imagebuilder.cli.progress.base import Renderer
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Message
from imagebuilder.system import files
from imagebuilder.text import printable

_log = logging.getLogger(__name__)

_PACKAGE = logging.getLogger("imagebuilder")
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)  # by the number of -v
_LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \d+ ")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_LONGEST = 8000  # characters of one line


@contextlib.contextmanager
def logging_to(file: Path | None, verbosity: int, reporter: Renderer) -> Iterator[None]:
    """Within the block, log to ``file``, if given, and show records with ``reporter``.

    ``verbosity`` is the number of -v: 0 shows nothing, 1 steps, 2 commands as well. Raises UsageError when
    the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if file is not None:
        handlers.append(_LogFile(_opened(file), file, reporter))
    shown = _LEVELS[min(verbosity, 2)]
    if verbosity:
        handlers.append(_OnScreen(reporter, shown))
    if not handlers:
        yield
        return
    before = _PACKAGE.level
    for handler in handlers:
        _PACKAGE.addHandler(handler)
    _PACKAGE.setLevel(logging.DEBUG if file is not None else shown)
    try:
        _log_begin()
        yield
    finally:
        _PACKAGE.setLevel(before)
        for handler in handlers:
            _PACKAGE.removeHandler(handler)
            handler.close()


def _log_begin() -> None:
    words = shlex.join(_without_credentials(word) for word in sys.argv[1:])
    _log.info("piimg %s: %s", __version__, words)
    _log.info("Python %s, Linux %s, user %d", platform.python_version(), os.uname().release, os.geteuid())


@contextlib.contextmanager
def end_logged() -> Iterator[None]:
    """Log how the command in the block ended. Errors are raised again."""
    begun, how = time.monotonic(), "exit code 0"
    try:
        yield
    except BaseException as error:
        how = _how(error)
        raise
    finally:
        _log.info("end after %.1f s: %s", time.monotonic() - begun, how)


def _how(error: BaseException) -> str:
    """One line on how a command ended, without the text of unexpected exceptions."""
    if isinstance(error, click.exceptions.Exit):
        return f"exit code {error.exit_code}"
    if isinstance(error, PiimgError):
        return f"{_places(error)}: {error.whole}"
    if isinstance(error, click.ClickException):
        return f"wrong usage: {_without_credentials(error.format_message())}"
    if isinstance(error, OSError):
        return f"{_places(error)}: {error.filename or ''} {error.strerror}"
    return _places(error)


def _places(error: BaseException) -> str:
    """The type of an exception, and the last places in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} ({places})"


def _without_credentials(text: str) -> str:
    """Text typed by the user, with user, password and query removed from URLs."""
    return _URL.sub(lambda found: without_credentials(found[0]), text)


def _opened(file: Path) -> int:
    """Open a log for appending: a new file with mode 0600, or a log of piimg. Raises UsageError."""
    try:
        files.check(file)  # also refuses another user's file in a shared folder
        handle = files.open_plain(file, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise UsageError(
            f"cannot write the log to {file}: {error.strerror}",
            "name a file in a folder that you may write to",
        ) from error
    try:
        _check_log(handle, file)
        _give_to_owner(handle, file)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _check_log(handle: int, file: Path) -> None:
    """Raise UsageError unless the open file is empty or a log of piimg, and not an image, for example."""
    head = os.pread(handle, 40, 0)
    if head and not _LINE.match(head):
        raise UsageError(f"{file} is not a log of piimg, so nothing is appended to it", "name another file")


def _give_to_owner(handle: int, file: Path) -> None:
    """Under sudo, give a new log to the owner of its folder."""
    status = os.fstat(handle)
    if os.geteuid() == 0 and status.st_size == 0 and status.st_nlink == 1:
        with contextlib.suppress(OSError):  # a file system without owners
            owner = file.absolute().parent.stat()
            os.fchown(handle, owner.st_uid, owner.st_gid)


class _LogFile(logging.Handler):
    """Appends a line for each record: time (UTC), process, level, module, thread, text."""

    def __init__(self, handle: int, file: Path, reporter: Renderer) -> None:
        super().__init__(logging.DEBUG)
        self._handle, self._file, self._reporter, self._broken = handle, file, reporter, False
        self._reason = ""  # why the log is broken, until that is reported

    def handle(self, record: logging.LogRecord) -> bool:
        """Append a record. If the log cannot be written, there is one warning, and no error."""
        handled = super().handle(record)
        self.acquire()
        reason, self._reason = self._reason, ""
        self.release()
        # Without the lock of this handler: a renderer that has its own lock logs, and would wait for this.
        if reason:
            text = f"the log cannot be written to {self._file} any more: {reason}"
            self._reporter.emit(Message("warning", text))
        return bool(handled)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; ``handle`` reports an error."""
        if self._broken:
            return
        try:
            rest = memoryview(line(record).encode("utf-8", "backslashreplace"))
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            self._broken, self._reason = True, error.strerror or repr(error)

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        super().close()


class _OnScreen(logging.Handler):
    """Shows each record as a message: above bars, as a line, or as a JSON event (``data`` has its level)."""

    def __init__(self, reporter: Renderer, level: int) -> None:
        super().__init__(level)
        self._reporter = reporter
        # A filter runs before the handler's lock is taken: the renderer may log while it has its own lock.
        self.addFilter(lambda record: record.name not in (SHOWN.name, _log.name))

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        data = {"level": record.levelname, "logger": record.name}
        self._reporter.emit(Message("info", _text(record), data=data))


def line(record: logging.LogRecord) -> str:
    """A record as one line of the log, with its line end."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    where = f"{record.name.removeprefix('imagebuilder.')} [{record.threadName}]"
    head = f"{moment}.{int(record.msecs):03}Z {record.process} {record.levelname}"
    return f"{head} {where} {_text(record)}\n"


def _text(record: logging.LogRecord) -> str:
    return printable(record.getMessage(), _LONGEST)


def tail(file: Path, limit: int) -> Sequence[str]:
    """The last lines of a log, at most ``limit`` bytes; none if the file is missing. Raises OSError."""
    try:
        handle = files.open_plain(file, os.O_RDONLY)
    except FileNotFoundError:
        return ()
    try:
        size = os.fstat(handle).st_size
        content = os.pread(handle, limit, max(0, size - limit))
    finally:
        os.close(handle)
    lines = content.decode("utf-8", "replace").splitlines()
    return [printable(text, _LONGEST) for text in (lines[1:] if size > limit else lines)]
