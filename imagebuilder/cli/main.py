"""The ``piimg`` command: the group of commands, the common options, and the exit codes."""

import contextlib
import importlib
import io
import itertools
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, TextIO, get_args

import click

from imagebuilder.cli.command import COMMANDS
from imagebuilder.cli.file_path import FilePath, OutputPath
from imagebuilder.cli.late_options import moved_to_front, refuse_empty
from imagebuilder.cli.progress.choice import Mode
from imagebuilder.cli.stop_signals import SIGNALS, ignore_signals
from imagebuilder.errors import Interrupted, PiimgError, UsageError
from imagebuilder.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _Commands(click.Group):
    """The commands. How one is called is in the module of its name in usage/, which is loaded only for it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, but without loading the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        """As click does, but without loading the commands."""
        from click.shell_completion import CompletionItem

        begun = {name: about for name, about in COMMANDS.items() if name.startswith(incomplete)}
        found = [CompletionItem(name, help=about) for name, about in begun.items()]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; the common options may also follow the command."""
        words = moved_to_front(args, self.params, lambda name: self.get_command(ctx, name))
        if not ctx.resilient_parsing:
            refuse_empty(list(itertools.takewhile(lambda word: word not in COMMANDS, words)), ctx)
        return super().parse_args(ctx, words)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a misspelled command."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from imagebuilder.text import did_you_mean

            ctx.fail(f"No such command {args[0]!r}{did_you_mean(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None if it does not exist."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"imagebuilder.cli.usage.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--manifest",
    type=FilePath(dir_okay=False),
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
    type=OutputPath(),
    envvar="PIIMG_LOG_FILE",
    metavar="FILE",
    help="Append each step and each command to this log (default: $PIIMG_LOG_FILE).",
)
@click.option("-v", "--verbose", "verbosity", count=True, help="Show each step; -vv: also each command.")
@click.version_option(__version__, prog_name="piimg")
def piimg(**options: object) -> None:
    """From one cluster manifest to verified, bootable Raspberry Pi SD cards.

    \b
    piimg init mycluster                 create a cluster folder
    piimg plan                           show what each node will get
    piimg build --all                    build every node's image
    piimg boot --all                     boot them in emulation and check them
    piimg flash --all                    write and verify all the cards
    piimg status                         show which cards are up to date

    Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 3 some cards not good, 130 interrupted.
    """
    # The session of these options begins when the command runs (command.py): its --help needs none.


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
    except BrokenPipeError:
        status = 1
    except (click.ClickException, PiimgError, OSError) as error:  # OSError: a full disk, a protected folder
        status = _failed(error)
    finally:
        ignore_signals()  # a late signal must not change the exit code
    for stream in (sys.stdout, sys.stderr):
        _give_up_unwritable(stream)
    sys.exit(status if isinstance(status, int) else 0)


def _failed(error: click.ClickException | PiimgError | OSError) -> int:
    """Print an error, and return the exit code."""
    ignore_signals()
    from imagebuilder.cli.errors import print_error
    from imagebuilder.cli.output import echo_usage

    if isinstance(error, click.ClickException):
        echo_usage(error)
        return error.exit_code
    print_error(error)
    if isinstance(error, Interrupted):
        return 130
    return 2 if isinstance(error, UsageError) else 1


def _give_up_unwritable(stream: TextIO) -> None:
    """Redirect a stream that cannot be written: the interpreter would retry at its end, and exit with 120."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _interrupted() -> int:
    from imagebuilder.cli.output import echo

    with contextlib.suppress(OSError):
        echo("\npiimg: interrupted" if sys.stderr.isatty() else "piimg: interrupted", err=True)
    return 130
