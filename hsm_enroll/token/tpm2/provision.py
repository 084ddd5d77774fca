"""What has to be right before tpm2-pkcs11 makes a token: its store closed to others, and a way to the TPM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hsm_enroll.errors import ModuleUnusableError, StateError, UsageError

# tpm2-pkcs11 1.9, src/lib/db.c: where it looks for its store, in this order; $HOME/.tpm2_pkcs11 comes last.
_STORE_VARIABLE = "TPM2_PKCS11_STORE"
_SYSTEM_STORE = Path("etc/tpm2_pkcs11")
_OWN_STORE = ".tpm2_pkcs11"
_DATABASE = "tpm2_pkcs11.sqlite3"

# Which TPM, as a TCTI (TCG TSS 2.0 TPM Command Transmission Interface); without it, the first that answers.
_CONNECTION_VARIABLE = "TPM2_PKCS11_TCTI"
_MANAGED_DEVICE = Path("dev/tpmrm0")
_BARE_DEVICE = Path("dev/tpm0")
_EMULATORS = {"swtpm", "mssim", "libtpms"}
_BUSES = {"i2c-ftdi", "i2c-helper", "spi-ftdi", "spi-helper", "spi-ltt2go"}
# TCTIs that lead to the TPM itself.
UNMANAGED = frozenset(_EMULATORS | _BUSES)

_RESOURCE_MANAGER_HINT = (
    "Without one the TPM runs out of memory after a few keys. Use the kernel's, device:/dev/tpmrm0, or start "
    "tpm2-abrmd and name it in TPM2_PKCS11_TCTI=tabrmd."
)


def prepare_store(environment: Mapping[str, str], root: Path = Path("/")) -> Path:
    """Make tpm2-pkcs11's store, or close the one that is there to others: folder 0700, files 0600.

    The module itself would make it readable by all; the database's mode is that of its journals too (SQLite).

    Args:
        environment: what the module will read, normally ``os.environ``.
        root: where the file system begins.

    Returns:
        The folder. The module finds it again by the same environment.

    Raises:
        UsageError: the environment names no place for a store, or another kind of store.
        StateError: it belongs to someone else, holds what is not tpm2-pkcs11's, or cannot be made.
    """
    backend = environment.get("TPM2_PKCS11_BACKEND", "esysdb")
    if backend != "esysdb":
        raise UsageError(
            f"TPM2_PKCS11_BACKEND={backend} keeps tokens where this command cannot close them to others",
            hint="Unset TPM2_PKCS11_BACKEND for this command and every later one.",
        )
    folder = _store(environment, root)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(folder)
    except OSError as error:
        raise StateError(
            f"the TPM token's store {folder} cannot be used: {error.strerror}",
            hint="Name another folder in TPM2_PKCS11_STORE.",
        ) from error
    return folder


def connection(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the TCTI's name, and what it is to reach, of ``NAME``, ``NAME:CONFIGURATION`` or a library's file.

    Both are empty where none is named.
    """
    kind, _, place = environment.get(_CONNECTION_VARIABLE, "").partition(":")
    file = Path(kind).name
    if file.startswith("libtss2-tcti-"):
        kind = file.removeprefix("libtss2-tcti-").partition(".so")[0]
    return kind, place


def refuse_unmanaged_tpm(environment: Mapping[str, str], root: Path = Path("/")) -> None:
    """See that the TPM is not one that is reached without a resource manager, and not whichever happens to answer.

    Where the environment names none, it has to be the kernel's, ``/dev/tpmrm0``, and open to this user: tpm2-tss would
    go on to an emulator's port, at which anybody may listen.

    Args:
        environment: what the module will read, normally ``os.environ``.
        root: where the file system begins.

    Raises:
        ModuleUnusableError: it is.
    """
    kind, place = connection(environment)
    if kind in UNMANAGED or (kind == "device" and Path(place).name.startswith("tpm") and not _managed(place)):
        raise ModuleUnusableError(
            f"{_CONNECTION_VARIABLE}={environment[_CONNECTION_VARIABLE]} reaches the TPM without a resource manager",
            hint=_RESOURCE_MANAGER_HINT,
        )
    if kind in {"", "device"} and not place:
        error = _device_error(root / _MANAGED_DEVICE, root / _BARE_DEVICE)
        if error is not None:
            raise error


def explained(
    error: ModuleUnusableError, environment: Mapping[str, str], root: Path = Path("/")
) -> ModuleUnusableError:
    """Return the error for a tpm2-pkcs11 that cannot be used: what is wrong with the TPM, or else the same error.

    Args:
        error: what the module ended with; tpm2-pkcs11 says "general failure" to all that follows.
        environment: what it has read.
        root: where the file system begins.
    """
    kind, named = connection(environment)
    if kind == "tabrmd":
        return ModuleUnusableError(
            f"the TPM's resource manager tpm2-abrmd does not answer ({_CONNECTION_VARIABLE}={kind}:{named})",
            hint="Start it (systemctl start tpm2-abrmd). On the system's bus it answers root and the group tss; on a "
            "session's bus DBUS_SESSION_BUS_ADDRESS has to name that bus.",
        )
    if kind not in {"", "device"}:
        return error
    device = Path(named) if named else root / _MANAGED_DEVICE
    return _device_error(device, None if named else root / _BARE_DEVICE) or error


def _device_error(device: Path, bare: Path | None) -> ModuleUnusableError | None:
    """Return why this user cannot use a device, where that can be seen from here."""
    try:
        os.close(os.open(device, os.O_RDWR))
    except FileNotFoundError:
        return _without_device(device, bare)
    except PermissionError:
        return ModuleUnusableError(
            f"user id {os.geteuid()} may not use the TPM: {device} is closed to it",
            hint="Join the group that owns it (usermod --append --groups tss USER) and log in again, or run as root.",
        )
    except OSError:
        pass  # the module may know better
    return None


def _without_device(device: Path, bare: Path | None) -> ModuleUnusableError:
    if bare is not None and bare.exists():
        return ModuleUnusableError(
            f"the TPM has no resource manager: there is {bare}, and no {device}",
            hint="The kernel brings one for a TPM 2.0 since 4.12; before that tpm2-abrmd is one. A TPM 1.2 cannot be "
            "used.",
        )
    return ModuleUnusableError(
        f"there is no TPM: {device} does not exist",
        hint="Is it switched on in the firmware's setup, and its driver loaded (dmesg | grep -i tpm)? One that is "
        "reached otherwise is named in TPM2_PKCS11_TCTI.",
    )


def _managed(device: str) -> bool:
    return Path(device).name.startswith("tpmrm")


def _store(environment: Mapping[str, str], root: Path) -> Path:
    named = environment.get(_STORE_VARIABLE)
    if named is not None:
        if not Path(named).is_absolute():
            raise UsageError(
                f"{_STORE_VARIABLE}={named} is no absolute path",
                hint="Later runs may begin in another folder: name the store's whole path.",
            )
        return Path(named)
    home = environment.get("HOME")
    own = Path(home) / _OWN_STORE if home else None
    system = root / _SYSTEM_STORE
    for folder in (system, own):
        if folder is not None and (folder / _DATABASE).exists():
            return folder
    if os.access(system, os.W_OK):
        return system
    if own is None:
        # The module would take the current folder, which another run does not know.
        raise UsageError("there is no place for the TPM token's store", hint=f"Name a folder in {_STORE_VARIABLE}.")
    return own


def _close_to_others(folder: Path) -> None:
    """Take it from group and others, but only a folder that is a store: the variable may name /etc."""
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise StateError(
            f"the TPM token's store {folder} belongs to user id {owner}, not to {os.geteuid()} who runs this",
            hint="Run the command as its owner, or name another folder in TPM2_PKCS11_STORE.",
        )
    if any(entry.is_symlink() or not entry.name.startswith(_DATABASE) for entry in folder.iterdir()):
        raise StateError(
            f"{folder} holds files that are not tpm2-pkcs11's",
            hint="Name a folder of its own in TPM2_PKCS11_STORE.",
        )
    folder.chmod(0o700)
    # Empty, it is a new store to the module, which keeps its mode.
    os.close(os.open(folder / _DATABASE, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    for entry in folder.iterdir():
        entry.chmod(0o600)
