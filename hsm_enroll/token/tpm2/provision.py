"""What tpm2-pkcs11 needs before it can create a token: a private store, and access to the TPM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hsm_enroll.errors import ModuleUnusableError, StateError, UsageError
from hsm_enroll.token.tpm2 import access, diagnosis, store

_RESOURCE_MANAGER_HINT = (
    "Without one the TPM runs out of memory after a few keys. Use the kernel's (TPM2_PKCS11_TCTI=device:/dev/tpmrm0), "
    "or start tpm2-abrmd (TPM2_PKCS11_TCTI=tabrmd)."
)


def prepare_store(environment: Mapping[str, str], root: Path = Path("/")) -> Path:
    """Create tpm2-pkcs11's store, or make an existing one private: folder 0700, files 0600.

    The module itself would make it readable by everyone. SQLite gives its journals the database's mode.

    Args:
        environment: what the module will read, normally ``os.environ``.
        root: the root of the file system.

    Returns:
        The folder, which the module finds again by the same environment.

    Raises:
        UsageError: there is no place for a store, or the environment asks for another kind of store.
        StateError: the folder belongs to another user, has files that are not tpm2-pkcs11's, or cannot be created.
    """
    backend = environment.get("TPM2_PKCS11_BACKEND", "esysdb")
    if backend != "esysdb":
        raise UsageError(
            f"TPM2_PKCS11_BACKEND={backend} stores tokens where hsm-enroll cannot make them private",
            hint="Unset TPM2_PKCS11_BACKEND for this command and every later one.",
        )
    folder = _store(environment, root)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(folder)
    except OSError as error:
        raise StateError(
            f"the TPM token's store {folder} cannot be used: {error.strerror}",
            hint="Set TPM2_PKCS11_STORE to another folder.",
        ) from error
    return folder


def refuse_unmanaged_tpm(environment: Mapping[str, str], root: Path = Path("/")) -> None:
    """Refuse a TPM without a resource manager, and whichever TPM happens to respond.

    If the environment names none, ``/dev/tpmrm0`` has to exist and be open to this user: tpm2-tss would otherwise try
    an emulator's port, where anyone may listen.

    Args:
        environment: what the module will read, normally ``os.environ``.
        root: the root of the file system.

    Raises:
        ModuleUnusableError: the TPM has no resource manager, or cannot be used.
    """
    kind, place = access.connection(environment)
    if kind in access.UNMANAGED or (kind == "device" and Path(place).name.startswith("tpm") and not _managed(place)):
        raise ModuleUnusableError(
            f"{access.VARIABLE}={environment[access.VARIABLE]} bypasses the TPM's resource manager",
            hint=_RESOURCE_MANAGER_HINT,
        )
    if kind in {"", "device"} and not place:
        fault = access.device_fault(root / access.MANAGED_DEVICE, root / access.BARE_DEVICE)
        if fault is not None:
            raise ModuleUnusableError(fault.message, hint=fault.hint)


def refuse_cleared_tpm(environment: Mapping[str, str], root: Path = Path("/")) -> None:
    """Refuse a TPM that has lost the key on which the existing store depends; arguments as above.

    Raises:
        ModuleUnusableError: it has, so that no token can be created in that store.
    """
    if (fault := diagnosis.cleared(environment, root)) is not None:
        raise ModuleUnusableError(fault.message, hint=fault.hint)


def _managed(device: str) -> bool:
    return Path(device).name.startswith("tpmrm")


def _store(environment: Mapping[str, str], root: Path) -> Path:
    named = environment.get(store.VARIABLE)
    if named is not None:
        if not Path(named).is_absolute():
            raise UsageError(
                f"{store.VARIABLE}={named} is not an absolute path",
                hint="Set it to an absolute path: later runs may start in another folder.",
            )
        return Path(named)
    system = root / store.SYSTEM
    existing = store.existing(environment, system)
    if existing is not None:
        return existing
    if os.access(system, os.W_OK):
        return system
    if not environment.get("HOME"):
        # The module would use the current folder, where a run from another folder would not find the store.
        raise UsageError("there is no folder for the TPM token's store", hint=f"Set {store.VARIABLE} to a folder.")
    return Path(environment["HOME"]) / store.OWN


def _make_private(folder: Path) -> None:
    """Revoke the access of group and others, but only to a folder that is a store: the variable may name /etc."""
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise StateError(
            f"the TPM token's store {folder} belongs to user id {owner}, but this command runs as {os.geteuid()}",
            hint="Run the command as the owner, or set TPM2_PKCS11_STORE to another folder.",
        )
    if any(entry.is_symlink() or not entry.name.startswith(store.DATABASE) for entry in folder.iterdir()):
        raise StateError(
            f"{folder} contains files that are not tpm2-pkcs11's",
            hint="Set TPM2_PKCS11_STORE to a folder for the store alone.",
        )
    folder.chmod(0o700)
    # The module takes an empty file for a new store, and keeps the file's mode.
    os.close(os.open(folder / store.DATABASE, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    for entry in folder.iterdir():
        entry.chmod(0o600)
