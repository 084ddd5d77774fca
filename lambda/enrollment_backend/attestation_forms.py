"""Reads the members of JSON objects that are about an attestation. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enrollment_backend.attestation.evidence import Evidence
from enrollment_backend.errors import FieldInvalidError, FieldMissingError, FieldTypeError, FieldUnknownError

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class AttestationRequest:
    """A request to start a session; only its form has been checked.

    Attributes:
        ek_certificate: the endorsement key's certificate, and perhaps others of its chain, in PEM; None without one.
        ek_public: the endorsement key as TPM2B_PUBLIC.
        ak_public: the attestation key as TPM2B_PUBLIC.
        thing_name: the Thing's name; None if the backend has to know it.
    """

    ek_certificate: str | None
    ek_public: bytes
    ak_public: bytes
    thing_name: str | None = None


@dataclass(frozen=True)
class SubmittedEvidence:
    """Evidence as it was received; only its form has been checked.

    Attributes:
        session_id: the session that it belongs to.
        evidence: what the TPM said.
    """

    session_id: str
    evidence: Evidence


def attestation_request(fields: Mapping[str, Any], *, names_thing: bool) -> AttestationRequest:
    """Read a request to start a session.

    Args:
        fields: the JSON object.
        names_thing: whether it may have a `thingName`, which is not checked.

    Raises:
        FieldUnknownError, FieldMissingError, FieldTypeError, FieldInvalidError: as for `submitted_evidence`.
    """
    _check_names(fields, {"ekCertificate", "ekPublic", "akPublic", *(["thingName"] if names_thing else [])})
    return AttestationRequest(
        ek_certificate=_text(fields, "ekCertificate") if "ekCertificate" in fields else None,
        ek_public=_octets(fields, "ekPublic"),
        ak_public=_octets(fields, "akPublic"),
        thing_name=_text(fields, "thingName") if "thingName" in fields else None,
    )


def submitted_evidence(fields: Mapping[str, Any]) -> SubmittedEvidence | None:
    """Read the evidence of a request for a certificate; None if it has none.

    Args:
        fields: the JSON object of the request.

    Raises:
        FieldUnknownError, FieldMissingError: the evidence has other members than those that it must have.
        FieldTypeError: it is not an object, or a member is not a string.
        FieldInvalidError: a member is not canonical base64 (RFC 4648 §4), or the session's id is not one.
    """
    if "evidence" not in fields:
        return None
    members = fields["evidence"]
    if not isinstance(members, dict):
        raise FieldTypeError
    _check_names(members, {"sessionId", "secret", "keyPublic", "certifyInfo", "signature"})
    session_id = _text(members, "sessionId")
    if not _SESSION_ID.fullmatch(session_id):
        raise FieldInvalidError("sessionId")
    evidence = Evidence(
        secret=_octets(members, "secret"),
        key_public=_octets(members, "keyPublic"),
        certify_info=_octets(members, "certifyInfo"),
        signature=_octets(members, "signature"),
    )
    return SubmittedEvidence(session_id, evidence)


def _check_names(fields: Mapping[str, Any], known: set[str]) -> None:
    if not fields.keys() <= known:
        raise FieldUnknownError


def _text(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        raise FieldMissingError(name)
    value = fields[name]
    if not isinstance(value, str):
        raise FieldTypeError
    return value


def _octets(fields: Mapping[str, Any], name: str) -> bytes:
    text = _text(fields, name)
    try:
        octets = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one; so is what is not ASCII
        raise FieldInvalidError(name) from error
    if base64.b64encode(octets).decode("ascii") != text:  # bits set that are not used (§3.5)
        raise FieldInvalidError(name)
    return octets
