"""A TPM behind tpm2-pkcs11: its device, who shares it out, tpm2-pkcs11's other backend, its store.

Where the token is another module's, none of this applies.
"""

from __future__ import annotations

import grp
import json
import os
import stat
from pathlib import Path

from hsm_enroll.doctor.patient import Finding, Patient, Status
from hsm_enroll.token.tpm2 import provision

_NO_TPM = "no TPM in use"

# Which TPM, as a TCTI (TCG TSS 2.0 TPM Command Transmission Interface); without it, the first that answers.
_CONNECTION = "TPM2_PKCS11_TCTI"

# tpm2-pkcs11, docs/FAPI.md: esysdb is the default. 1.9 takes the empty string for an unknown one.
_BACKEND = "TPM2_PKCS11_BACKEND"
_FAPI_LIBRARY = b"libtss2-fapi"

# tpm2-pkcs11, docs/INITIALIZING.md: where it looks for its store, the user's own last.
_STORE = "TPM2_PKCS11_STORE"
_OWN_STORE = ".tpm2_pkcs11"
_DATABASE = "tpm2_pkcs11.sqlite3"


def device(patient: Patient) -> Finding:
    """Whether the TPM's device is there and this user may use it."""
    name = "tpm.device"
    if patient.tpm_module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    kind, _ = provision.connection(patient.environment)
    if kind not in {"", "device"}:
        return Finding(name, Status.SKIPPED, f"the TPM is reached through {kind}, not as a device of this user's")
    path = _device(patient)
    if not path.exists():
        hint = "Is it switched on in the firmware's setup, and its driver loaded (dmesg | grep -i tpm)?"
        return Finding(name, Status.FAILED, f"there is no TPM: {path} does not exist", hint)
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        group = _group(path)
        hint = f"Join its group and log in again: usermod --append --groups {group} USER"
        return Finding(name, Status.FAILED, f"user id {os.geteuid()} may not use {path}, group {group} may", hint)
    return Finding(name, Status.OK, f"{path} can be used")


def resource_manager(patient: Patient) -> Finding:
    """Whether something moves objects out of the TPM's few slots; without it the TPM is full after three or so."""
    name = "tpm.resource-manager"
    if patient.tpm_module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    kind, place = provision.connection(patient.environment)
    if kind == "tabrmd":
        return Finding(name, Status.OK, "tpm2-abrmd is in between")
    hint = f"Use the kernel's ({_CONNECTION}=device:{patient.machine.tpm}), or tpm2-abrmd ({_CONNECTION}=tabrmd)."
    if kind in provision.UNMANAGED:
        return Finding(name, Status.WARNING, f"{_CONNECTION}={kind}:{place} reaches the TPM without one", hint)
    if kind not in {"", "device"}:
        return Finding(name, Status.SKIPPED, f"whether {kind} has one is not known")
    path = _device(patient)
    if not path.exists():
        return Finding(name, Status.SKIPPED, "see tpm.device")
    if path == patient.machine.bare_tpm or (path.name.startswith("tpm") and not path.name.startswith("tpmrm")):
        return Finding(name, Status.WARNING, f"{path} is the TPM without one", hint)
    return Finding(name, Status.OK, f"{path} is the kernel's")


def fapi(patient: Patient) -> Finding:
    """Whether tpm2-pkcs11's other backend, tpm2-tss's Feature API, is in the way.

    A module that was built with it asks it first, and where its keystore is not set up it writes errors to stderr that
    mean nothing. ``TPM2_PKCS11_BACKEND`` makes it the one that has to work; a word that is neither ends the module.
    """
    name, module, backend = "tpm.fapi", patient.tpm_module, patient.environment.get(_BACKEND)
    if module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    unset = f"Unset {_BACKEND}."
    if backend is not None and backend.lower() not in {"esysdb", "fapi"}:
        return Finding(name, Status.FAILED, f"{_BACKEND} is {backend!r}, which tpm2-pkcs11 does not know", unset)
    wanted, built = (backend or "").lower() == "fapi", _is_built_with_fapi(module)
    if wanted and not built:
        return Finding(name, Status.FAILED, f"{_BACKEND} is {backend}, and {module} was built without it", unset)
    if not built:
        return Finding(name, Status.OK, f"{module} was built without FAPI")
    if _is_provisioned(patient):
        return Finding(name, Status.OK, "FAPI's keystore is set up")
    if wanted:
        return Finding(name, Status.FAILED, f"{_BACKEND} is {backend}, and FAPI's keystore is not set up", unset)
    hint = "Silence it with TSS2_LOG=fapi+NONE; or set the keystore up: tss2_provision"
    return Finding(name, Status.WARNING, "FAPI's keystore is not set up: its errors on stderr mean nothing", hint)


def store(patient: Patient) -> Finding:
    """Whether tpm2-pkcs11's store is closed to others: who has it and the TPM has what a PIN is tried on."""
    name = "token.store"
    if patient.tpm_module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    folder = _store_folder(patient)
    if folder is None:
        return Finding(name, Status.SKIPPED, "tpm2-pkcs11 has no store yet")
    try:
        exposed = [path for path in (folder, *sorted(folder.iterdir())) if _is_open(path)]
    except OSError as error:
        return Finding(name, Status.FAILED, f"{folder} cannot be read: {error.strerror}", "Check its owner and mode.")
    if exposed:
        hint = f"Close it: chmod 700 {folder} && chmod 600 {folder}/{_DATABASE}*"
        return Finding(name, Status.WARNING, f"{exposed[0]} is open to others", hint)
    return Finding(name, Status.OK, f"{folder} is its owner's alone")


def _device(patient: Patient) -> Path:
    """The device that the TCTI names, or else the one of the two that tpm2-tss takes."""
    _, place = provision.connection(patient.environment)
    if place:
        return Path(place)
    machine = patient.machine
    return machine.bare_tpm if machine.bare_tpm.exists() and not machine.tpm.exists() else machine.tpm


def _group(path: Path) -> str:
    number = path.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _is_built_with_fapi(module: Path) -> bool:
    """Whether the module is linked with it: the names of the libraries are in the file (ELF, DT_NEEDED)."""
    try:
        return _FAPI_LIBRARY in module.read_bytes()
    except OSError:
        return False


def _is_provisioned(patient: Patient) -> bool:
    """Whether a keystore has the storage key of FAPI's profile."""
    file = Path(patient.environment.get("TSS2_FAPICONF") or patient.machine.fapi_configuration)
    try:
        configuration = json.loads(file.read_bytes())
        profile = configuration["profile_name"]
        folders = [configuration["system_dir"], configuration["user_dir"]]
        home = patient.environment.get("HOME", "~")
        keystores = [Path(home + folder[1:] if folder.startswith("~/") else folder) for folder in folders]
        return any((keystore / profile / "HS" / "SRK").is_dir() for keystore in keystores)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _store_folder(patient: Patient) -> Path | None:
    environment = patient.environment
    named, home = environment.get(_STORE), environment.get("HOME")
    folders = [Path(named)] if named else [patient.machine.tpm_store, *([Path(home) / _OWN_STORE] if home else [])]
    for folder in folders:
        # Where it may not be looked into, it may be there.
        if (folder / _DATABASE).exists() if os.access(folder, os.X_OK, effective_ids=True) else folder.exists():
            return folder
    return None


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
