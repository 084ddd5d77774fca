"""Proof that a key is in a TPM: what this machine's TPM says about itself and about the keys of its token.

Only modules that run in a process of their own import ``tpm2_pytss``, the extra ``tpm``; ``attestor`` is the other
side.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from hsm_enroll.token.fault import Fault
from hsm_enroll.token.tpm2 import is_tpm2

if TYPE_CHECKING:
    from hsm_enroll.key import TokenName

EXTRA = "tpm"
"""The extra whose packages the attestation needs."""

LIBRARY = "tpm2_pytss"
"""The module of that extra."""


def is_possible(token: TokenName) -> Fault | None:
    """Find out whether the keys of a token can be attested; no process is started, and the TPM is not asked.

    Returns:
        None if they can, as far as can be seen from here; otherwise why not, and what to do.
    """
    if not is_tpm2(token):
        return Fault(
            f"token {token.label!r} is not in a TPM that tpm2-pkcs11 uses, and only such a TPM can attest its keys",
            "Create a token in this machine's TPM: hsm-enroll token create --label LABEL --backend tpm2",
        )
    return missing_library()


def missing_library() -> Fault | None:
    """Return that the extra's package is not installed, or None."""
    if find_spec(LIBRARY) is not None:
        return None
    # Later than the others: it loads the packages' metadata, and every status and init comes by here.
    from hsm_enroll import extras

    return Fault(f"the Python package tpm2-pytss of the extra {EXTRA!r} is not installed", extras.hint(EXTRA))
