"""An HTTP answer as it was received, and the errors it stands for; problem documents are RFC 9457's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from hsm_enroll.errors import (
    BackendRefusedError,
    BackendUnreachableError,
    HsmEnrollError,
    ThrottledError,
    UnexpectedResponseError,
)
from hsm_enroll.escaping import escaped

JSON = "application/json"
_PROBLEM = "application/problem+json"
ACCEPTED = f"{JSON}, {_PROBLEM}"
RENEWALS_LIMITED = "renewals-limited"
"""The code of the one 429 that is about this device, and not about how busy the API is."""

_LONGEST_QUOTE = 300
# Details that tell a program what to send, as a person would say them.
_TO_PEOPLE = {"invite-required": "this API requires an invite"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, not yet examined.

    Attributes:
        url: base URL of the API that was asked.
        status: the HTTP status.
        media_type: in lower case, without parameters.
        body: not shown in ``repr``, since it may hold enrollment codes.
        retry_after: the header as received, or "".
        request_id: API Gateway's id of the request, or "".
        date: what the API's clock shows, to the second, as :func:`http_date` returns it.
    """

    url: str
    status: int
    media_type: str
    body: bytes = field(repr=False)
    retry_after: str = ""
    request_id: str = ""
    date: datetime | None = None

    @property
    def wait(self) -> float:
        """Retry-After in seconds (delay-seconds, RFC 9110 §10.2.3); an HTTP date and anything else count as 0."""
        text = self.retry_after
        return float(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0.0

    @property
    def is_problem(self) -> bool:
        """Whether it claims to be a problem document, so that it comes from the backend, not from API Gateway."""
        return self.media_type == _PROBLEM

    @property
    def had_no_effect(self) -> bool:
        """Whether it is certain that nothing was done: a refusal, but not the backend's own 429, which AWS caused."""
        return 400 <= self.status < 500 and not (self.status == 429 and self.is_problem)


class Problem(NamedTuple):
    """A problem document of the API: printable texts, "" where a member is missing.

    Attributes:
        code: the stable name of the problem.
        detail: one sentence for a person.
        request_id: finds the request in the backend's log.
    """

    code: str
    detail: str
    request_id: str


Hint = Callable[[int, Problem | None], str | None]
"""What the reader of a refusal can do about it, by status and problem; None is the hint of the error's class."""


def document(answer: Answer, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """Return the JSON object in an answer. Does *not* check its members.

    Args:
        answer: of any status.
        object_hook: is given every JSON object, as by ``json.loads``.

    Raises:
        UnexpectedResponseError: the answer is not a JSON object.
    """
    if answer.media_type not in {JSON, _PROBLEM}:
        raise unexpected(answer.url, f"{printable(answer.media_type) or 'no content type'} instead of JSON")
    try:
        parsed = json.loads(answer.body, object_hook=object_hook)
    except (ValueError, RecursionError):
        # Without the cause: the locals of its frames hold the text, which may contain codes.
        raise unexpected(answer.url, "not valid JSON, or cut off") from None
    if not isinstance(parsed, dict):
        raise unexpected(answer.url, "not a JSON object")
    return parsed


def refusal(answer: Answer, hint: Hint) -> HsmEnrollError:
    """Return the error for an answer that is not the one hoped for.

    Raises:
        UnexpectedResponseError: it claims to be a problem document and is not JSON.
    """
    if 300 <= answer.status < 400:
        return unexpected(answer.url, f"a redirect (status {answer.status}), and redirects are not followed")
    if answer.status == 429:
        return _throttled(answer, hint)
    if answer.status < 300:
        return unexpected(answer.url, f"status {answer.status} with {printable(answer.media_type) or 'no content'}")
    problem = _problem(answer)
    detail = _reason(problem) if problem else f"status {answer.status}"
    if answer.status >= 500:
        return BackendUnreachableError(
            f"{answer.url} failed: {detail}", answered=True, hint=hint(answer.status, problem)
        )
    if problem is None:
        return unexpected(answer.url, f"status {answer.status} without a problem document")
    return BackendRefusedError(
        f"{answer.url} refused: {detail}",
        problem_code=problem.code,
        request_id=problem.request_id,
        api_time=answer.date,
        hint=hint(answer.status, problem),
    )


def in_words(seconds: float) -> str:
    """Return a time in seconds as a person reads it: ``40 s``, ``60 min``, ``3 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.0f} h"


def _throttled(answer: Answer, hint: Hint) -> ThrottledError:
    """Return the error for 429: everybody has to wait, or this device alone, for a reason that it is told."""
    asked = f"; it asks to wait {in_words(answer.wait)}" if answer.wait else ""
    problem = _problem(answer)
    if problem is None or problem.code != RENEWALS_LIMITED:
        return ThrottledError(f"{answer.url} is busy{asked}", hint=hint(429, None))
    return ThrottledError(f"{answer.url} refused: {_reason(problem)}{asked}", hint=hint(429, problem))


def _reason(problem: Problem) -> str:
    """Return why the API refuses, with its code before the full stop, if any: a message ends without one."""
    detail = _TO_PEOPLE.get(problem.code, problem.detail)
    return f"{detail.removesuffix('.')} ({problem.code})"


def unexpected(url: str, why: str) -> UnexpectedResponseError:
    """Return the error for an answer that the API does not give."""
    return UnexpectedResponseError(f"unexpected response from {url}: {why}")


def http_date(header: str) -> datetime | None:
    """Return the time in a header ``Date`` (RFC 9110 §6.6.1); None if it has none."""
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    # A date in a zone that is not known counts as UTC's.
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def printable(text: str) -> str:
    """Return the first 300 characters of foreign text, fit for a message of one line."""
    return escaped(text[:_LONGEST_QUOTE])


def _problem(answer: Answer) -> Problem | None:
    if not answer.is_problem:
        return None
    members = document(answer)
    if not isinstance(members.get("code"), str):
        return None
    return Problem(*(_text(members.get(name)) for name in ("code", "detail", "requestId")))


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""
