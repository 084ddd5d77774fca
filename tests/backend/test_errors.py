"""The codes scripts and devices depend on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from enrollment_backend import http
from enrollment_backend.aws_errors import ConditionFailedError
from enrollment_backend.errors import EnrollmentError, EnrollmentInProgressError


def leaves(kind: type[EnrollmentError]) -> Iterator[type[EnrollmentError]]:
    """Yield the classes that are raised: those no other derives from."""
    children = kind.__subclasses__()
    if not children:
        yield kind
    for child in children:
        yield from leaves(child)


def test_every_error_has_a_code_and_a_sentence_of_its_own() -> None:
    """Codes are kebab-case and tell errors apart; two that say the same to the caller share code and sentence."""
    raised = list(dict.fromkeys(leaves(EnrollmentError)))
    codes = Counter(kind.code for kind in raised)
    assert http.NotFoundError in raised
    assert [kind.__name__ for kind in raised if kind.code == "internal"] == ["ConfigurationError"]
    shared = [kind for kind in raised if codes[kind.code] > 1]
    assert set(shared) == {EnrollmentInProgressError, ConditionFailedError}
    assert len({(kind.code, kind.detail) for kind in shared}) == 1
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code) for code in codes)
    assert all(kind.detail.endswith(".") for kind in raised)


def test_an_error_may_be_shown_whatever_its_facts_are() -> None:
    """The text of an error is its class's sentence; what is for the log only stays in `facts`."""
    error = EnrollmentError(certificate_id="for the log")
    assert str(error) == EnrollmentError.detail
    assert error.facts == {"certificate_id": "for the log"}
