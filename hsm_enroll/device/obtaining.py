"""What an enrollment and a renewal have in common: the key, the request, and the certificate that comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from hsm_enroll.errors import ForeignCertificateError, HsmEnrollError, KeyMissingError
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.new_key import NewKey
from hsm_enroll.x509.certificate import read_certificate

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from asn1crypto.x509 import Name

    from hsm_enroll.backend_api.client import Issued
    from hsm_enroll.device.ports import TokenKey, TokenSession
    from hsm_enroll.device.steps import Steps
    from hsm_enroll.key import TokenName

Journal = TypeVar("Journal", bound=NewKey)


def found(journal: NewKey, session: TokenSession) -> TokenKey | None:
    """Return the key that the token has under the journal's label and id; None if there is none, or half a pair."""
    try:
        return session.find(label=journal.key_label, key_id=journal.key_id)
    except KeyMissingError:
        return None


def generated(journal: NewKey, session: TokenSession, folder: Path, steps: Steps) -> TokenKey:
    """Generate the journal's key, and destroy before that what the token has under its label and id.

    Raises:
        HsmEnrollError: as for ``Session.generate`` and ``Session.destroy``.
    """
    session.destroy(label=journal.key_label, key_id=journal.key_id)
    _clear(journal, session, folder)
    with steps.step("key"):
        return session.generate(journal.key_type, label=journal.key_label, key_id=journal.key_id)


def has_none(journal: NewKey, session: TokenSession) -> bool:
    """Whether the token has neither half of the journal's key; False if the token cannot tell."""
    try:
        return not session.is_there(label=journal.key_label, key_id=journal.key_id)
    except HsmEnrollError:
        return False


def requested(journal: Journal, key: TokenKey, subject: Name, folder: Path, steps: Steps) -> Journal:
    """Return the journal with a request: its own, so that a repeated request is identical, or else a new one.

    Raises:
        HsmEnrollError: as for ``csr.build``; or the journal cannot be written.
    """
    from hsm_enroll.x509 import csr

    if journal.csr is not None and csr.is_for(journal.csr, key.public_key_info, subject):
        steps.skip("csr")
        return journal
    with steps.step("csr"):
        journal = replace(journal, csr=csr.build(key, subject))
        journal.save(folder)
    return journal


def check_issued(issued: Issued, key: TokenKey, now: datetime) -> None:
    """Reject anything but a valid certificate for this key.

    Raises:
        ForeignCertificateError: it is for another key, has ended, or is not a certificate.
    """
    certificate = read_certificate(issued.certificate_pem)
    if certificate.public_key.dump() != key.public_key_info:
        raise ForeignCertificateError("the API returned a certificate for another key")
    if certificate.not_valid_after <= now:
        raise ForeignCertificateError(
            f"the API returned a certificate that expired on {certificate.not_valid_after:%Y-%m-%d}",
            hint="Check this device's clock, then tell the operator of the backend.",
        )


def check_key(identity: Identity, public_key_info: bytes) -> None:
    """Check that a public key of the token is the one in the identity's certificate.

    Raises:
        KeyMissingError: it is another one.
    """
    if public_key_info != identity.certificate.public_key.dump():
        raise KeyMissingError(f"the key labelled {identity.key_label!r} does not match the certificate")


def identity(issued: Issued, token: TokenName, key: TokenKey, api: str) -> Identity:
    """Return the identity that a certificate and its key are."""
    return Identity(
        thing_name=issued.thing_name,
        certificate_id=issued.certificate_id,
        certificate_pem=issued.certificate_pem,
        token=token,
        key_label=key.label,
        key_id=key.id,
        key_type=key.key_type,
        key_origin=key.origin,
        api=api,
        mqtt_endpoint=issued.mqtt_endpoint,
        mqtt_port=issued.mqtt_port,
        role_alias=issued.role_alias,
        attested=issued.attested,
    )


def _clear(journal: NewKey, session: TokenSession, folder: Path) -> None:
    """Remove the nameless remains of a generation that was killed, but only if there were none before this journal."""
    if journal.token_was_clean:
        session.clear()
    elif session.leftovers() == 0:
        replace(journal, token_was_clean=True).save(folder)
