"""The ``hsm-enroll`` command: thin click commands, loaded one at a time; the one place that ends the process."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from types import FrameType
from typing import Any, NoReturn

import click

from hsm_enroll.cli.terminal import Terminal
from hsm_enroll.errors import HsmEnrollError, InterruptedRunError, UsageError
from hsm_enroll.version import __version__

# name: module, and what --help says of it without loading the module.
_COMMANDS = {
    "init": ("enroll", "Turn a key in this device's token into an AWS IoT identity."),
    "status": ("status", "Show what this device holds."),
    "doctor": ("doctor", "Check everything, and say what to do."),
    "tokens": ("tokens", "List modules, tokens and keys."),
    "token": ("tokens", "Make a token."),
    "csr": ("csr", "Print a certificate request signed in the token."),
    "publish": ("mqtt", "Publish one message."),
    "subscribe": ("mqtt", "Print the messages of a topic."),
    "backend": ("backend", "Deploy the backend into an AWS account, look at it, delete it."),
    "invite": ("invite", "Make, list and revoke invites."),
    "fleet": ("fleet", "List the enrolled Things, show one, revoke one, sweep."),
    "local": ("local", "A cloud on this machine, for demos, tests and offline work."),
}
_SIGTERM_STATUS = 143


class _LazyGroup(click.Group):
    """Loads a command's module when the command is run: status does not pay for what init needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"hsm_enroll.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hsm-enroll")
def app() -> None:
    """Hardware-backed device identity on AWS IoT.

    The private key is born in a TPM, an HSM or SoftHSM and never leaves it. Start with: hsm-enroll init
    """


def main() -> None:
    """Run the command line and end the process with the contract's exit status."""
    _open_standard_streams()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status: Any = _run(sys.argv[1:])
    except SystemExit as ended:
        status = ended.code
    _leave(status)


def _leave(status: Any) -> NoReturn:
    """End with an exit status, whatever becomes of foreign code at the end of a process.

    awscrt's threads may still be at work then, and the PKCS#11 module that it has loaded runs its destructors: either
    has been seen to crash, when everything was done and said.
    """
    if "awscrt" not in sys.modules:
        sys.exit(status)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _open_standard_streams() -> None:
    """Give what a caller has closed (``>&-``) to nobody, so that no file of ours gets a standard stream's number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        # A path that is not text in this locale is shown escaped.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> int:
    # Known before click has read the options, so that an error in them is JSON too where JSON was asked for.
    terminal = Terminal(
        as_json="--json" in arguments,
        quiet="--quiet" in arguments,
        verbose=not {"-v", "--verbose"}.isdisjoint(arguments),
    )
    try:
        status = app.main(arguments, prog_name="hsm-enroll", standalone_mode=False)
    except HsmEnrollError as error:
        terminal.error(error)
        return error.exit_status
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message() + "\n")
        return UsageError.exit_status
    except click.ClickException as error:
        hint = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else None
        terminal.error(UsageError(error.format_message(), hint=hint))
        return UsageError.exit_status
    except (click.Abort, KeyboardInterrupt):
        terminal.error(InterruptedRunError("interrupted"))
        return InterruptedRunError.exit_status
    except BrokenPipeError:
        # Whoever read the output has seen enough; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the very top: a person is shown a sentence, and the rest on request
        unexpected = HsmEnrollError(
            f"something unexpected happened: {type(error).__name__}",
            hint="Run it again with --verbose and report what it shows.",
        )
        unexpected.__cause__ = error
        terminal.error(unexpected)
        return unexpected.exit_status
    # click answers with the status of an early exit (--help, or a command's own), else with the command's None.
    return status or 0


def _terminated(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
    """End as Ctrl-C does, so that sessions are closed and locks are given back; only the status differs."""
    raise SystemExit(_SIGTERM_STATUS)
