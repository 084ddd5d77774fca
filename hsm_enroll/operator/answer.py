"""What the API answered, before anybody has looked into it, and what a refusal means (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hsm_enroll.errors import (
    BackendRefusedError,
    BackendUnreachableError,
    ForeignAnswerError,
    HsmEnrollError,
    ThrottledError,
)

_PROBLEM = "application/problem+json"
_FORBIDDEN_HINT = (
    "Your AWS identity needs execute-api:Invoke on this API, in its region, and unexpired credentials: "
    "see aws sts get-caller-identity. A clock that is wrong by minutes is refused too."
)
_UNKNOWN_HINTS = {
    "thing-unknown": "hsm-enroll fleet list shows the Things that there are.",
    "invite-unknown": "hsm-enroll invite list shows the invites that there are.",
}
_AGAIN_HINT = "Wait a moment, then try again."


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer.

    Attributes:
        url: base URL of the API that was asked.
        status: the HTTP status.
        media_type: lower case, without parameters.
        body: not shown in ``repr``: it may hold enrollment codes.
        retry_after: the header as it came, or "".
        request_id: API Gateway's id of the request, or "".
    """

    url: str
    status: int
    media_type: str
    body: bytes = field(repr=False)
    retry_after: str = ""
    request_id: str = ""

    @property
    def wait(self) -> float | None:
        """Seconds that a busy API asks to wait before the next try; None if this is no such answer.

        Retry-After's delay-seconds only (RFC 9110 §10.2.3): an HTTP date or junk counts as none.
        """
        text = self.retry_after
        asked = float(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0.0
        return asked if self.status == 429 or (self.status == 503 and asked) else None


def foreign(url: str, why: str) -> ForeignAnswerError:
    """Return the error for an answer that is none of the API's."""
    return ForeignAnswerError(f"what {url} answered is not an enrollment API's answer: {why}")


def document(answer: Answer, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """Return the JSON object that an answer holds. Does *not* look at its members.

    Args:
        answer: of any status.
        object_hook: is given every JSON object, as by ``json.loads``.

    Raises:
        ForeignAnswerError: it holds none.
    """
    if answer.media_type not in {"application/json", _PROBLEM}:
        raise foreign(answer.url, f"it is {printable(answer.media_type) or 'of no type'}, not JSON")
    try:
        parsed = json.loads(answer.body, object_hook=object_hook)
    except (ValueError, RecursionError):
        # Without its cause, whose locals hold the text, and in it perhaps codes.
        raise foreign(answer.url, "it is not JSON, or was cut off") from None
    if not isinstance(parsed, dict):
        raise foreign(answer.url, "it is no JSON object")
    return parsed


def refusal(answer: Answer) -> HsmEnrollError:
    """Return the error that an answer other than 2xx stands for."""
    if 300 <= answer.status < 400:
        return foreign(answer.url, "it redirects elsewhere; redirects are not followed")
    if answer.status == 429:
        asked = f"; it asks to wait {answer.wait:.0f} s" if answer.wait else ""
        return ThrottledError(f"{answer.url} is busy{asked}", hint=_AGAIN_HINT)
    if answer.status < 300:
        return foreign(answer.url, f"status {answer.status} with {printable(answer.media_type) or 'nothing'}")
    problem = _problem(answer)
    detail = f"{problem['detail']} ({problem['code']})" if problem else f"status {answer.status}"
    if answer.status >= 500:
        return BackendUnreachableError(f"{answer.url} has a fault of its own: {detail}", hint=_AGAIN_HINT)
    if problem:
        return BackendRefusedError(
            f"{answer.url} refused: {detail}",
            problem_code=problem["code"],
            request_id=problem["requestId"],
            hint=_refusal_hint(answer.status, problem),
        )
    message = _gateway_message(answer)
    if answer.status == 403 and message:
        return BackendRefusedError(
            f"{answer.url} does not let this AWS identity in: {message}",
            request_id=answer.request_id,
            hint=_FORBIDDEN_HINT,
        )
    return foreign(answer.url, f"it refuses with status {answer.status} and no reason of ours")


def printable(text: str) -> str:
    """Keep a stranger's text from steering the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:300])


def _problem(answer: Answer) -> dict[str, str]:
    """Return detail, code and request id of an RFC 9457 document, or {} where the answer is none of ours."""
    if answer.media_type != _PROBLEM:
        return {}
    members = document(answer)
    if not isinstance(members.get("code"), str):
        return {}
    named = {name: members.get(name) for name in ("detail", "code", "requestId")}
    return {name: printable(value) if isinstance(value, str) else "" for name, value in named.items()}


def _refusal_hint(status: int, problem: dict[str, str]) -> str:
    if status == 403:
        return _FORBIDDEN_HINT
    return _UNKNOWN_HINTS.get(problem["code"], f"The backend's log has more under request id {problem['requestId']}.")


def _gateway_message(answer: Answer) -> str:
    """Return what API Gateway itself says, ``{"message": "Forbidden"}``, or ""."""
    if answer.media_type != "application/json":
        return ""
    message = document(answer).get("message")
    return printable(message) if isinstance(message, str) else ""
