"""Checks of a TPM that is used with tpm2-pkcs11: its device, its resource manager, FAPI, the store.

They are skipped if the token belongs to another module.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from hsm_enroll.doctor.patient import Finding, Patient, Status
from hsm_enroll.errors import TokenNotFoundError
from hsm_enroll.store.identity import Identity
from hsm_enroll.token.fault import Fault
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tpm2 import access, diagnosis, storage_key
from hsm_enroll.token.tpm2 import store as token_store

_NO_TPM = "no TPM in use"
_FAPI_LIBRARY = b"libtss2-fapi"


def device(patient: Patient) -> Finding:
    """Whether the TPM's device exists and this user may use it.

    It is /dev/tpmrm0, or what ``TPM2_PKCS11_TCTI`` names. Root and the group ``tss`` may use it. Where there is none,
    the TPM may be off in the firmware's setup.
    """
    name = "tpm.device"
    if patient.tpm_module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    kind, _ = access.connection(patient.environment)
    if kind not in {"", "device"}:
        missing = access.library_fault(patient.environment)
        if missing is not None:
            return _failed(name, missing)
        return Finding(name, Status.SKIPPED, f"the TPM is used through {kind}, not as a device")
    path = _device(patient)
    fault = access.device_fault(path, None)
    if fault is not None and kind == "" and access.abrmd_fault(patient.environment) is None:
        return Finding(name, Status.SKIPPED, "the TPM is used through tpm2-abrmd, not as a device")
    if fault is not None:
        return _failed(name, fault)
    return Finding(name, Status.OK, f"{path} can be used")


def resource_manager(patient: Patient) -> Finding:
    """Whether a resource manager swaps objects out of the TPM; without one it is full after about three."""
    name = "tpm.resource-manager"
    if patient.tpm_module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    kind, place = access.connection(patient.environment)
    if kind == access.ABRMD:
        fault = access.abrmd_fault(patient.environment)
        return Finding(name, Status.OK, "tpm2-abrmd responds") if fault is None else _failed(name, fault)
    variable = access.VARIABLE
    hint = f"Use the kernel's ({variable}=device:{patient.machine.tpm}), or tpm2-abrmd ({variable}=tabrmd)."
    if kind in access.UNMANAGED:
        message = f"{variable}={kind}:{place} bypasses the TPM's resource manager"
        return Finding(name, Status.WARNING, message, hint)
    if kind not in {"", "device"}:
        return Finding(name, Status.SKIPPED, f"unknown for {kind}")
    path = _device(patient)
    if not os.path.exists(path):  # noqa: PTH110 - unlike path.exists, it never raises
        return Finding(name, Status.SKIPPED, "see tpm.device")
    if path == patient.machine.bare_tpm or (path.name.startswith("tpm") and not path.name.startswith("tpmrm")):
        return Finding(name, Status.WARNING, f"{path} has no resource manager", hint)
    return Finding(name, Status.OK, f"{path} is the kernel's resource manager")


def fapi(patient: Patient) -> Finding:
    """Whether tpm2-pkcs11's other backend, tpm2-tss's Feature API (FAPI), causes problems.

    A module that is built with it tries it first, and writes meaningless errors to stderr if FAPI's keystore is not set
    up. ``TPM2_PKCS11_BACKEND`` can make it mandatory; with an unknown value the module fails.
    """
    name, module, backend = "tpm.fapi", patient.tpm_module, patient.environment.get(diagnosis.BACKEND)
    if module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    if (fault := diagnosis.backend_fault(patient.environment)) is not None:
        return _failed(name, fault)
    variable, unset = diagnosis.BACKEND, f"Unset {diagnosis.BACKEND}."
    wanted, built = (backend or "").lower() == "fapi", _is_built_with_fapi(module)
    if wanted and not built:
        return Finding(name, Status.FAILED, f"{variable} is {backend}, but {module} is built without FAPI", unset)
    if not built:
        return Finding(name, Status.OK, f"{module} is built without FAPI")
    if _is_provisioned(patient):
        return Finding(name, Status.OK, "FAPI's keystore is set up")
    if wanted:
        return Finding(name, Status.FAILED, f"{variable} is {backend}, but FAPI's keystore is not set up", unset)
    hint = "Hide them with TSS2_LOG=fapi+NONE, or set the keystore up: tss2_provision"
    return Finding(name, Status.WARNING, "FAPI's keystore is not set up: ignore its errors on stderr", hint)


def store(patient: Patient) -> Finding:
    """Whether tpm2-pkcs11's store can be used, is this TPM's, and private: with it and the TPM, PINs can be tried."""
    name = "token.store"
    if patient.tpm_module is None:
        return Finding(name, Status.SKIPPED, _NO_TPM)
    system = patient.machine.tpm_store
    if isinstance(patient.token, TokenReport) and token_store.existing(patient.environment, system) is None:
        return Finding(name, Status.SKIPPED, "the token is in FAPI's keystore, not in tpm2-pkcs11's store")
    folder = token_store.in_place(patient.environment, system)
    fault = token_store.fault(patient.environment, system)
    if folder is None and fault is not None and not isinstance(patient.identity, Identity):
        return Finding(name, Status.SKIPPED, fault.message, fault.hint)
    if fault is None and folder is not None:
        fault = storage_key.fault(folder)
    if fault is None and isinstance(patient.token, TokenNotFoundError):
        fault = token_store.without_token(patient.environment, system)
    if fault is not None or folder is None:
        return _failed(name, fault or token_store.without_token(patient.environment, system))
    exposed = [path for path in (folder, *sorted(folder.iterdir())) if _is_open(path)]
    if exposed:
        hint = f"Make it private: chmod 700 {folder} && chmod 600 {folder}/{token_store.DATABASE}*"
        return Finding(name, Status.WARNING, f"{exposed[0]} is accessible to other users", hint)
    return Finding(name, Status.OK, f"{folder} is private to its owner")


def _device(patient: Patient) -> Path:
    """Return the device that the TCTI names, or else the one that tpm2-tss would use."""
    _, place = access.connection(patient.environment)
    if place:
        return Path(place)
    machine = patient.machine
    return machine.bare_tpm if machine.bare_tpm.exists() and not machine.tpm.exists() else machine.tpm


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


def _failed(name: str, fault: Fault) -> Finding:
    return Finding(name, Status.FAILED, fault.message, fault.hint)


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
