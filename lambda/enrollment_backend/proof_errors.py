"""Why a proof is refused."""

from __future__ import annotations

from enrollment_backend.errors import EnrollmentError, RequestRefusedError


class ProofMalformedError(RequestRefusedError):
    """The body is not a proof, or not one for this URL, whatever key may have signed it, see `proof`.

    Args:
        fault: what is wrong with it, as a sentence without a full stop; appears in `detail`.
    """

    code = "proof-malformed"

    def __init__(self, fault: str) -> None:
        self.detail = f"The body is not a valid proof: {fault}."
        super().__init__(fault=fault)


class ProofRefusedError(EnrollmentError):
    """Base of the errors of a well-formed proof that does not prove who is calling, see `proof`."""


class ProofInvalidError(ProofRefusedError):
    """The ledger does not know the proof's key, or the key did not make the signature; the caller is not told which.

    `facts` says which, under `reason`, for the operator.
    """

    code = "proof-invalid"
    detail = "The request is not signed by a key that this API has enrolled."


class ProofReplayedError(ProofRefusedError):
    """The key has used the proof's `jti` before."""

    code = "proof-replayed"
    detail = "The proof was used before; sign a new one, with another jti, for every request."


class ClockSkewError(ProofRefusedError):
    """The proof's time is too far from the function's."""

    code = "clock-skew"
    detail = (
        "The proof's iat is more than five minutes from the time of this API, which the response has as its Date; "
        "one of the two clocks is wrong."
    )
