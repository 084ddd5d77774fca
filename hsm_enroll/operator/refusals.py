"""What a refusal of the operator's routes means, and what an operator can do about it."""

from __future__ import annotations

from functools import partial

from hsm_enroll.backend_api import answer as answers
from hsm_enroll.backend_api.answer import Answer, Problem, document, printable
from hsm_enroll.errors import BackendRefusedError, HsmEnrollError

_FORBIDDEN_HINT = (
    "Your AWS identity needs execute-api:Invoke on this API, and credentials that have not expired: see aws sts "
    "get-caller-identity. A clock that is wrong by minutes is refused too, and so is a request that was signed for "
    "another region than the API's; this one was signed for {region}."
)
_UNKNOWN_HINTS = {
    "thing-unknown": "hsm-enroll fleet list shows the Things that exist.",
    "invite-unknown": "hsm-enroll invite list shows the invites that exist.",
    "ek-not-listed": "hsm-enroll fleet list-ek shows what is listed.",
    "ek-ca-unknown": "hsm-enroll fleet ek-ca list shows the CAs that are trusted.",
    "ek-ca-invalid": "Give the certificate of the vendor's root, or of an intermediate CA, not that of a TPM.",
    "existing-things-not-allowed": "hsm-enroll backend deploy --existing-things allows it.",
    "sweep-stopped": "hsm-enroll fleet rebuild restores entries that the ledger has lost.",
}
_AGAIN_HINT = "Wait a moment, then try again."


def refusal(answer: Answer, region: str) -> HsmEnrollError:
    """Return the error for an answer that is not the one hoped for.

    Args:
        answer: the answer.
        region: the AWS region that the request was signed for.

    Raises:
        UnexpectedResponseError: it claims to be JSON and is not.
    """
    message = _gateway_message(answer) if answer.status == 403 else ""
    if message:
        return BackendRefusedError(
            f"{answer.url} does not admit this AWS identity: {message}",
            request_id=answer.request_id,
            hint=_FORBIDDEN_HINT.format(region=region),
        )
    return answers.refusal(answer, partial(_hint, region))


def _hint(region: str, status: int, problem: Problem | None) -> str | None:
    if problem is None or status >= 500:
        return _AGAIN_HINT
    if status == 403:
        return _FORBIDDEN_HINT.format(region=region)
    return _UNKNOWN_HINTS.get(problem.code, f"The backend's log has more under request id {problem.request_id}.")


def _gateway_message(answer: Answer) -> str:
    """Return what API Gateway itself says, ``{"message": "Forbidden"}``, or ""."""
    if answer.media_type != "application/json":
        return ""
    message = document(answer).get("message")
    return printable(message) if isinstance(message, str) else ""
