"""What docs/attestation.md says of refusals, against the errors that there are."""

from __future__ import annotations

from collections.abc import Iterator

from enrollment_backend.attestation.errors import AttestationRefusedError, TpmEnrolledError
from enrollment_backend.errors import AttestationRequiredError, EnrollmentError
from tests.docs import chip
from tests.support.pages import code, page


def _narrower(kind: type[EnrollmentError]) -> Iterator[type[EnrollmentError]]:
    for error in kind.__subclasses__():
        yield error
        yield from _narrower(error)


def test_every_refusal_has_its_row() -> None:
    """The table has each code of an attestation's refusal once, and what it means, and what to do."""
    kinds: list[type[EnrollmentError]] = [
        *_narrower(AttestationRefusedError),
        AttestationRequiredError,
        TpmEnrolledError,
    ]
    rows = page(chip.PAGE).table("code")
    assert sorted(code(name)[0] for name, *_ in rows) == sorted(kind.code for kind in kinds)
    assert all(meaning and advice for _, meaning, advice in rows)
