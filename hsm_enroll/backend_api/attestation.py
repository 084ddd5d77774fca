"""What a device and the API tell each other about an attestation, by which a TPM proves that it holds a key."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from hsm_enroll.backend_api import forms
from hsm_enroll.backend_api.answer import Answer, document, printable, refusal, unexpected
from hsm_enroll.backend_api.hints import hint
from hsm_enroll.secret import Secret

ATTESTATIONS = "/v1/attestations"

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OCTETS = ("credentialBlob", "encryptedSecret", "nonce")
_NONCE_BYTES = 32


class Policy(StrEnum):
    """Whether the API wants attestations: not, where a device can, or from every device."""

    OFF = "off"
    PREFER = "prefer"
    REQUIRE = "require"


class Presented(Protocol):
    """A TPM as it presents itself, by one of its endorsement keys; structures of TPM 2.0 Part 2."""

    @property
    def ek_certificate(self) -> str | None:
        """The endorsement key's certificate in PEM, its chain after it; None without one."""

    @property
    def ek_public(self) -> bytes:
        """The endorsement key, a TPM2B_PUBLIC."""

    @property
    def ak_public(self) -> bytes:
        """The attestation key, a TPM2B_PUBLIC."""

    @property
    def others(self) -> int:
        """How many endorsement keys it has that it would rather not be known by."""


class Certified(Protocol):
    """What a TPM states about a key (TPM2_Certify); structures of TPM 2.0 Part 2."""

    @property
    def key_public(self) -> bytes:
        """The key, a TPM2B_PUBLIC."""

    @property
    def certify_info(self) -> bytes:
        """The statement, a TPMS_ATTEST without a size in front."""

    @property
    def signature(self) -> bytes:
        """The attestation key's signature, a TPMT_SIGNATURE."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the API challenges a TPM with.

    Attributes:
        session_id: the session that the evidence will belong to.
        credential_blob: a TPM2B_ID_OBJECT.
        encrypted_secret: a TPM2B_ENCRYPTED_SECRET.
        nonce: 32 bytes that the TPM has to state.
        thing_name: the Thing that the session is for; None if the invite is for several.
    """

    session_id: str
    credential_blob: bytes
    encrypted_secret: bytes
    nonce: bytes
    thing_name: str | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What proves that a TPM holds the key of a request.

    Attributes:
        session_id: the challenge's.
        secret: what only that TPM could decrypt, in base64.
        certified: what it states about the key.
    """

    session_id: str
    secret: Secret
    certified: Certified

    @property
    def members(self) -> dict[str, str]:
        """The evidence as a JSON object; it has the secret in it."""
        return {
            "sessionId": self.session_id,
            "secret": self.secret.reveal(),
            "keyPublic": _base64(self.certified.key_public),
            "certifyInfo": _base64(self.certified.certify_info),
            "signature": _base64(self.certified.signature),
        }


def policy(members: Mapping[str, Any]) -> Policy:
    """Return what an answer says about attestations; ``off`` if it does not, as that of an earlier release."""
    said = members.get("attestation")
    return Policy(said) if isinstance(said, str) and said in set(Policy) else Policy.OFF


def request(tpm: Presented, thing_name: str | None = None) -> dict[str, str]:
    """Return the request for a challenge as a JSON object.

    Args:
        tpm: how the TPM presents itself.
        thing_name: the Thing to be; None leaves that to the invite, to the proof, or to the operator's list of TPMs.
    """
    return {
        "ekPublic": _base64(tpm.ek_public),
        "akPublic": _base64(tpm.ak_public),
        **({} if tpm.ek_certificate is None else {"ekCertificate": tpm.ek_certificate}),
        **({} if thing_name is None else {"thingName": thing_name}),
    }


def challenge(answer: Answer, thing_name: str | None) -> Challenge:
    """Return the challenge in an answer to ``POST /v1/attestations``.

    Args:
        answer: the answer.
        thing_name: the Thing that it has to be for; None if that is not known.

    Raises:
        BackendRefusedError, BackendUnreachableError, ThrottledError: there is none.
        UnexpectedResponseError: a member is missing or has the wrong form, or it is for another Thing.
    """
    if answer.status != 201:
        raise refusal(answer, hint)
    members = document(answer)
    session_id, named = members.get("sessionId"), members.get("thingName")
    octets = {name: _octets(members.get(name)) for name in _OCTETS}
    wrong = [name for name, value in octets.items() if not value]
    if not isinstance(session_id, str) or not _SESSION_ID.fullmatch(session_id):
        wrong.append("sessionId")
    if len(octets["nonce"]) != _NONCE_BYTES:
        wrong.append("nonce")
    if named is not None and not forms.is_thing_name(named):
        wrong.append("thingName")
    if wrong:
        raise unexpected(answer.url, f"{wrong[0]} is missing, or has the wrong type or value")
    if thing_name is not None and named not in {None, thing_name}:
        raise unexpected(answer.url, f"a challenge for another Thing, '{printable(str(named))}'")
    return Challenge(str(session_id), octets["credentialBlob"], octets["encryptedSecret"], octets["nonce"], named)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _octets(value: object) -> bytes:
    """Return what base64 (RFC 4648 §4) stands for; nothing if it is not base64."""
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:
        return b""
