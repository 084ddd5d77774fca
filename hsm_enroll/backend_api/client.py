"""The device's side of the enrollment API (``lambda/openapi.yaml``): requests with an invite, or with nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Unpack

from hsm_enroll.backend_api import attestation, forms
from hsm_enroll.backend_api.answer import JSON, Answer, document, printable, refusal, unexpected
from hsm_enroll.backend_api.attestation import ATTESTATIONS, Challenge, Evidence, Policy, Presented
from hsm_enroll.backend_api.hints import hint
from hsm_enroll.backend_api.patient_client import Options, PatientClient, refuse_earlier_release
from hsm_enroll.backend_api.transport import Outgoing
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.secret import Secret

CERTIFICATES = "/v1/certificates"
INVITE = "/v1/invite"

# AWS IoT CreateThing, thingName; followed by * it is a prefix.
_THING_PATTERN = re.compile(r"[a-zA-Z0-9:_-]{1,128}|[a-zA-Z0-9:_-]{0,127}\*")
_WRONG_MEMBER = "a member has the wrong type or value"


@dataclass(frozen=True, slots=True)
class Issued:
    """What the API returns when it has issued a certificate.

    Does *not* promise that the certificate is for this device's key; the caller compares.
    """

    certificate_pem: str
    certificate_id: str
    thing_name: str
    mqtt_endpoint: str
    mqtt_port: int
    attested: bool
    role_alias: RoleAlias | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What an invite says.

    Attributes:
        thing: the Thing it is for, or a prefix of Thing names followed by ``*``.
        is_used_up: whether no use is left; the device that used it may come back with it.
        attestation: whether a TPM has to attest the key.
    """

    thing: str
    is_used_up: bool = False
    attestation: Policy = Policy.OFF


class EnrollmentClient(PatientClient):
    """A device's client of one enrollment API, for an enrollment.

    Args:
        base_url: ``https://…``, with or without a trailing slash.
        code: the enrollment code, sent as a bearer token (RFC 6750 §2.1); None in an open deployment.
        options: see :class:`patient_client.Options`.

    Raises:
        UsageError: the URL is not an HTTPS URL, or the CA file cannot be used.
    """

    def __init__(self, base_url: str, *, code: Secret | None = None, **options: Unpack[Options]) -> None:
        def authorize(_: Outgoing) -> Mapping[str, str]:
            return {} if code is None else {"Authorization": f"Bearer {code.reveal()}"}

        super().__init__(base_url, authorize, **options)
        self.has_invite = code is not None

    def enroll(
        self,
        csr: str,
        thing_name: str,
        meanwhile: Callable[[], None] | None = None,
        evidence: Evidence | None = None,
    ) -> Issued:
        """Ask for a certificate (``POST /v1/certificates``).

        The same request is sent again while the API is busy (429, 500, 502, 503, 504) or does not answer, as `Patience`
        says: it returns the same certificate, even if an earlier try was carried out. A refusal is final, and so is a
        redirect, an unexpected response, a server that is not trusted, and a problem document of the backend that does
        not say when to come back.

        Args:
            csr: PEM.
            thing_name: name of the Thing.
            meanwhile: called, in a thread of its own, when the request has been sent; again when it is repeated.
            evidence: proves that a TPM holds the request's key; None sends none.

        Raises:
            BackendUnreachableError, ThrottledError: try later.
            BackendRefusedError: with the API's own reason.
            UnexpectedResponseError, ApiTlsError: something other than the API answered.
        """

        def content() -> bytes:
            proof = {} if evidence is None else {"evidence": evidence.members}
            return json.dumps({"csr": csr, "thingName": thing_name, **proof}).encode("utf-8")

        answer = self.exchange("POST", CERTIFICATES, content, meanwhile)
        if answer.status not in {200, 201}:
            raise refusal(answer, hint)
        return issued(answer, thing_name)

    def attest(self, tpm: Presented, thing_name: str | None) -> Challenge:
        """Ask for a challenge for a TPM (``POST /v1/attestations``); repeated as by `enroll`.

        Args:
            tpm: how the TPM presents itself.
            thing_name: the Thing to be; None leaves that to the invite, or to the operator's list of TPMs.

        Raises:
            HsmEnrollError: as :meth:`enroll`.
        """
        content = json.dumps(attestation.request(tpm, thing_name)).encode("utf-8")
        answer = self.exchange("POST", ATTESTATIONS, lambda: content)
        refuse_earlier_release(answer, ATTESTATIONS)
        return attestation.challenge(answer, thing_name)

    def terms(self) -> Terms | None:
        """Return what the invite says (``GET /v1/invite``), before anything is created; repeated as by `enroll`.

        Without a code there is no invite to ask about. Then it returns at once, and the connection is opened meanwhile.

        Returns:
            None without a code, or from a backend of an earlier release, which does not tell.

        Raises:
            HsmEnrollError: as :meth:`enroll`.
        """
        if not self.has_invite:
            self.start_opening()
            return None
        answer = self.exchange("GET", INVITE)
        # API Gateway's own answer where a backend of an earlier release is deployed.
        if answer.status == 404 and answer.media_type == JSON:
            return None
        if answer.status != 200:
            raise refusal(answer, hint)
        members = document(answer)
        thing, uses_left = members.get("thing"), members.get("usesLeft")
        if not isinstance(thing, str) or not _THING_PATTERN.fullmatch(thing) or type(uses_left) is not int:
            raise unexpected(answer.url, _WRONG_MEMBER)
        return Terms(thing, is_used_up=uses_left < 1, attestation=attestation.policy(members))


def issued(answer: Answer, thing_name: str | None) -> Issued:
    """Return what an answer says about a certificate.

    Args:
        answer: one whose status says that there is a certificate.
        thing_name: the Thing that it has to be for; None if that is not known.

    Raises:
        UnexpectedResponseError: a member is missing or has the wrong form, or it is for another Thing.
    """
    members = document(answer)
    has_role = "roleAlias" in members
    for name, has_form in {**forms.ISSUED, **(forms.CREDENTIALS if has_role else {})}.items():
        if name not in members:
            raise unexpected(answer.url, f"{name} is missing")
        if not has_form(members[name]):
            raise unexpected(answer.url, f"{name} has the wrong type or value")
    if thing_name not in {None, members["thingName"]}:
        raise unexpected(answer.url, f"a certificate for another Thing, '{printable(members['thingName'])}'")
    return Issued(
        certificate_pem=members["certificatePem"],
        certificate_id=members["certificateId"],
        thing_name=members["thingName"],
        mqtt_endpoint=members["mqttEndpoint"],
        mqtt_port=members["mqttPort"],
        attested=members["attested"],
        role_alias=RoleAlias(*(members[name] for name in forms.CREDENTIALS)) if has_role else None,
    )
