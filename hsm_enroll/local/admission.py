"""Who may connect to the broker, and to which topics: what moto's AWS IoT holds, carried over to the gate."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.iot_policy import Policy, PolicyUnreadableError
from hsm_enroll.local.gate import Gate
from hsm_enroll.local.rights import OBSERVER, Attachment, Principal


class Admission:
    """Keeps one gate in step with one AWS account.

    Args:
        gate: lets devices in.
        iot: moto's ``IoTBackend`` of the account and region.
        observer: the observer's certificate, in PEM.
    """

    def __init__(self, gate: Gate, iot: Any, observer: bytes) -> None:
        self._gate = gate
        self._iot = iot
        self._always = {_fingerprint(observer.decode("ascii")): OBSERVER}
        self._admitted: Mapping[str, Principal] = {}

    def synchronise(self) -> None:
        """Return once the broker decides by what AWS IoT now holds.

        Raises:
            LocalCloudError: a policy that is attached to a certificate says something that is not evaluated here.
        """
        admitted = self._principals() | self._always
        if admitted != self._admitted:
            self._gate.admit(admitted)
            self._admitted = admitted

    def _principals(self) -> dict[str, Principal]:
        policies: defaultdict[str, list[Policy]] = defaultdict(list)
        for (arn, name), (_, policy) in self._iot.principal_policies.items():
            policies[arn].append(_policy(name, policy.document))
        things: defaultdict[str, list[Attachment]] = defaultdict(list)
        for arn, thing in self._iot.principal_things:
            things[arn].append(Attachment(thing, (arn, thing) in self._iot.exclusive_attachments))
        return {
            _fingerprint(certificate.certificate_pem): Principal(
                tuple(policies[certificate.arn]), tuple(things[certificate.arn])
            )
            for certificate in self._iot.certificates.values()
            if certificate.status == "ACTIVE"
        }


def _policy(name: str, document: Any) -> Policy:
    # A dict from CloudFormation, text from CreatePolicy and CreatePolicyVersion.
    try:
        return _parsed(document if isinstance(document, str) else json.dumps(document))
    except PolicyUnreadableError as error:
        raise LocalCloudError(
            f"The local broker cannot enforce the policy {name}: {error}.",
            hint="Teach hsm_enroll/iot_policy.py to evaluate it, or take it out of the policy.",
        ) from error


@cache
def _parsed(document: str) -> Policy:
    return Policy.parse(document)


@cache
def _fingerprint(certificate_pem: str) -> str:
    der = x509.load_pem_x509_certificate(certificate_pem.encode("ascii")).public_bytes(Encoding.DER)
    return hashlib.sha256(der).hexdigest()
