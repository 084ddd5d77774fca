"""Checks of a TPM that is used with tpm2-pkcs11: its device, its resource manager, FAPI, the store.

They are skipped if the token belongs to another module.
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

# Which TPM, as a TCTI (TCG TSS 2.0 TPM Command Transmission Interface); without it, the first that responds.
_CONNECTION = "TPM2_PKCS11_TCTI"

# tpm2-pkcs11, docs/FAPI.md: esysdb is the default. 1.9 rejects an empty string.
_BACKEND = "TPM2_PKCS11_BACKEND"
_FAPI_LIBRARY = b"libtss2-fapi"


def device(patient: Patient) -> Finding:
    """Whether the TPM's device exists and this user may use it."""
    name = "tpm.device"
    if patient.tpm_module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    kind, _ = provision.connection(patient.environment)
    if kind not in {"", "device"}:
        return Finding(name, Status.SKIPPED, f"the TPM is used through {kind}, not as a device")
    path = _device(patient)
    if not path.exists():
        hint = "Check that it is enabled in the firmware's setup and its driver is loaded (dmesg | grep -i tpm)."
        return Finding(name, Status.FAILED, f"there is no TPM: {path} does not exist", hint)
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        group = _group(path)
        hint = f"Join the group and log in again: usermod --append --groups {group} USER"
        message = f"user id {os.geteuid()} has no permission to use {path}; group {group} has"
        return Finding(name, Status.FAILED, message, hint)
    return Finding(name, Status.OK, f"{path} can be used")


def resource_manager(patient: Patient) -> Finding:
    """Whether a resource manager swaps objects out of the TPM; without one it is full after about three."""
    name = "tpm.resource-manager"
    if patient.tpm_module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    kind, place = provision.connection(patient.environment)
    if kind == "tabrmd":
        return Finding(name, Status.OK, "tpm2-abrmd manages the TPM")
    hint = f"Use the kernel's ({_CONNECTION}=device:{patient.machine.tpm}), or tpm2-abrmd ({_CONNECTION}=tabrmd)."
    if kind in provision.UNMANAGED:
        message = f"{_CONNECTION}={kind}:{place} bypasses the TPM's resource manager"
        return Finding(name, Status.WARNING, message, hint)
    if kind not in {"", "device"}:
        return Finding(name, Status.SKIPPED, f"unknown for {kind}")
    path = _device(patient)
    if not path.exists():
        return Finding(name, Status.SKIPPED, "see tpm.device")
    if path == patient.machine.bare_tpm or (path.name.startswith("tpm") and not path.name.startswith("tpmrm")):
        return Finding(name, Status.WARNING, f"{path} has no resource manager", hint)
    return Finding(name, Status.OK, f"{path} is the kernel's resource manager")


def fapi(patient: Patient) -> Finding:
    """Whether tpm2-pkcs11's other backend, tpm2-tss's Feature API (FAPI), causes problems.

    A module that is built with it tries it first, and writes meaningless errors to stderr if FAPI's keystore is not set
    up. ``TPM2_PKCS11_BACKEND`` can make it mandatory; with an unknown value the module fails.
    """
    name, module, backend = "tpm.fapi", patient.tpm_module, patient.environment.get(_BACKEND)
    if module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    unset = f"Unset {_BACKEND}."
    if backend is not None and backend.lower() not in {"esysdb", "fapi"}:
        return Finding(name, Status.FAILED, f"{_BACKEND} is {backend!r}, which tpm2-pkcs11 does not support", unset)
    wanted, built = (backend or "").lower() == "fapi", _is_built_with_fapi(module)
    if wanted and not built:
        return Finding(name, Status.FAILED, f"{_BACKEND} is {backend}, but {module} is built without FAPI", unset)
    if not built:
        return Finding(name, Status.OK, f"{module} is built without FAPI")
    if _is_provisioned(patient):
        return Finding(name, Status.OK, "FAPI's keystore is set up")
    if wanted:
        return Finding(name, Status.FAILED, f"{_BACKEND} is {backend}, but FAPI's keystore is not set up", unset)
    hint = "Hide them with TSS2_LOG=fapi+NONE, or set the keystore up: tss2_provision"
    return Finding(name, Status.WARNING, "FAPI's keystore is not set up: ignore its errors on stderr", hint)


def store(patient: Patient) -> Finding:
    """Whether tpm2-pkcs11's store is private: with it and access to the TPM, PINs can be tried."""
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
        hint = f"Make it private: chmod 700 {folder} && chmod 600 {folder}/{provision.DATABASE}*"
        return Finding(name, Status.WARNING, f"{exposed[0]} is accessible to other users", hint)
    return Finding(name, Status.OK, f"{folder} is private to its owner")


def _device(patient: Patient) -> Path:
    """Return the device that the TCTI names, or else the one that tpm2-tss would use."""
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
    """Whether the module is linked with FAPI: its file contains the names of its libraries (ELF, DT_NEEDED)."""
    try:
        return _FAPI_LIBRARY in module.read_bytes()
    except OSError:
        return False


def _is_provisioned(patient: Patient) -> bool:
    """Whether one of FAPI's keystores has the storage key of its profile."""
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
    for folder in provision.store_folders(patient.environment, patient.machine.tpm_store):
        database = folder / provision.DATABASE
        # A folder without permission to search it may contain the store.
        if database.exists() if os.access(folder, os.X_OK, effective_ids=True) else folder.exists():
            return folder
    return None


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
