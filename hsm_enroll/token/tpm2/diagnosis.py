"""Find out what is really wrong where tpm2-pkcs11 fails: it reports nearly everything as a general failure.

Each cause is asked for, not assumed: the environment, the way to the TPM, the store, the TPM itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hsm_enroll.token.fault import Fault
from hsm_enroll.token.tpm2 import access, storage_key, store

BACKEND = "TPM2_PKCS11_BACKEND"
# esysdb is the default; 1.9 rejects an empty string.
_BACKENDS = {"esysdb", "fapi"}


def find(environment: Mapping[str, str], root: Path = Path("/")) -> Fault | None:
    """Return the first fault that keeps tpm2-pkcs11 from its TPM or its store, or None if all is well.

    Args:
        environment: what the module reads, normally ``os.environ``.
        root: the root of the file system.
    """
    return (
        backend_fault(environment)
        or access.fault(environment, root)
        or store.fault(environment, root / store.SYSTEM)
        or access.silence()
        or cleared(environment, root)
    )


def backend_fault(environment: Mapping[str, str]) -> Fault | None:
    """Return the fault of a backend that tpm2-pkcs11 does not have (its docs/FAPI.md), or None."""
    backend = environment.get(BACKEND)
    if backend is None or backend.lower() in _BACKENDS:
        return None
    return Fault(f"{BACKEND} is {backend!r}, which tpm2-pkcs11 does not support", f"Unset {BACKEND}.")


def cleared(environment: Mapping[str, str], root: Path = Path("/")) -> Fault | None:
    """Return the fault of a TPM that has lost the keys of the store, or None; arguments as for :func:`find`."""
    folder = store.existing(environment, root / store.SYSTEM)
    return None if folder is None else storage_key.fault(folder)


def without_token(environment: Mapping[str, str], root: Path = Path("/")) -> Fault:
    """Return which store has no token, where tpm2-pkcs11 works; arguments as for :func:`find`."""
    return store.without_token(environment, root / store.SYSTEM)
