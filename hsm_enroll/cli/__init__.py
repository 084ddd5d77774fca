"""The ``hsm-enroll`` command: thin click commands, loaded when they are run. Only this module ends the process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from importlib import import_module
from io import TextIOWrapper
from itertools import takewhile
from typing import Any, NoReturn

import click

from hsm_enroll import machine
from hsm_enroll.cli import signals
from hsm_enroll.cli.help_text import WholeWords
from hsm_enroll.cli.terminal import Terminal, columns, flush
from hsm_enroll.errors import HsmEnrollError, InterruptedRunError, OutputError, UsageError
from hsm_enroll.version import __version__

# Command: its module, and its summary in --help, which does not load the module.
_COMMANDS = {
    "init": ("enroll", "Turn a key in this device's token into an AWS IoT identity."),
    "status": ("status", "Show this device's identity."),
    "doctor": ("doctor", "Check this device, and say how to fix what is wrong."),
    "tokens": ("tokens", "List PKCS#11 modules, tokens and keys."),
    "token": ("tokens", "Create a token, or destroy the keys in it that are not in use."),
    "tpm": ("tpm", "Show this machine's TPM, and the keys by which the backend can recognise it."),
    "csr": ("csr", "Print a certificate request that is signed in the token."),
    "publish": ("mqtt", "Publish one message."),
    "subscribe": ("mqtt", "Print the messages on a topic."),
    "forward": ("forward", "Send what is in the outbox, and stay connected."),
    "export": ("export", "Show how other programs, such as curl or mosquitto, use this device's key and certificate."),
    "run": ("program", "Run a program with this device's identity in its environment."),
    "outbox": ("outbox", "List, send again or delete messages that the broker has refused."),
    "aws-credentials": ("aws_credentials", "Print AWS credentials that this device's key gets."),
    "service": ("service", "Install, show or remove the services that forward and renew."),
    "renew": ("renew", "Replace this device's key and certificate by new ones."),
    "recover": ("recover", "Get this device's identity back, by the key in its token."),
    "retire": ("retire", "Give this device's identity up, in the cloud and on this device."),
    "backend": ("backend", "Deploy, show or delete the backend in an AWS account."),
    "invite": ("invite", "Create, list and revoke invites."),
    "fleet": ("fleet", "List, show, revoke and replace Things; disable orphaned certificates."),
    "local": ("local", "Run a cloud on this machine, for demos, tests and offline work."),
}
# Commands that print several JSON documents, each on a line.
_STREAMING = {"subscribe", "forward"}
# How long a reader that has stopped may hold up the end after a signal.
_FLUSH_SECONDS = 1.0
_CLICKS_NARROWEST = 52

click.Context.formatter_class = WholeWords


class _LazyGroup(click.Group):
    """Loads a command's module only when the command is run, so that status does not load what only init needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"hsm_enroll.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(name, _COMMANDS, n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hsm-enroll")
def app() -> None:
    """Hardware-backed device identity on AWS IoT.

    The private key is generated in a TPM, an HSM or SoftHSM and never leaves it. Start with: hsm-enroll init
    """


def main() -> None:
    """Run the command line and exit with the command's documented status."""
    status: Any
    try:
        _open_standard_streams()
        status = run(sys.argv[1:])
    except SystemExit as ended:
        status = ended.code
    except KeyboardInterrupt as interruption:
        status = 128 + signals.of(interruption)
    _leave(status)


def _leave(status: Any) -> NoReturn:
    """Exit with a status, even if a library would crash at exit or nobody reads what was printed.

    awscrt's threads may still be running then, and the PKCS#11 module that it loaded runs its destructors. Both have
    crashed after the command's work was done. After a signal, stdout may be a pipe that is full.
    """
    if status in {InterruptedRunError.exit_status, signals.TERMINATED_STATUS}:
        flushing = threading.Thread(target=flush, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_SECONDS)
        os._exit(status)
    flush()
    # A request to the API may still be under way, in a thread that Python would end in the middle of TLS.
    if "awscrt" in sys.modules or threading.active_count() > 1:
        os._exit(status)
    sys.exit(status)


def _open_standard_streams() -> None:
    """Open closed standard streams (``>&-``) on /dev/null, so that no other file gets their descriptors."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        # Escape what this locale cannot encode, such as some paths.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(arguments: list[str]) -> int:
    """Run a command, show its errors, and return its documented exit status."""
    # Set before click parses the options, so that with --json an error in them is printed as JSON too.
    own = _own(arguments)
    terminal = Terminal(
        as_json="--json" in own,
        streaming=not _STREAMING.isdisjoint(own[:1]),
        quiet="--quiet" in own,
        verbose=not {"-v", "--verbose"}.isdisjoint(own),
    )
    try:
        _check_encoding(own)
        status = app.main(
            arguments, prog_name="hsm-enroll", standalone_mode=False, terminal_width=_help_width(columns(sys.stdout))
        )
    except (InterruptedRunError, click.Abort, KeyboardInterrupt) as interruption:
        return _interrupted(terminal, interruption)
    except HsmEnrollError as error:
        shown = machine.explained(error) or error
        terminal.error(shown)
        return shown.exit_status
    except click.exceptions.NoArgsIsHelpError as error:
        terminal.help(error.format_message())
        return UsageError.exit_status
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption):
            near = _near(error.option_name, error.possibilities or ())
            error = click.NoSuchOption(error.option_name, possibilities=near, ctx=error.ctx)
        # click writes the choices of an option on lines of their own.
        terminal.error(UsageError(" ".join(error.format_message().split()), hint=_usage_hint(error)))
        return UsageError.exit_status
    except BrokenPipeError:
        # The reader has had enough, and knows it.
        return HsmEnrollError.exit_status
    except Exception as error:  # noqa: BLE001 - top level: one sentence for the user; --verbose shows the traceback
        unexpected = (
            _unwritten_help(error, arguments)
            or machine.explained(error)
            or HsmEnrollError(
                f"unexpected error in hsm-enroll {__version__}: {type(error).__name__}",
                hint="Run the command again with --verbose, and report its output.",
            )
        )
        unexpected.__cause__ = error
        terminal.error(unexpected)
        return unexpected.exit_status
    # click returns the status of an early exit (--help, or click.exceptions.Exit), otherwise the command's None.
    return status or 0


def _own(arguments: list[str]) -> list[str]:
    """Return the arguments without those of the program that ``run`` runs."""
    if arguments[:1] != ["run"]:
        return arguments
    return ["run", *takewhile(lambda argument: argument.startswith("-") and argument != "--", arguments[1:])]


def _interrupted(terminal: Terminal, interruption: BaseException) -> int:
    shown = interruption if isinstance(interruption, InterruptedRunError) else InterruptedRunError("interrupted")
    shown.signal = signals.of(interruption)
    terminal.error(shown)
    return 128 + shown.signal


def _unwritten_help(error: Exception, arguments: list[str]) -> OutputError | None:
    """Return the error for help or a version that stdout did not take: click writes these itself."""
    if not isinstance(error, OSError) or {"-h", "--help", "--version"}.isdisjoint(arguments):
        return None
    return OutputError(f"standard output cannot be written: {error.strerror}")


def _help_width(width: int) -> int | None:
    """Return the width of help texts for a terminal where click's own, of 50 to 78 columns, would be too wide."""
    return width if width < _CLICKS_NARROWEST else None


def _check_encoding(arguments: list[str]) -> None:
    """Refuse arguments that are not text in this locale, without showing them: one may be an invite.

    Raises:
        UsageError: the interpreter could not decode one.
    """
    for position, argument in enumerate(arguments, 1):
        if not argument.isascii() and any("\ud800" <= character <= "\udfff" for character in argument):
            raise UsageError(
                f"argument {position} is not valid text (UTF-8)", hint="Give a binary message to publish on stdin."
            )


def _near(option: str, known: Iterable[str]) -> list[str]:
    """Return the options that may be meant; the dashes, which click compares too, make any two short names alike."""
    from difflib import get_close_matches

    return [f"--{name}" for name in get_close_matches(option.lstrip("-"), [one.lstrip("-") for one in known])]


def _usage_hint(error: click.ClickException) -> str | None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return None
    if isinstance(context.command, click.Group):
        return f"Run {context.command_path} --help to see its commands."
    usage = " ".join(context.get_usage().split())
    takes_arguments = any(isinstance(parameter, click.Argument) for parameter in context.command.params)
    if isinstance(error, click.NoSuchOption) and takes_arguments and not error.possibilities:
        return f"{usage}\n  If it is a value that begins with a dash, put -- before all values."
    return usage
