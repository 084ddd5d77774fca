"""The ``hsm-enroll`` command: thin click commands, loaded when they are run. Only this module ends the process."""

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

# Command: its module, and its summary in --help, which does not load the module.
_COMMANDS = {
    "init": ("enroll", "Turn a key in this device's token into an AWS IoT identity."),
    "status": ("status", "Show this device's identity."),
    "doctor": ("doctor", "Check this device, and say how to fix what is wrong."),
    "tokens": ("tokens", "List PKCS#11 modules, tokens and keys."),
    "token": ("tokens", "Create a token."),
    "csr": ("csr", "Print a certificate request that is signed in the token."),
    "publish": ("mqtt", "Publish one message."),
    "subscribe": ("mqtt", "Print the messages on a topic."),
    "backend": ("backend", "Deploy, show or delete the backend in an AWS account."),
    "invite": ("invite", "Create, list and revoke invites."),
    "fleet": ("fleet", "List, show and revoke Things; disable orphaned certificates."),
    "local": ("local", "Run a cloud on this machine, for demos, tests and offline work."),
}
_SIGTERM_STATUS = 143


class _LazyGroup(click.Group):
    """Loads a command's module only when the command is run, so that status does not load what only init needs."""

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

    The private key is generated in a TPM, an HSM or SoftHSM and never leaves it. Start with: hsm-enroll init
    """


def main() -> None:
    """Run the command line and exit with the command's documented status."""
    _open_standard_streams()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status: Any = _run(sys.argv[1:])
    except SystemExit as ended:
        status = ended.code
    _leave(status)


def _leave(status: Any) -> NoReturn:
    """Exit with a status, even if a library would crash at exit.

    awscrt's threads may still be running then, and the PKCS#11 module that it loaded runs its destructors. Both have
    crashed after the command's work was done.
    """
    if "awscrt" not in sys.modules:
        sys.exit(status)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


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


def _run(arguments: list[str]) -> int:
    # Set before click parses the options, so that with --json an error in them is printed as JSON too.
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
        # The reader has closed the pipe; discard what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - top level: one sentence for the user; --verbose shows the traceback
        unexpected = HsmEnrollError(
            f"unexpected error: {type(error).__name__}",
            hint="Run the command again with --verbose, and report its output.",
        )
        unexpected.__cause__ = error
        terminal.error(unexpected)
        return unexpected.exit_status
    # click returns the status of an early exit (--help, or click.exceptions.Exit), otherwise the command's None.
    return status or 0


def _terminated(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
    """Exit as after Ctrl-C, closing sessions and releasing locks; only the status differs."""
    raise SystemExit(_SIGTERM_STATUS)
