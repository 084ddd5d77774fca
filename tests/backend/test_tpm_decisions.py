"""What is decided about TPMs, given what the ledger holds: whatever that is, and whoever asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollment_backend.attestation.errors import EkMismatchError, EkUnknownError, TpmEnrolledError
from enrollment_backend.claims import Applicant, Attestation, BoundTpm, Certificate, Claim
from enrollment_backend.decisions import Entries, Verdict, decide, decide_renewal
from enrollment_backend.errors import (
    AttestationRequiredError,
    EnrollmentError,
    ThingEnrolledError,
    ThingRevokedError,
)
from enrollment_backend.invites import Invite

NOW = 1_000
THING, OTHER = "line3-1", "line3-2"
TPM, ANOTHER = Attestation("e" * 64, "c" * 64), Attestation("f" * 64)
CODE = "a" * 64
KEY, NEXT = "k" * 64, "l" * 64
TIMES = st.integers(NOW - 2, NOW)
TPMS = st.sampled_from([None, TPM, ANOTHER])

INVITE = Invite(CODE, THING, 1, 1, NOW - 10, NOW + 10, "operator")
CLAIM = Claim(THING, "id", KEY, CODE, "lease", 0, NOW - 5, certificate=Certificate("pem", "id", "arn"), attestation=TPM)
BY_INVITE = Applicant(THING, NEXT, CODE, attestation=TPM)
BY_CHIP = Applicant(THING, NEXT, None, attestation=TPM, by_chip=True)

applicants = st.builds(
    Applicant,
    thing=st.just(THING),
    spki_sha256=st.sampled_from([KEY, NEXT]),
    code_sha256=st.just(CODE),
    attestation=TPMS,
    listed=st.none() | TIMES,
) | st.builds(
    Applicant,
    thing=st.just(THING),
    spki_sha256=st.sampled_from([KEY, NEXT]),
    code_sha256=st.none(),
    attestation=st.sampled_from([TPM, ANOTHER]),
    by_chip=st.just(True),
    listed=st.none() | TIMES,
)
invites = st.builds(
    replace,
    st.just(INVITE),
    created=TIMES,
    replaces_key=st.booleans(),
    require_tpm=st.booleans(),
    reuse_tpm=st.booleans(),
    ek_sha256=st.sampled_from([None, TPM.ek_sha256, TPM.ek_certificate_sha256, ANOTHER.ek_sha256]),
)
ledgers = st.builds(
    Entries,
    invite=invites,
    claim=st.none()
    | st.builds(
        replace,
        st.just(CLAIM),
        attestation=TPMS,
        revoked_at=st.none() | TIMES,
        certificate=st.sampled_from([None, CLAIM.certificate]),
    ),
    key_thing=st.none(),
    tpm=st.none()
    | st.builds(
        BoundTpm, thing=st.sampled_from([THING, OTHER]), since=TIMES, mark=st.just("mark"), in_use=st.booleans()
    ),
)


def outcome(applicant: Applicant, entries: Entries) -> Verdict | EnrollmentError:
    """Return the verdict or the refusal."""
    try:
        return decide(applicant, entries, NOW)
    except EnrollmentError as refusal:
        return refusal


def invite_of(applicant: Applicant, entries: Entries) -> Invite | None:
    """Return the applicant's invite."""
    return entries.invite if applicant.code_sha256 is not None else None


@given(applicants, ledgers)
def test_s20_an_invite_that_requires_a_tpm_takes_no_other(applicant: Applicant, entries: Entries) -> None:
    """S20: nothing is done with it without proof, or for another TPM than the one it names in either way."""
    entries = replace(entries, invite=invite_of(applicant, entries))
    invite, result = entries.invite, outcome(applicant, entries)
    if invite is not None and (invite.require_tpm or invite.ek_sha256) and applicant.attestation is None:
        assert isinstance(result, AttestationRequiredError)
    if invite is not None and invite.ek_sha256 and applicant.attestation is not None:
        named = (applicant.attestation.ek_sha256, applicant.attestation.ek_certificate_sha256)
        assert isinstance(result, EkMismatchError) or invite.ek_sha256 in named


@given(applicants, ledgers)
def test_a_key_in_a_tpm_is_replaced_by_the_same_tpm_or_as_the_operator_says(
    applicant: Applicant, entries: Entries
) -> None:
    """Neither another TPM nor none gets an enrolled Thing, unless the invite replaces its key."""
    entries = replace(entries, invite=invite_of(applicant, entries))
    claim, invite = entries.claim, entries.invite
    if claim is None or claim.revoked_at is not None or applicant.spki_sha256 == KEY:
        return
    same = claim.attestation is not None and claim.attestation == applicant.attestation
    replaces = invite is not None and invite.replaces_key
    if not same and not replaces:
        assert isinstance(outcome(applicant, entries), EnrollmentError)
    if outcome(applicant, entries) is Verdict.RENEW:
        assert claim.certificate is not None


@given(applicants, ledgers)
def test_a_tpm_in_use_is_no_other_thing_unless_the_operator_says_so(applicant: Applicant, entries: Entries) -> None:
    """By an invite that allows it, or by a list that is later than what the ledger has; or the Thing has it already."""
    entries = replace(entries, invite=invite_of(applicant, entries))
    tpm, result = entries.tpm, outcome(applicant, entries)
    if tpm is None or tpm.thing == THING or not tpm.in_use or applicant.attestation is None:
        assert not isinstance(result, TpmEnrolledError)
        return
    allowed = (entries.invite is not None and entries.invite.reuse_tpm) or (
        applicant.listed is not None and applicant.listed >= tpm.since
    )
    has_it = entries.claim is not None and entries.claim.is_in(applicant.attestation.ek_sha256)
    if result in {Verdict.CLAIM, Verdict.RECLAIM, Verdict.ATTEST}:
        assert allowed or has_it


@given(applicants, ledgers)
def test_a_revoked_thing_comes_back_only_as_the_operator_has_said_since(applicant: Applicant, entries: Entries) -> None:
    """By an invite, or by a list, of after that; its TPM alone is not enough."""
    entries = replace(entries, invite=invite_of(applicant, entries))
    claim = entries.claim
    if claim is None or claim.revoked_at is None or not isinstance(outcome(applicant, entries), Verdict):
        return
    invited = entries.invite.created if entries.invite is not None else 0
    assert max(applicant.listed or 0, invited) >= claim.revoked_at


@given(applicants, ledgers)
def test_a_renewal_stays_in_the_tpm(applicant: Applicant, entries: Entries) -> None:
    """A Thing with a key in a TPM gets the next one there, whatever else the ledger holds."""
    applicant = replace(applicant, code_sha256=None, by_chip=False, spki_sha256=NEXT)
    claim = entries.claim
    if claim is None or claim.attestation is None:
        return
    try:
        decide_renewal(applicant, replace(entries, invite=None), NOW)
    except (AttestationRequiredError, EkMismatchError):
        assert applicant.attestation != claim.attestation
    except EnrollmentError:
        pass
    else:
        assert applicant.attestation == claim.attestation


BOUND = BoundTpm(OTHER, NOW - 1, "mark")
CASES: dict[str, tuple[Applicant, Entries, object]] = {
    "new, by invite": (BY_INVITE, Entries(INVITE, None, None), Verdict.CLAIM),
    "new, listed": (replace(BY_CHIP, listed=NOW), Entries(None, None, None), Verdict.CLAIM),
    "gone since the session began": (BY_CHIP, Entries(None, None, None), EkUnknownError),
    "wiped, by invite": (BY_INVITE, Entries(INVITE, CLAIM, None), Verdict.RENEW),
    "wiped, by chip": (BY_CHIP, Entries(None, CLAIM, None), Verdict.RENEW),
    "wiped, in an open deployment": (replace(BY_CHIP, by_chip=False), Entries(None, CLAIM, None), ThingEnrolledError),
    "wiped before it was issued": (BY_CHIP, Entries(None, replace(CLAIM, certificate=None), None), Verdict.RECLAIM),
    "other TPM": (replace(BY_CHIP, attestation=ANOTHER), Entries(None, CLAIM, None), ThingEnrolledError),
    "no TPM before": (BY_CHIP, Entries(None, replace(CLAIM, attestation=None), None), ThingEnrolledError),
    "revoked": (BY_CHIP, Entries(None, replace(CLAIM, revoked_at=NOW), None), ThingRevokedError),
    "listed before it was revoked": (
        replace(BY_CHIP, listed=NOW - 1), Entries(None, replace(CLAIM, revoked_at=NOW), None), ThingRevokedError
    ),
    "listed since": (
        replace(BY_CHIP, listed=NOW), Entries(None, replace(CLAIM, revoked_at=NOW), None), Verdict.RECLAIM
    ),
    "taken by another Thing since it was revoked": (
        replace(BY_INVITE, spki_sha256=NEXT),
        Entries(replace(INVITE, created=NOW), replace(CLAIM, revoked_at=NOW), None, tpm=BOUND),
        TpmEnrolledError,
    ),
    "another Thing's": (BY_INVITE, Entries(INVITE, None, None, tpm=BOUND), TpmEnrolledError),
    "another Thing's, not in use": (
        BY_INVITE, Entries(INVITE, None, None, tpm=replace(BOUND, in_use=False)), Verdict.CLAIM
    ),
    "another Thing's, allowed": (
        BY_INVITE, Entries(replace(INVITE, reuse_tpm=True), None, None, tpm=BOUND), Verdict.CLAIM
    ),
    "another Thing's, listed since": (
        replace(BY_CHIP, listed=NOW - 1), Entries(None, None, None, tpm=BOUND), Verdict.CLAIM
    ),
    "another Thing's too, by the operator's will": (
        BY_CHIP, Entries(None, CLAIM, None, tpm=BOUND), Verdict.RENEW
    ),
    "the same key, not attested so far": (
        replace(BY_INVITE, spki_sha256=KEY), Entries(INVITE, replace(CLAIM, attestation=None), None), Verdict.ATTEST
    ),
    "the same key, attested": (replace(BY_INVITE, spki_sha256=KEY), Entries(INVITE, CLAIM, None), Verdict.ANSWER),
    "the same key, without evidence": (
        replace(BY_INVITE, spki_sha256=KEY, attestation=None), Entries(INVITE, CLAIM, None), Verdict.ANSWER
    ),
    "the same key, in another TPM": (
        replace(BY_INVITE, spki_sha256=KEY, attestation=ANOTHER), Entries(INVITE, CLAIM, None), EkMismatchError
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_case_has_its_verdict(case: str) -> None:
    """One by one."""
    applicant, entries, expected = CASES[case]
    result = outcome(applicant, entries)
    assert result is expected if isinstance(expected, Verdict) else type(result) is expected
