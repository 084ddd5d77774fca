"""``hsm-enroll run``: a program with this device's identity in its environment."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.device.export import Exported, gathering, isolation
from hsm_enroll.device.export import environment as run_environment
from hsm_enroll.errors import UsageError
from hsm_enroll.secret import PIN_VARIABLE
from hsm_enroll.service import fitting
from hsm_enroll.store import run_folder
from hsm_enroll.store.identity import Identity

_FORWARDED = {
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2),
}
# Python ignores them, and what is ignored stays so in a new program.
_PYTHONS = {signal.SIGPIPE, signal.SIGXFSZ}
# sigaction(2), si_code: what a terminal sends comes from the kernel, to the whole foreground process group.
_FROM_A_PROCESS = 0
_SERVER_SECONDS, _POLL_SECONDS = 10.0, 0.01
_LONGEST_SOCKET = 106  # bytes; p11-kit's server takes one less than unix(7), sun_path, allows


@command("run", example="hsm-enroll run -- curl https://gateway.example/status")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARGUMENT]...")
def run(invocation: Invocation, *, program: tuple[str, ...]) -> None:
    """Run a program with this device's identity in its environment, and exit with its status.

    It finds the key's URI, the certificate, the broker and more in variables, which hsm-enroll run env shows. curl,
    OpenSSL's programs and Python's ssl use the identity by them. Signals are passed on to it. With --json, what it
    writes to stdout goes to stderr, and the document has its exit status.
    """
    terminal = invocation.terminal
    found = shutil.which(program[0])
    if found is None:
        raise UsageError(
            f"the program {program[0]!r} was not found, or cannot be executed", hint="Check its name, and PATH."
        )
    identity = Identity.load(invocation.settings.state)
    settings = invocation.settings
    pin_file = gathering.find_pin_file(identity, settings, os.environ)
    if pin_file is None and os.environ.get(PIN_VARIABLE):
        terminal.warn(
            f"the PIN in {PIN_VARIABLE} is not passed on to the program, which has to ask for it; "
            "to name a file that has it: HSM_ENROLL_PIN_FILE=FILE"
        )
    exported = gathering.gather(identity, settings, os.environ, fitting.executable_file(), pin_file=pin_file)
    with run_folder.held() as folder, _server(identity, exported, folder) as exported:
        for file in run_environment.files(exported):
            path = folder / file.name
            path.write_text(file.text, encoding="utf-8")
            path.chmod(file.mode)
        # Whole paths: the program may change its folder, and run hsm-enroll there.
        inherited = {**os.environ, **gathering.own_environment(os.environ)}
        variables = run_environment.variables(exported, folder, inherited)
        status = _run(found, program, variables, stdout_to_stderr=terminal.as_json)
    if terminal.as_json:
        terminal.result({"program": {"exitStatus": status}}, "")
    raise click.exceptions.Exit(status)


# What follows PROGRAM is the program's own, also if it begins with a dash.
run.allow_interspersed_args = False


@contextmanager
def _server(identity: Identity, exported: Exported, folder: Path) -> Iterator[Exported]:
    """Have p11-kit's server load the token's module if programs must not, for as long as the program runs."""
    if not isolation.is_needed(identity.token):
        yield exported
        return
    path = folder / "pkcs11"
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise UsageError(
            f"the path of the folder for temporary files is too long for a socket: {folder.parent}",
            hint=f"Name another one in TMPDIR; a socket's path has up to {_LONGEST_SOCKET} bytes.",
        )
    through = isolation.connected(exported, path)
    # In a session of its own: Ctrl-C on the terminal is the program's.
    process = subprocess.Popen(
        isolation.server(exported, path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(path, process)
        yield through
    finally:
        process.terminate()
        process.wait()


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _SERVER_SECONDS
    while not _is_listening(path):
        if process.poll() is not None or time.monotonic() > until:
            raise UsageError(
                "p11-kit's server, which a token in a TPM needs for other programs, does not start",
                hint="It is in Debian's package p11-kit, or Fedora's p11-kit-server; setpriv, which starts it, is in "
                "util-linux.",
            )
        time.sleep(_POLL_SECONDS)


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(os.fsencode(path)) == 0


def _run(file: str, arguments: tuple[str, ...], variables: Mapping[str, str], *, stdout_to_stderr: bool) -> int:
    """Run a program to its end, and return its exit status; of one that a signal has ended, 128 and its number.

    From now on this process is ended by no signal: it passes them on, and ends when the program does.
    """
    own_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED | {signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would have the kernel forget the program's status
    actions = [(os.POSIX_SPAWN_DUP2, 2, 1)] if stdout_to_stderr else []
    try:
        child = os.posix_spawn(
            file, arguments, variables, file_actions=actions, setsigmask=own_mask, setsigdef=_PYTHONS
        )
    except OSError as error:
        raise UsageError(f"the program {file} cannot be executed: {error.strerror}", hint="Check the file.") from error
    while True:
        received = signal.sigwaitinfo(_FORWARDED | {signal.SIGCHLD})
        if received is not None and received.si_signo != signal.SIGCHLD:
            if received.si_code <= _FROM_A_PROCESS:
                os.kill(child, received.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
