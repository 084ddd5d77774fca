"""What the services' units have to know of this machine: the owner of the state folder, programs, files, variables."""

from __future__ import annotations

import grp
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path

from hsm_enroll import softhsm
from hsm_enroll.errors import ServiceError
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
# Variables with a file's name, which may be a relative one, and others that a token's module reads.
_PATHS = {
    *("HSM_ENROLL_HOME", "HSM_ENROLL_MODULE", "HSM_ENROLL_CA_FILE", "HSM_ENROLL_PIN_FILE"),
    *(softhsm.VARIABLE, store.VARIABLE),
}
_OTHERS = {*(f"HSM_ENROLL_{name.upper()}" for name in Settings._fields), "TPM2_PKCS11_TCTI", "TSS2_FAPICONF"}


def installation(state: Path, token: TokenName, environment: Mapping[str, str]) -> Installation:
    """Return how the services are installed on this machine, as the owner of the state folder.

    All files in the state folder are its owner's, and it is closed to all others: no other user could do.

    Args:
        state: the state folder, which exists.
        token: the identity's token.
        environment: normally ``os.environ``: the configuration's variables, and those that the token's module reads.

    Raises:
        ServiceError: the file of hsm-enroll cannot be found.
    """
    owner = _user(state.stat().st_uid)
    homes = {"HOME": owner.pw_dir} if owner else {}
    variables = {name: value for name, value in environment.items() if value and name in _PATHS | _OTHERS}
    variables |= {name: str(Path(variables[name]).absolute()) for name in _PATHS & variables.keys()}
    return Installation(
        executable=_executable(),
        state=state.absolute(),
        user=owner.pw_name if owner else str(state.stat().st_uid),
        groups=[group for group in _GROUPS if _exists(group)],
        environment=variables,
        written=[
            state.absolute(),
            *_token_folders(token, {**environment, **homes}),
        ],
        read=[
            *(Path(sys.prefix), Path(sys.base_prefix)),
            *(Path(variables[name]) for name in _PATHS & variables.keys()),
            *(file for home in homes.values() for name in _OWN_FILES if (file := Path(home, name)).exists()),
        ],
    )


def _executable() -> Path:
    """Return the file of this very hsm-enroll: what was started, or what stands beside the interpreter."""
    for file in (Path(sys.argv[0]), Path(sys.executable).with_name(_NAME)):
        if file.name == _NAME and file.is_file():
            return file.absolute()
    raise ServiceError(
        f"there is no program {_NAME} beside {sys.executable}",
        hint="Install hsm-enroll with pip, and run the program that pip has installed.",
    )


def _user(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


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
        folder = softhsm.tokens_folder() if softhsm.maker_of(token.module) else None
    return [] if folder is None else [folder.absolute()]
