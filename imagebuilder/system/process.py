"""Run other programs. This is the only module that starts processes.

Arguments are always a list, never a shell line, and never contain a secret: secrets go through ``data``
(standard input). The environment is reduced to what the tools need, so that a user's settings (TAR_OPTIONS,
MTOOLSRC, …) cannot change a result. Each program is logged when it has ended (DEBUG): its arguments, its exit
status, and its seconds; never its input, its output or its environment.
"""

import contextlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.text import printable

PACKAGES: Mapping[str, str] = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "chroot": "coreutils",
    "cpio": "cpio",
    "debugfs": "e2fsprogs",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "dpkg-query": "dpkg",
    "e2fsck": "e2fsprogs",
    "e2image": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "tune2fs": "e2fsprogs",
    "fuse2fs": "fuse2fs",
    "fusermount3": "fuse3",
    "gpg": "gpg",
    "gpgv": "gpgv",
    "fstrim": "util-linux",
    "losetup": "mount",
    "mount": "mount",
    "newuidmap": "uidmap",
    "umount": "mount",
    "mattrib": "mtools",
    "mcopy": "mtools",
    "mdel": "mtools",
    "mdir": "mtools",
    "mmd": "mtools",
    "mshowfat": "mtools",
    "mtype": "mtools",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "timeout": "coreutils",
    "unshare": "util-linux",
    "unzip": "unzip",
    "xz": "xz-utils",
    "zstd": "zstd",
}
"""The Debian package of each program that piimg may call."""

Child = subprocess.Popen[bytes]
"""A program that runs in the background."""

_log = logging.getLogger(__name__)

_POLL = 0.2  # seconds between two looks at a request to stop
_OUTPUT = 16 << 20  # bytes of a program's output in a log that are returned
_SHOWN = 500  # characters of the error message of a program that are shown
_LOGGED = 2000  # characters of a command line that are logged
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ToolError(PiimgError):
    """A program failed. ``status`` is its exit status (negative: killed by that signal)."""

    def __init__(self, message: str, hint: str, status: int, stdout: bytes, stderr: bytes) -> None:
        super().__init__(message, hint)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


def find(program: str) -> str:
    """The full path of ``program``. Raises PiimgError naming its package when it is not installed."""
    found = locate(program)
    if found is None:
        package = PACKAGES.get(program, program)
        raise PiimgError(f"{program} is not installed", f"sudo apt-get install {package}")
    return found


def locate(program: str) -> str | None:
    """The full path of ``program``, searched in PATH and in sbin; None when it is not installed."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_SBIN}")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of programs: fixed locale, time zone and PATH, plus ``extra``."""
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "PATH": f"{os.environ.get('PATH', '')}:{_SBIN}",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        **(extra or {}),
    }


def run(
    argv: Sequence[str | Path],
    *,
    data: bytes | None = None,
    ok: Sequence[int] = (0,),
    env: Mapping[str, str] | None = None,
    hint: str = "",
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    log: IO[bytes] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program until it ends and return its output.

    ``data`` is its standard input (None: /dev/null); ``ok`` are the exit statuses of success; ``cwd`` is its
    working folder. With ``log``, a file open for reading and appending, all that it prints goes there while
    it runs, and is returned as standard output; programs that it leaves running may keep the file open.
    Raises ToolError with the last line that the program printed, or PiimgError when it is not installed.
    """
    program = str(argv[0])
    command = [find(program), *(str(word) for word in argv[1:])]
    begun = time.monotonic()
    start = os.fstat(log.fileno()).st_size if log else 0
    done = subprocess.run(
        command,
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        stdout=log or subprocess.PIPE,
        stderr=log or subprocess.PIPE,
        env=environment(env),
        pass_fds=pass_fds,
        cwd=cwd,
        process_group=0,  # Ctrl-C must reach only piimg, which ends its programs: an umount must finish
        check=False,
    )
    _log_command(command, done.returncode, begun)
    if log:
        done.stdout, done.stderr = os.pread(log.fileno(), _OUTPUT, start), b""
    if done.returncode not in ok:
        raise failure(program, done.returncode, done.stdout, done.stderr, hint)
    return done


def run_until(
    argv: Sequence[str | Path],
    stop: threading.Event,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program, such as one that waits for a server, until it ends or ``stop`` is set.

    It is killed when ``stop`` is set, which raises Interrupted, and when piimg or the calling thread ends.
    Its standard input is /dev/null. Raises ToolError as ``run`` does.
    """
    program = str(argv[0])
    command = [find("setpriv"), "--pdeathsig", "KILL", "--", find(program), *map(str, argv[1:])]
    begun = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment(env),
            cwd=cwd,
            process_group=0,  # Ctrl-C must reach only piimg
        )
        try:
            while child.poll() is None:
                if stop.is_set():
                    raise Interrupted(f"{program} was stopped", "run it again")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_POLL)
        finally:
            _end(child, command, begun)
        output.seek(0)
        errors.seek(0)
        done = subprocess.CompletedProcess(command, child.returncode, output.read(), errors.read())
    if done.returncode != 0:
        raise failure(program, done.returncode, done.stdout, done.stderr)
    return done


@contextlib.contextmanager
def streaming(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    hint: str = "",
    pass_fds: Sequence[int] = (),
    patience: float | None = None,
) -> Iterator[IO[bytes]]:
    """Run a program and yield its standard output as a stream, for output too large for memory.

    The block must read it to its end; then the program's end is awaited, and ToolError raised if it failed.
    The program is killed when the block fails, and after ``patience`` seconds.
    """
    program = str(argv[0])
    command = [find(program), *(str(word) for word in argv[1:])]
    with tempfile.TemporaryFile() as errors:  # not a pipe, which could fill up without a reader
        begun = time.monotonic()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(env),
            pass_fds=pass_fds,
            process_group=0,  # Ctrl-C must reach only piimg, as in run
        )
        assert child.stdout is not None
        with _patient(child, patience):
            try:
                with child.stdout as output:
                    yield output
            except BaseException:
                child.kill()
                raise
            finally:
                status = child.wait()
                _log_command(command, status, begun)
        if status != 0:
            errors.seek(0)
            raise failure(program, status, b"", errors.read(), hint)


@contextlib.contextmanager
def _patient(child: subprocess.Popen[bytes], patience: float | None) -> Iterator[None]:
    """Kill ``child`` when the block takes longer than ``patience`` seconds."""
    timer = threading.Timer(patience, child.kill) if patience is not None else None
    if timer is None:
        yield
        return
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def background(
    argv: Sequence[str | Path], *, said: Path, cwd: Path | None = None, keep: Collection[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program during the block; its output is appended to the file ``said``.

    It inherits the descriptors in ``keep`` under the same numbers. It is killed at the end of the block, and
    when piimg or the thread that entered the block ends. Raises PiimgError when it is not installed.
    """
    # setpriv sets the parent death signal; a preexec_fn is not safe with other threads.
    command = [find("setpriv"), "--pdeathsig", "KILL", "--", find(str(argv[0])), *map(str, argv[1:])]
    begun = time.monotonic()
    with said.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            cwd=cwd,
            pass_fds=tuple(keep),
            process_group=0,  # Ctrl-C must reach only piimg
        )
    _log_command(command, None, begun)
    try:
        yield child
    finally:
        _end(child, command, begun)


@contextlib.contextmanager
def interpreter(
    code: str,
    *,
    keep: Collection[int] = (),
    within: Sequence[str | Path] = (),
    said: IO[bytes] | None = None,
) -> Iterator[Child]:
    """Run Python ``code`` during the block, with its standard input and output as pipes; then kill it.

    It inherits the descriptors in ``keep`` under the same numbers.
    It uses the executable of the running Python, which may have been replaced on the disk, with the same
    search path for modules. ``within`` is a program that runs it, such as unshare(1), by the name of the
    executable; it is also killed when the thread that entered the block ends. Its standard error goes to
    the file ``said``, or is discarded.
    """
    path = [str(Path(__file__).parents[2]), *sys.path]
    begun = time.monotonic()
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {path!r}; {code}"]
    if within:
        outer = [find(str(within[0])), *map(str, within[1:])]
        command = [find("setpriv"), "--pdeathsig", "KILL", "--", *outer, *command]
    child = subprocess.Popen(
        command,
        executable=None if within else "/proc/self/exe",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said or subprocess.DEVNULL,
        env=environment(),
        pass_fds=tuple(keep),
        process_group=0,  # Ctrl-C must reach only piimg
    )
    try:
        yield child
    finally:
        _end(child, ["python3", "-c", code], begun)
        for stream in (child.stdin, child.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # data that the child has not read
                stream.close()


def interactive(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> int:
    """Run a program on the terminal until it ends; its exit status. Raises PiimgError if not installed."""
    command = [find(str(argv[0])), *(str(word) for word in argv[1:])]
    begun = time.monotonic()
    status = subprocess.run(command, env=environment(env), check=False).returncode
    _log_command(command, status, begun)
    return status


@contextlib.contextmanager
def feeding(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[IO[bytes]]:
    """Run a program of the user on the terminal, such as a pager; the block writes its standard input.

    It has the environment ``env``, and is in the foreground as piimg is, so Ctrl-C reaches both. The end of
    the block waits for its end. Raises PiimgError if it is not installed.
    """
    command = [find(argv[0]), *argv[1:]]
    begun = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.PIPE, env=env)
    assert child.stdin is not None
    try:
        yield child.stdin
    except BaseException:
        child.terminate()
        raise
    finally:
        with contextlib.suppress(OSError):  # what was written last was not read
            child.stdin.close()
        _log_command(command, child.wait(), begun)


def _end(child: Child, command: Sequence[str], begun: float) -> None:
    """Kill a program that is not needed any more, wait for its end, and log it."""
    is_running = child.poll() is None
    child.kill()
    _log_command(command, child.wait(), begun, on_purpose=is_running)


def _log_command(
    command: Sequence[str], status: int | None, begun: float, *, on_purpose: bool = False
) -> None:
    """Log a program that has ended with ``status`` (negative: killed by that signal), or has started (None).

    ``begun`` is when it was started, by ``time.monotonic``. ``on_purpose``: piimg ended it, as planned.
    """
    if _log.isEnabledFor(logging.DEBUG):
        line = shlex.join(command)
        line = line if len(line) <= _LOGGED else f"{line[:_LOGGED]}…"
        if status is None:
            _log.debug("%s: started in the background", line)
        elif on_purpose:
            _log.debug("%s: ended by piimg after %.3f s", line, time.monotonic() - begun)
        else:
            _log.debug("%s: status %d after %.3f s", line, status, time.monotonic() - begun)


def failure(program: str, status: int, stdout: bytes, stderr: bytes, hint: str = "") -> ToolError:
    """The ToolError for a program that ended with ``status``."""
    lines = (stderr.strip() or stdout.strip()).decode("utf-8", "replace").splitlines()
    last = printable(lines[-1].strip(), _SHOWN) if lines else f"exit status {status}"
    name = Path(program).name
    text = last if last.startswith(f"{name}:") else f"{name}: {last}"
    return ToolError(text, hint, status, stdout, stderr)
