"""Who may connect to the broker, and to which topics: what moto's AWS IoT holds, carried over to mosquitto's files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from hsm_enroll.local.authority import OBSERVER, Authority
from hsm_enroll.local.home import Home, write
from hsm_enroll.local.mosquitto import Mosquitto
from hsm_enroll.local.policy import access_control_list

# API_CreateThing: the pattern of thingName. moto takes any name, the observer's too.
_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
_OBSERVER_RULES = f"user {OBSERVER}\ntopic readwrite #\n"


def close(home: Home, authority: Authority) -> None:
    """Write mosquitto's files so that nobody but the observer gets in: what a broker starts with."""
    write(home.acl, _OBSERVER_RULES.encode())
    write(home.device_crl, authority.revocation_list(authority.issued))
    write(home.observer_crl, authority.revocation_list(authority.issued))


class Admission:
    """Keeps one broker in step with one AWS account.

    A device certificate may connect while it is ACTIVE, has the deployed policy attached, and is attached to the Thing
    that its CN names. Every other one that the CA ever issued stands in the CRL, so the TLS handshake already fails; a
    connection that was open before is ended.

    Args:
        home: where mosquitto's files are.
        authority: issued the certificates.
        broker: reads the files.
        iot: moto's ``IoTBackend`` of the account and region.
        policy_name: the device policy.

    Not safe to use from several threads at once.
    """

    def __init__(self, home: Home, authority: Authority, broker: Mosquitto, iot: Any, policy_name: str) -> None:
        self._home = home
        self._authority = authority
        self._broker = broker
        self._iot = iot
        self._policy_name = policy_name
        self._written: object = None
        self._let_in: frozenset[_Identity] = frozenset()
        self._known: frozenset[str] = frozenset()

    def synchronise(self) -> None:
        """Return once the broker decides by what AWS IoT now holds.

        Raises:
            LocalCloudError: mosquitto is gone, or cannot enforce the policy.
        """
        rules = access_control_list(self._policy_document())
        admitted = self._admitted()
        held = frozenset(self._authority.issued - {identity.serial for identity in admitted})
        wanted = (rules, held, len(self._authority.issued))
        if wanted == self._written:
            return
        things = {identity.thing for identity in admitted}
        self._known |= things
        write(self._home.acl, (rules + _shut_out(self._known - things) + _OBSERVER_RULES).encode())
        write(self._home.device_crl, self._authority.revocation_list(held))
        write(self._home.observer_crl, self._authority.revocation_list(self._authority.issued))
        self._broker.reload()
        # Only now, when none of them gets in again. A Thing that still has another certificate may lose the connection
        # of that one, and comes back.
        for thing in sorted({identity.thing for identity in self._let_in - admitted}):
            self._broker.evict(thing)
        self._let_in = admitted
        self._written = wanted

    def _policy_document(self) -> Mapping[str, Any]:
        policy = self._iot.policies.get(self._policy_name)
        if policy is None:
            return {"Statement": []}
        # A dict from CloudFormation, text from CreatePolicy and CreatePolicyVersion.
        document: Mapping[str, Any] = (
            json.loads(policy.document) if isinstance(policy.document, str) else policy.document
        )
        return document

    def _admitted(self) -> frozenset[_Identity]:
        return frozenset(
            identity
            for certificate in self._iot.certificates.values()
            if certificate.status == "ACTIVE" and (certificate.arn, self._policy_name) in self._iot.principal_policies
            for identity in _identities(certificate.certificate_pem)
            if (certificate.arn, identity.thing) in self._iot.principal_things
        )


class _Identity(NamedTuple):
    serial: int
    thing: str


def _shut_out(things: Iterable[str]) -> str:
    # The CRL is asked in the TLS handshake alone: who had passed it, and not yet sent a CONNECT, bears no client id to
    # be evicted by.
    return "".join(f"user {thing}\ntopic deny #\n" for thing in sorted(things))


@cache
def _identities(certificate_pem: str) -> tuple[_Identity, ...]:
    """Return serial number and Thing's name, or nothing for a certificate that names no Thing, or several."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    names = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1 or not _THING_NAME.fullmatch(names[0]):
        return ()
    return (_Identity(certificate.serial_number, names[0]),)
