"""Devices whose keys are in TPMs, for the tests of the backend; the TPMs are `software_tpm`'s."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.backend.fleet import Device, item
from tests.support.csr_factory import spki_of
from tests.support.deployment import Answer, Deployment, deployed
from tests.support.ek_authority import EkAuthority, pem
from tests.support.proofs import prove
from tests.support.software_tpm import EvidenceLie, RequestLie, SoftwareTpm


@cache
def vendor() -> EkAuthority:
    """Return the TPM vendor that the tests' deployments trust."""
    return EkAuthority()


def tpm() -> SoftwareTpm:
    """Make a TPM of that vendor, with the quickest endorsement key."""
    return SoftwareTpm("ec-p256", vendor())


def trust_the_vendor(backend: Deployment) -> None:
    """Have the operator add the vendor's root."""
    root = vendor().root
    sha256 = hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()
    answer = backend.operate("POST", "ek-authorities", {"certificate": pem(root), "sha256": sha256})
    assert answer.status == 201, answer.body


@contextmanager
def trusting(environment: dict[str, str] | None = None) -> Iterator[Deployment]:
    """Run a deployment that trusts the vendor, with environment variables of its own; its calls are forgotten."""
    with deployed(environment) as backend:
        trust_the_vendor(backend)
        backend.calls.clear()
        yield backend


def list_tpm(backend: Deployment, ek_sha256: str, thing: str) -> None:
    """Have the operator list a TPM as a Thing's."""
    answer = backend.operate("POST", "eks", {"keys": [{"ekSha256": ek_sha256, "thing": thing}]})
    assert (answer.status, answer.json["conflicts"]) == (200, []), answer.body


def forget_tpm(backend: Deployment, ek_sha256: str) -> None:
    """Have the operator take a TPM off the list."""
    assert backend.operate("DELETE", "eks", ekSha256=ek_sha256).status == 204


@dataclass(frozen=True)
class ChipDevice(Device):
    """A device whose key is in a TPM.

    Attributes:
        tpm: the TPM.
    """

    tpm: SoftwareTpm = field(default_factory=tpm)

    @property
    def ek_sha256(self) -> str:
        """What names its TPM."""
        return hashlib.sha256(spki_of(self.tpm.ek_key)).hexdigest()

    @property
    def ek_certificate_sha256(self) -> str:
        """What else names it."""
        return hashlib.sha256(self.tpm.ek_certificate.public_bytes(Encoding.DER)).hexdigest()

    def wiped(self, code: str | None = None) -> ChipDevice:
        """Return the device after its disk was wiped: the same TPM, another key."""
        return replace(self, key=ec.generate_private_key(ec.SECP256R1()), code=code)

    def start(self, lie: RequestLie | None = None, *, named: bool = True, certified: bool = True) -> Answer:
        """Ask for a session, with its invite if it has one."""
        request = self.tpm.request(lie, thing_name=self.thing if named else None, certified=certified)
        return self.backend.post("/v1/attestations", request, self.code)

    def start_with_key(self, *, certified: bool = True) -> Answer:
        """Ask for a session for a renewal."""
        return prove(self.backend, self.key, "/v1/attestations", self.tpm.request(certified=certified))

    def session(self, **more: Any) -> dict[str, Any]:
        """Have a session started."""
        answer = self.start(**more)
        assert answer.status == 201, answer.body
        return answer.json

    def request(self, session: dict[str, Any], lie: EvidenceLie | None = None) -> dict[str, Any]:
        """Return a request to enroll, with evidence; repeated, it is the same request."""
        csr = self.csr
        return {"csr": csr, "thingName": self.thing, "evidence": self.tpm.evidence(session, csr, self.key, lie)}

    def send(self, request: dict[str, Any]) -> Answer:
        """Send a request to enroll."""
        return self.backend.post("/v1/certificates", request, self.code)

    def enroll(self, lie: EvidenceLie | None = None) -> Answer:
        """Enroll with evidence."""
        return self.send(self.request(self.session(), lie))

    def renew(self, successor: Device, lie: EvidenceLie | None = None) -> Answer:
        """Renew with evidence for the successor's key."""
        started = self.start_with_key()
        assert started.status == 201, started.body
        csr = successor.csr
        evidence = self.tpm.evidence(started.json, csr, successor.key, lie)
        return prove(self.backend, self.key, "/v1/renewals", {"csr": csr, "evidence": evidence})

    def renew_without_evidence(self, successor: Device) -> Answer:
        """Renew as a device without a TPM does."""
        return super().renew(successor)

    def attributes(self) -> dict[str, str]:
        """Return the attributes of its Thing in AWS IoT, without that of its claim."""
        found = dict(self.backend.iot.describe_thing(thingName=self.thing)["attributes"])
        assert found.pop("hsm-enroll") == item("thing", self.thing)["claim_id"]
        return found
