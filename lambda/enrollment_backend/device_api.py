"""The routes of devices: parses their requests, and builds the responses."""

from __future__ import annotations

import base64
from codecs import BOM_UTF8
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from enrollment_backend import __version__
from enrollment_backend.attestation_forms import attestation_request, submitted_evidence
from enrollment_backend.attesting import Started
from enrollment_backend.errors import (
    FieldMissingError,
    FieldTypeError,
    FieldUnknownError,
    InviteInvalidError,
    RequestRefusedError,
)
from enrollment_backend.http import (
    Event,
    Response,
    Routes,
    body_of,
    called_url,
    header,
    is_proof,
    json_body,
    json_response,
    proof_body,
    timestamp,
)
from enrollment_backend.issuing import Issued
from enrollment_backend.lifecycle import Lifecycle
from enrollment_backend.service import EnrollmentRequest, EnrollmentService
from enrollment_backend.strict_json import parse_object

_PEM_BEGIN = b"-----BEGIN "
_ACCEPTED_BODIES = "This path accepts a JSON object with thingName and csr, or a CSR in PEM."
_BEARER = "bearer"  # RFC 6750 §2.1; schemes are compared without regard to case (RFC 9110 §11.1)


def routes(service: EnrollmentService, lifecycle: Lifecycle) -> Routes:
    """Return the routes of devices.

    Args:
        service: the use cases of devices without a certificate.
        lifecycle: the use cases of devices that prove to have a key.
    """
    return {
        "/v1/certificates": {"POST": partial(_certificates, service)},
        "/getCertificate": {"POST": partial(_get_certificate, service)},
        "/v1/attestations": {"POST": partial(_attestation, service, lifecycle)},
        "/v1/invite": {"GET": partial(_invite, service)},
        "/v1/renewals": {"POST": partial(_proven, lifecycle.renew)},
        "/v1/renewals/commit": {"POST": partial(_proven_without_answer, lifecycle.commit)},
        "/v1/recoveries": {"POST": partial(_proven, lifecycle.identity)},
        "/v1/retirements": {"POST": partial(_proven_without_answer, lifecycle.retire)},
        "/v1/health": {"GET": partial(_health, service)},
    }


def _certificates(service: EnrollmentService, event: Event) -> Response:
    return _issued(service.enroll(_enrollment_request(event, json_body(event), article=False)))


def _attestation(service: EnrollmentService, lifecycle: Lifecycle, event: Event) -> Response:
    if is_proof(event):
        return _challenge(lifecycle.start_attestation(proof_body(event), called_url(event)))
    request = attestation_request(json_body(event), names_thing=True)
    return _challenge(service.start_attestation(request, _code(event)))


def _challenge(started: Started) -> Response:
    content = {
        "sessionId": started.session_id,
        "credentialBlob": _base64(started.challenge.credential_blob),
        "encryptedSecret": _base64(started.challenge.encrypted_secret),
        "nonce": _base64(started.nonce),
    }
    return json_response(HTTPStatus.CREATED, content | ({} if started.thing is None else {"thingName": started.thing}))


def _proven(use_case: Callable[[bytes, str], Issued], event: Event) -> Response:
    return _issued(use_case(proof_body(event), called_url(event)))


def _proven_without_answer(use_case: Callable[[bytes, str], None], event: Event) -> Response:
    use_case(proof_body(event), called_url(event))
    return Response(HTTPStatus.NO_CONTENT)


def _issued(issued: Issued) -> Response:
    alias = issued.role_alias
    credentials = (
        {}
        if alias is None
        else {
            "roleAlias": alias.name,
            "credentialsEndpoint": alias.endpoint,
            "credentialsPort": alias.port,
        }
    )
    return json_response(
        HTTPStatus.OK if issued.repeated else HTTPStatus.CREATED,
        {
            "certificatePem": issued.certificate.pem,
            "certificateId": issued.certificate.certificate_id,
            "certificateArn": issued.certificate.arn,
            "thingName": issued.thing_name,
            "mqttEndpoint": issued.mqtt_endpoint,
            "mqttPort": issued.mqtt_port,
            "attested": issued.attested,
            **credentials,
        },
    )


def _get_certificate(service: EnrollmentService, event: Event) -> Response:
    # Any Content-Type is accepted: clients written for the original article send whatever their tool defaults to.
    issued = service.enroll(_article_request(event, body_of(event)))
    return Response(HTTPStatus.OK, "text/plain", issued.certificate.pem)


def _invite(service: EnrollmentService, event: Event) -> Response:
    invite = service.show_invite(_code(event))
    content = {
        "thing": invite.thing,
        "usesLeft": invite.uses_left,
        "expires": timestamp(invite.expires),
        "attestation": service.effective_attestation(invite),
    }
    return json_response(HTTPStatus.OK, content)


def _health(service: EnrollmentService, _event: Event) -> Response:
    return json_response(HTTPStatus.OK, {"status": "ok", "version": __version__, "attestation": service.attestation})


def _article_request(event: Event, body: bytes) -> EnrollmentRequest:
    """Parse a JSON object, or a bare CSR, which is a PEM block and may have text before it."""
    is_object = body.removeprefix(BOM_UTF8).lstrip().startswith(b"{")
    if is_object or _PEM_BEGIN not in body:
        try:
            return _enrollment_request(event, parse_object(body), article=True)
        except RequestRefusedError as error:
            if not is_object:
                error.detail = f"{error.detail} {_ACCEPTED_BODIES}"
            raise
    # Invalid UTF-8 becomes U+FFFD, which is ignored around the PEM block, and refused within it.
    return EnrollmentRequest(code=_code(event), thing_name=None, csr=body.decode("utf-8", "replace"), article=True)


def _enrollment_request(event: Event, fields: dict[str, Any], *, article: bool) -> EnrollmentRequest:
    if not fields.keys() <= {"csr", "thingName", *([] if article else ["evidence"])}:
        raise FieldUnknownError
    return EnrollmentRequest(
        code=_code(event),
        thing_name=_string(fields, "thingName") if "thingName" in fields else None,
        csr=_string(fields, "csr"),
        article=article,
        evidence=submitted_evidence(fields),
    )


def _code(event: Event) -> str | None:
    """Return the invite's code from the header Authorization; None if there is no such header."""
    value = header(event, "authorization")
    if value is None:
        return None
    scheme, _, code = value.strip().partition(" ")
    if scheme.lower() != _BEARER:
        raise InviteInvalidError(reason="malformed")
    return code.strip()


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _string(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise FieldMissingError
    value = fields[name]
    if not isinstance(value, str):
        raise FieldTypeError
    return value
