"""What tpm2-pkcs11 needs before it can create a token: a private store, and access to the TPM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hsm_enroll.errors import ModuleUnusableError, StateError, UsageError

_STORE_VARIABLE = "TPM2_PKCS11_STORE"
_SYSTEM_STORE = Path("etc/tpm2_pkcs11")
_XDG_STORE = "tpm2-pkcs11"
_OWN_STORE = ".tpm2_pkcs11"
DATABASE = "tpm2_pkcs11.sqlite3"
"""The store's file that tpm2-pkcs11 looks for."""

# Which TPM, as a TCTI (TCG TSS 2.0 TPM Command Transmission Interface); without it, the first that responds.
_CONNECTION_VARIABLE = "TPM2_PKCS11_TCTI"
_MANAGED_DEVICE = Path("dev/tpmrm0")
_BARE_DEVICE = Path("dev/tpm0")
_EMULATORS = {"swtpm", "mssim", "libtpms"}
_BUSES = {"i2c-ftdi", "i2c-helper", "spi-ftdi", "spi-helper", "spi-ltt2go"}
# TCTIs without a resource manager.
UNMANAGED = frozenset(_EMULATORS | _BUSES)

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


def store_folders(environment: Mapping[str, str], system: Path) -> list[Path]:
    """Return the folders where tpm2-pkcs11 looks for its store, in this order (1.9.1, src/lib/db.c, db_for_path).

    1.9.0 does not look in XDG's folder, and creates the last one if it finds no store; 1.9.1 fails.

    Args:
        environment: what the module will read; TPM2_PKCS11_STORE overrides all other places.
        system: the folder for the whole machine, normally ``/etc/tpm2_pkcs11``.
    """
    if _STORE_VARIABLE in environment:
        return [Path(environment[_STORE_VARIABLE])]
    home, data = environment.get("HOME"), environment.get("XDG_DATA_HOME")
    if data is None and home:
        data = f"{home}/.local/share"
    own = [Path(data) / _XDG_STORE] if data else []
    return [system, *own, *([Path(home) / _OWN_STORE] if home else [])]


def connection(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the TCTI's name and configuration, from ``NAME``, ``NAME:CONFIGURATION`` or a library's file.

    Both are empty if no TCTI is set.
    """
    kind, _, place = environment.get(_CONNECTION_VARIABLE, "").partition(":")
    file = Path(kind).name
    if file.startswith("libtss2-tcti-"):
        kind = file.removeprefix("libtss2-tcti-").partition(".so")[0]
    return kind, place


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
    kind, place = connection(environment)
    if kind in UNMANAGED or (kind == "device" and Path(place).name.startswith("tpm") and not _managed(place)):
        raise ModuleUnusableError(
            f"{_CONNECTION_VARIABLE}={environment[_CONNECTION_VARIABLE]} bypasses the TPM's resource manager",
            hint=_RESOURCE_MANAGER_HINT,
        )
    if kind in {"", "device"} and not place:
        error = _device_error(root / _MANAGED_DEVICE, root / _BARE_DEVICE)
        if error is not None:
            raise error


def explained(
    error: ModuleUnusableError, environment: Mapping[str, str], root: Path = Path("/")
) -> ModuleUnusableError:
    """Return an error that explains why tpm2-pkcs11 cannot be used, or else the same error.

    Args:
        error: the module's error; tpm2-pkcs11 reports all of these causes as a general failure.
        environment: what the module has read.
        root: the root of the file system.
    """
    kind, named = connection(environment)
    if kind in {"", "device"}:
        device = Path(named) if named else root / _MANAGED_DEVICE
        missing = _device_error(device, None if named else root / _BARE_DEVICE)
        if missing is not None:
            return missing
    if _existing_store(environment, root) is None:
        folders = ", ".join(map(str, store_folders(environment, root / _SYSTEM_STORE)))
        return ModuleUnusableError(
            f"tpm2-pkcs11 finds no token store in {folders}",
            hint="Create a token, and with it the store: hsm-enroll token create --label LABEL --backend tpm2. If a "
            f"store exists already, set {_STORE_VARIABLE} to its folder.",
        )
    if kind == "tabrmd":
        return ModuleUnusableError(
            f"the TPM's resource manager tpm2-abrmd does not respond ({_CONNECTION_VARIABLE}={kind}:{named})",
            hint="Start it (systemctl start tpm2-abrmd). On the system bus only root and the group tss may use it; on "
            "a session bus DBUS_SESSION_BUS_ADDRESS must be set.",
        )
    return error


def _device_error(device: Path, bare: Path | None) -> ModuleUnusableError | None:
    """Return why this user cannot use a device; None if it can be opened, or fails for a reason that is not known."""
    try:
        os.close(os.open(device, os.O_RDWR))
    except FileNotFoundError:
        return _without_device(device, bare)
    except PermissionError:
        return ModuleUnusableError(
            f"user id {os.geteuid()} has no permission to use the TPM ({device})",
            hint="Join the device's group (usermod --append --groups tss USER) and log in again, or run as root.",
        )
    except OSError:
        pass  # the module's own error may say more
    return None


def _without_device(device: Path, bare: Path | None) -> ModuleUnusableError:
    if bare is not None and bare.exists():
        return ModuleUnusableError(
            f"the TPM has no resource manager: {bare} exists, but {device} does not",
            hint="Linux has one for TPM 2.0 since version 4.12; on older kernels use tpm2-abrmd. A TPM 1.2 is not "
            "supported.",
        )
    return ModuleUnusableError(
        f"there is no TPM: {device} does not exist",
        hint="Check that the TPM is enabled in the firmware's setup and its driver is loaded (dmesg | grep -i tpm). "
        "For a TPM that is not a device, set TPM2_PKCS11_TCTI.",
    )


def _managed(device: str) -> bool:
    return Path(device).name.startswith("tpmrm")


def _store(environment: Mapping[str, str], root: Path) -> Path:
    named = environment.get(_STORE_VARIABLE)
    if named is not None:
        if not Path(named).is_absolute():
            raise UsageError(
                f"{_STORE_VARIABLE}={named} is not an absolute path",
                hint="Set it to an absolute path: later runs may start in another folder.",
            )
        return Path(named)
    system = root / _SYSTEM_STORE
    existing = _existing_store(environment, root)
    if existing is not None:
        return existing
    if os.access(system, os.W_OK):
        return system
    if not environment.get("HOME"):
        # The module would use the current folder, where a run from another folder would not find the store.
        raise UsageError("there is no folder for the TPM token's store", hint=f"Set {_STORE_VARIABLE} to a folder.")
    return Path(environment["HOME"]) / _OWN_STORE


def _existing_store(environment: Mapping[str, str], root: Path) -> Path | None:
    """Return the store that the module finds, or None."""
    folders = store_folders(environment, root / _SYSTEM_STORE)
    return next((folder for folder in folders if os.access(folder / DATABASE, os.F_OK)), None)


def _make_private(folder: Path) -> None:
    """Revoke the access of group and others, but only to a folder that is a store: the variable may name /etc."""
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise StateError(
            f"the TPM token's store {folder} belongs to user id {owner}, but this command runs as {os.geteuid()}",
            hint="Run the command as the owner, or set TPM2_PKCS11_STORE to another folder.",
        )
    if any(entry.is_symlink() or not entry.name.startswith(DATABASE) for entry in folder.iterdir()):
        raise StateError(
            f"{folder} contains files that are not tpm2-pkcs11's",
            hint="Set TPM2_PKCS11_STORE to a folder for the store alone.",
        )
    folder.chmod(0o700)
    # The module takes an empty file for a new store, and keeps the file's mode.
    os.close(os.open(folder / DATABASE, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    for entry in folder.iterdir():
        entry.chmod(0o600)
