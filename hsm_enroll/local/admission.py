"""Keeps the gate up to date with the certificates, policies and attachments in moto's AWS IoT."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_enroll.iot_policy import Policy, PolicyUnreadableError
from hsm_enroll.local.gate import Gate
from hsm_enroll.local.rights import OBSERVER, Attachment, Principal


class Admission:
    """Keeps one gate up to date with one AWS account.

    Args:
        gate: the gate.
        iot: moto's ``IoTBackend`` of the account and region.
        observer: the observer's certificate, in PEM.
        log: gets a warning about each policy that the gate cannot evaluate. A certificate with such a policy may do
            nothing.

    Attributes:
        admitted: the active certificates and the observer's, by the SHA-256 of their DER in hexadecimal.
    """

    def __init__(self, gate: Gate, iot: Any, observer: bytes, log: logging.Logger) -> None:
        self._gate = gate
        self._iot = iot
        self._log = log
        self._observer = {str(_fingerprint(observer.decode("ascii"))): OBSERVER}
        self.admitted: Mapping[str, Principal] = {}

    def synchronise(self) -> None:
        """Pass the current state of AWS IoT to the gate, and return once it has taken effect."""
        admitted = self._principals() | self._observer
        if admitted != self.admitted:
            self._gate.admit(admitted)
            self.admitted = admitted

    def _principals(self) -> dict[str, Principal]:
        policies: defaultdict[str, list[Policy | None]] = defaultdict(list)
        for (arn, name), (_, policy) in self._iot.principal_policies.items():
            policies[arn].append(self._policy(name, policy.document))
        things: defaultdict[str, list[Attachment]] = defaultdict(list)
        for arn, thing in self._iot.principal_things:
            things[arn].append(Attachment(thing, (arn, thing) in self._iot.exclusive_attachments))
        active = [certificate for certificate in self._iot.certificates.values() if certificate.status == "ACTIVE"]
        return {
            fingerprint: Principal(_all_or_none(policies[certificate.arn]), tuple(things[certificate.arn]))
            for certificate in active
            if (fingerprint := _fingerprint(certificate.certificate_pem)) is not None
        }

    def _policy(self, name: str, document: Any) -> Policy | None:
        # It is a dict if CloudFormation created it, and text if CreatePolicy or CreatePolicyVersion did.
        text = document if isinstance(document, str) else json.dumps(document)
        try:
            return _parsed(text)
        except PolicyUnreadableError as error:
            self._log.warning(
                "policy %s: the local broker cannot evaluate it, so it refuses certificates with it: %s", name, error
            )
            return None


def _all_or_none(policies: list[Policy | None]) -> tuple[Policy, ...]:
    """Return all policies, or none of them if one cannot be evaluated, since that one might deny something."""
    evaluable = [policy for policy in policies if policy is not None]
    return tuple(evaluable) if len(evaluable) == len(policies) else ()


@cache
def _parsed(document: str) -> Policy:
    return Policy.parse(document)


@cache
def _fingerprint(certificate_pem: str) -> str | None:
    """Return the SHA-256 of a certificate's DER, in hexadecimal; None if it is invalid, which moto does not check."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    except ValueError:
        return None
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
