"""What the services' units have to know of this machine: the owner of the state folder, programs, files, variables."""

from __future__ import annotations

import grp
import pwd
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from hsm_enroll import settings, softhsm
from hsm_enroll.errors import ServiceError, UsageError
from hsm_enroll.key import TokenName
from hsm_enroll.service.units import Installation
from hsm_enroll.settings import Settings
from hsm_enroll.token import tpm2
from hsm_enroll.token.tpm2 import store

_NAME = "hsm-enroll"
_GROUPS = ("tss", "softhsm")
_TPM_STORE = Path("/etc/tpm2_pkcs11")
# What a user's own configuration is, of hsm-enroll and of SoftHSM.
_OWN_FILES = (".config/hsm-enroll/config.toml", ".config/softhsm2/softhsm2.conf")
# Settings with a file's name, which may be a relative one in the environment.
_FILES = ("module", "ca_file", "pin_file")
_PATHS = {
    *("HSM_ENROLL_HOME", *(f"HSM_ENROLL_{name.upper()}" for name in _FILES)),
    *(softhsm.VARIABLE, store.VARIABLE),
}
# Others, among them what a token's module reads.
_OTHERS = {*(f"HSM_ENROLL_{name.upper()}" for name in Settings._fields), "TPM2_PKCS11_TCTI", "TSS2_FAPICONF"}


def installation(state: Path, token: TokenName, environment: Mapping[str, str]) -> Installation:
    """Return how the services are installed on this machine, as the owner of the state folder.

    All files in the state folder are its owner's, and it is closed to all others: no other user could do. What the
    services are configured with is this environment, and the config.toml that the owner has.

    Args:
        state: the state folder, which exists.
        token: the identity's token.
        environment: normally ``os.environ``: the configuration's variables, and those that the token's module reads.

    Raises:
        ServiceError: the file of hsm-enroll cannot be found, or the state folder's owner or PIN file will not do.
        UsageError: the services' configuration is invalid, or names a file by a relative path.
    """
    owner = _owner(state)
    variables = {name: value for name, value in environment.items() if value and name in _PATHS | _OTHERS}
    variables |= {name: str(Path(variables[name]).absolute()) for name in _PATHS & variables.keys()}
    theirs = {**variables, "HOME": owner.pw_dir}
    configured = settings.load(theirs, {})
    files = _files(configured)
    _check_pin_file(files.get("pin_file"), owner)
    executable = executable_file()
    read = [
        *(executable, Path(sys.prefix), Path(sys.base_prefix), token.module),
        *(Path(variables[name]) for name in _PATHS & variables.keys()),
        *files.values(),
        *(file for name in _OWN_FILES if (file := Path(owner.pw_dir, name)).exists()),
    ]
    folders = [state.absolute(), *_token_folders(token, theirs)]
    links = [entry for folder in folders for entry in _links(folder)]
    return Installation(
        executable=executable,
        state=state.absolute(),
        user=owner.pw_name,
        groups=[group for group in _GROUPS if _exists(group)],
        environment=variables,
        pin_file=files.get("pin_file"),
        written=_real([*folders, *(link for link in links if link.is_dir())]),
        read=_real([*read, *links]),
        operation_timeout=configured.operation_timeout,
    )


def _owner(folder: Path) -> pwd.struct_passwd:
    uid = folder.stat().st_uid
    try:
        return pwd.getpwuid(uid)
    except KeyError as error:
        raise ServiceError(
            f"the state folder {folder} belongs to user id {uid}, and this machine has no such user",
            hint=f"Services run as a user of this machine: create one with this id (useradd --uid {uid} NAME).",
        ) from error


def _files(configured: Settings) -> dict[str, Path]:
    """Return the files that the settings name.

    Raises:
        UsageError: one of them has a relative path: services are started in another folder.
    """
    found = {name: file for name in _FILES if (file := getattr(configured, name)) is not None}
    for name, file in found.items():
        if not file.is_absolute():
            raise UsageError(
                f"{name} is the relative path {str(file)!r}, which services do not find",
                hint=f"Write the whole path of {name} into config.toml, then run the command again.",
            )
    return found


def _check_pin_file(file: Path | None, owner: pwd.struct_passwd) -> None:
    """Check that the services may read the PIN's file: also root has no right to other users' files there."""
    try:
        if file is None or file.stat().st_uid == owner.pw_uid:
            return
    except OSError:
        return  # reading it says what is wrong
    raise ServiceError(
        f"the PIN file {file} does not belong to {owner.pw_name}, whom the services run as",
        hint=f"Change its owner: chown {owner.pw_name} {shlex.quote(str(file))}",
    )


def executable_file() -> Path:
    """Return the file of this very hsm-enroll: what was started, or what stands beside the interpreter.

    Raises:
        ServiceError: there is none.
    """
    for file in (Path(sys.argv[0]), Path(sys.executable).with_name(_NAME)):
        if file.name == _NAME and file.is_file():
            return file.absolute()
    raise ServiceError(
        f"there is no program {_NAME} beside {sys.executable}",
        hint="Install hsm-enroll with pip, and run the program that pip has installed.",
    )


def _exists(group: str) -> bool:
    try:
        return bool(grp.getgrnam(group))
    except KeyError:
        return False


def _token_folders(token: TokenName, environment: Mapping[str, str]) -> list[Path]:
    """Return where the token's module keeps keys in files."""
    if tpm2.is_tpm2(token):
        folder = store.in_place(environment, _TPM_STORE)
    else:
        folder = softhsm.tokens_folder(environment) if softhsm.maker_of(token.module) else None
    return [] if folder is None else [folder.absolute()]


def _links(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_symlink()]


def _real(paths: Iterable[Path]) -> list[Path]:
    """Return paths, and where they lead to if they are links, or below one."""
    return list(dict.fromkeys(each for path in paths for each in (path, path.resolve())))
