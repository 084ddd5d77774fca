"""``hsm-enroll export``: this device's identity in other programs' own configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.device import credentials
from hsm_enroll.device import export as exports
from hsm_enroll.device.export import gathering, isolation
from hsm_enroll.errors import StateError
from hsm_enroll.service import fitting
from hsm_enroll.store import files
from hsm_enroll.store.identity import Identity

if TYPE_CHECKING:
    from hsm_enroll.device.export import Exported, File

# The only program that knows a token by its slot.
_BY_SLOT = "greengrass"
_READ_NO_PIN_FILE = {_BY_SLOT, "aws"}


@command("export", example="hsm-enroll export curl --output ~/curl")
@click.argument("program", type=click.Choice(list(exports.PROGRAMS)), metavar="PROGRAM")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files into this folder, which is created if it is missing. Earlier exports are replaced.",
)
def export(invocation: Invocation, *, program: str, output: Path | None) -> None:
    """Print another program's own configuration for this device's key and certificate, or write it to a folder.

    PROGRAM is greengrass, openssl, curl, mosquitto, stunnel, aws or python-ssl.

    The first lines of each file say how to use it. The PIN is in none of them: the program reads it from its file, or
    asks for it. After a renewal the key has another name, so export again then.
    """
    exported = _exported(invocation, program)
    made = exports.PROGRAMS[program](exported)
    if exported.pin_file is None and program not in _READ_NO_PIN_FILE:
        invocation.terminal.warn(
            "the PIN is in no file, so the program will ask for it; to name one: HSM_ENROLL_PIN_FILE=FILE"
        )
    document = {
        "program": program,
        "folder": None if output is None else str(output.absolute()),
        "files": [{"name": file.name, "mode": f"{file.mode:04o}", "text": file.text} for file in made],
    }
    if output is None:
        if invocation.terminal.as_json:
            invocation.terminal.result(document, "")
        else:
            invocation.terminal.data(_shown(made))
        return
    _write(output, made)
    paths = "\n".join(str(output.absolute() / file.name) for file in made)
    invocation.terminal.result(document, paths, done=f"{output} was written")


def _exported(invocation: Invocation, program: str) -> Exported:
    settings = invocation.settings
    identity = Identity.load(settings.state)
    if program == "aws":
        credentials.alias_of(identity, settings)  # without one, the profile would give no credentials
    found = None
    if program not in _READ_NO_PIN_FILE:
        found = gathering.find_pin_file(identity, settings, os.environ)
    slot = _slot(identity) if program == _BY_SLOT else None
    executable = fitting.executable_file()
    exported = gathering.gather(identity, settings, os.environ, executable, pin_file=found, slot=slot)
    is_isolated = program in isolation.NEEDED_BY and isolation.is_needed(identity.token)
    return isolation.through_server(exported) if is_isolated else exported


def _slot(identity: Identity) -> int:
    from hsm_enroll.token import selection
    from hsm_enroll.token.tokens import Tokens

    with Tokens() as tokens:
        report = selection.enrolled(identity.token, tokens.start_listing([identity.token.module]))
        tokens.dismiss()
    return report.slot


def _shown(made: list[File]) -> str:
    """Return one file as it is, and several each with its name above it."""
    if len(made) == 1:
        return made[0].text
    return "\n".join(f"# ---- {file.name}\n{file.text}" for file in made)


def _write(folder: Path, made: list[File]) -> None:
    """Write the files, each of them whole; none if one of them would replace another program's.

    Raises:
        StateError: another program's file is in the place of one of them, or one cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in made:
            _refuse_foreign(folder / file.name, file)
    except OSError as error:
        raise StateError(f"{error.filename or folder} cannot be used: {error.strerror}") from error
    for file in made:
        files.write(folder / file.name, file.text, mode=file.mode)


def _refuse_foreign(path: Path, file: File) -> None:
    if not os.path.lexists(path):
        return
    if path.is_file():
        present = path.read_text(encoding="utf-8", errors="replace")
        if present == file.text or exports.MARK in "".join(present.splitlines(keepends=True)[:2]):
            return
    raise StateError(
        f"{path} exists already, and was not written by hsm-enroll export",
        hint="Move it away, or name another folder with --output.",
    )
