"""Attestation sessions: what the backend knows about a TPM between the two requests of a device.

A session belongs to the first CSR that is sent with it, for good: the same request may be repeated for as long as the
table has the session, any other one is refused.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Literal

from enrollment_backend.attestation.errors import (
    AttestationExpiredError,
    AttestationUnknownError,
    AttestationUsedError,
)
from enrollment_backend.aws_errors import ConditionFailedError
from enrollment_backend.claims import Attestation
from enrollment_backend.items import attestation_from_item, attestation_to_values
from enrollment_backend.table import Item, Table, Write

LIFETIME_SECONDS = 300
_TTL_SECONDS = 24 * 3600  # within which a request may be repeated: a queue may be long

Authority = Literal["invite", "key", "chip", "open"]
"""What allowed a session: an invite, a proof by the Thing's key, the TPM itself, or an open deployment."""

# Either it is new, or it is the same request again, however late.
_IS_USABLE = "attribute_exists(#id) AND (#used_by = :csr OR (attribute_not_exists(#used_by) AND #expires > :now))"


@dataclass(frozen=True)
class Session:
    """What is known about a device that has been challenged.

    Attributes:
        thing: the Thing that it is for; None if only the invite says which Things it may be for.
        authority: what allowed it.
        code_sha256: hash of the invite's code; None without one.
        listed: see `claims.Applicant`.
        attestation: the TPM, without its firmware, which is not known yet.
        nonce: what the TPM has to state.
        secret_sha256: digest of what only the TPM can decrypt.
        ak_public: its attestation key as TPM2B_PUBLIC.
    """

    thing: str | None
    authority: Authority
    code_sha256: str | None
    listed: int | None
    attestation: Attestation
    nonce: bytes
    secret_sha256: bytes
    ak_public: bytes


@dataclass(frozen=True)
class Sessions:
    """The sessions in the ledger's table.

    Args:
        table: the table.
        now: the time, in seconds since the epoch.

    Every method raises the errors of `aws.call`.
    """

    table: Table
    now: Callable[[], float]

    def start(self, session: Session) -> str:
        """Record a session, and return its new id: base64url, 256 random bits."""
        session_id, now = secrets.token_urlsafe(32), int(self.now())
        values = _to_values(session) | {"expires": now + LIFETIME_SECONDS, "ttl": now + _TTL_SECONDS}
        self.table.update(Write(("attestation", session_id), values, "", {}))
        return session_id

    def use(self, session_id: str, csr_sha256: str) -> Session:
        """Use a session for a request, once and for all.

        Args:
            session_id: from the device.
            csr_sha256: SHA-256 of the request's CSR in DER, in hexadecimal.

        Raises:
            AttestationUnknownError: there is no such session.
            AttestationExpiredError: it was started more than five minutes ago, and never used.
            AttestationUsedError: it was used for another CSR.
        """
        key = ("attestation", session_id)
        expected = {"csr": csr_sha256, "now": int(self.now())}
        try:
            return _from_item(self.table.update(Write(key, {"used_by": csr_sha256}, _IS_USABLE, expected)))
        except ConditionFailedError as error:
            found = self.table.get([key]).get(key)
            if found is None:
                raise AttestationUnknownError from error
            if "used_by" in found and not compare_digest(found["used_by"], csr_sha256):
                raise AttestationUsedError from error
            raise AttestationExpiredError from error


def _to_values(session: Session) -> Item:
    return {
        "thing": session.thing,
        "authority": session.authority,
        "code_sha256": session.code_sha256,
        "listed": session.listed,
        **attestation_to_values(session.attestation),
        "nonce": session.nonce.hex(),
        "secret_sha256": session.secret_sha256.hex(),
        "ak_public": base64.b64encode(session.ak_public).decode("ascii"),
    }


def _from_item(item: Item) -> Session:
    attestation = attestation_from_item(item)
    assert attestation is not None  # noqa: S101 - every session is about a TPM
    return Session(
        thing=item.get("thing"),
        authority=item["authority"],
        code_sha256=item.get("code_sha256"),
        listed=item.get("listed"),
        attestation=attestation,
        nonce=bytes.fromhex(item["nonce"]),
        secret_sha256=bytes.fromhex(item["secret_sha256"]),
        ak_public=base64.b64decode(item["ak_public"]),
    )
