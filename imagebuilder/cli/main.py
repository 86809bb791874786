"""The ``piimg`` command: the group of commands, the common options, and the exit codes."""

import contextlib
import importlib
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, get_args

import click

from imagebuilder.cli.errors import print_error
from imagebuilder.cli.log import end_logged, logging_to
from imagebuilder.cli.output import echo, echo_usage
from imagebuilder.cli.progress.choice import Mode, renderer
from imagebuilder.cli.session import Session
from imagebuilder.cli.signals import SIGNALS, ignore_signals
from imagebuilder.errors import Interrupted, PiimgError, UsageError
from imagebuilder.text import did_you_mean
from imagebuilder.version import __version__

_COMMANDS = (
    "init",
    "plan",
    "fetch",
    "build",
    "boot",
    "cards",
    "flash",
    "station",
    "verify",
    "inspect",
    "export",
    "cleanup",
    "doctor",
)


class _Commands(click.Group):
    """The commands, each in the module of its name, which is loaded only when needed.

    Loading all of them takes twice as long.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(_COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a misspelled command."""
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{did_you_mean(args[0], list(_COMMANDS))}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None if it does not exist."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"imagebuilder.cli.commands.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and log its end while the log is still open."""
        with end_logged():
            return super().invoke(ctx)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The cluster manifest (default: $PIIMG_MANIFEST, else cluster.toml in this folder).",
)
@click.option(
    "--progress",
    "mode",
    type=click.Choice(get_args(Mode)),
    default="auto",
    show_default=True,
    help="How progress is shown on standard error.",
)
@click.option(
    "--log-file",
    "log_file",
    type=click.Path(path_type=Path),
    envvar="PIIMG_LOG_FILE",
    metavar="FILE",
    help="Append each step and each command to this log (default: $PIIMG_LOG_FILE).",
)
@click.option("-v", "--verbose", "verbosity", count=True, help="Show each step; -vv: also each command.")
@click.version_option(__version__, prog_name="piimg")
@click.pass_context
def piimg(
    context: click.Context, manifest: Path | None, mode: Mode, log_file: Path | None, verbosity: int
) -> None:
    """From one cluster manifest to verified, bootable Raspberry Pi SD cards.

    \b
    piimg init mycluster                 create a cluster folder
    piimg plan                           show what each node will get
    piimg build --all                    build every node's image
    piimg boot --all                     boot them in emulation and check them
    piimg flash --all                    write and verify all the cards

    Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 3 some cards not good, 130 interrupted.
    """
    shown_by = context.with_resource(renderer(mode))
    context.with_resource(logging_to(log_file, verbosity, shown_by))
    context.obj = Session(reporter=shown_by, chosen=manifest)


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop cleanly at the first signal; further signals are ignored during the cleanup."""
    ignore_signals()
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line, print errors without a traceback, and exit with the documented code."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115 - closed by the caller (>&-)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name on a card may have no valid encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = piimg.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        status = _interrupted()
    except KeyboardInterrupt:
        status = _interrupted()
    except click.ClickException as error:
        echo_usage(error)
        status = error.exit_code
    except Interrupted as error:
        print_error(error)
        status = 130
    except PiimgError as error:
        print_error(error)
        status = 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        status = 1
    except OSError as error:  # a problem of the host: a full disk, a folder that may not be written
        print_error(error)
        status = 1
    finally:
        ignore_signals()  # a late signal must not change the exit code
    for stream in (sys.stdout, sys.stderr):
        _give_up_unwritable(stream)
    sys.exit(status if isinstance(status, int) else 0)


def _give_up_unwritable(stream: TextIO) -> None:
    """Redirect a stream that cannot be written: the interpreter would retry at its end, and exit with 120."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _interrupted() -> int:
    with contextlib.suppress(OSError):
        echo("\npiimg: interrupted" if sys.stderr.isatty() else "piimg: interrupted", err=True)
    return 130
