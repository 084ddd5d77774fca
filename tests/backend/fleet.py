"""Devices that enroll, the steps at which that can fail, and what is left of it in AWS IoT and in the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ReadTimeoutError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.iot.models import iot_backends

from tests.support.csr_factory import pem_of, request, spki_of
from tests.support.deployment import POLICY, REGION, TABLE, Answer, Death, Deployment, aws_answer
from tests.support.proofs import prove

LEASE = 31  # seconds; then whoever was at work is dead
OPERATIONS = (
    "TransactWriteItems", "TransactGetItems", "BatchGetItem", "CreateThing", "DescribeThing",
    "CreateCertificateFromCsr", "AttachPolicy", "AttachThingPrincipal", "ListTargetsForPolicy", "ListCertificates",
    "DescribeCertificate", "UpdateCertificate", "DeleteCertificate", "ListPrincipalThings", "ListThingPrincipals",
    "Query", "UpdateItem", "DetachThingPrincipal", "DeleteThing",
    "UpdateThing",
)  # fmt: skip


@dataclass(frozen=True)
class Device:
    """A device with a key of its own.

    Attributes:
        backend: where it enrolls.
        thing: the Thing that it wants to be.
        code: its invite.
        article: whether it is the original article's: that asks /getCertificate, with a subject that names no Thing.
    """

    backend: Deployment
    thing: str
    code: str | None = None
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    article: bool = False

    @property
    def csr(self) -> str:
        """Its CSR."""
        return pem_of(request(self.key, "AWS IoT Certificate" if self.article else self.thing))

    @property
    def spki_sha256(self) -> str:
        """Hash of its public key."""
        return hashlib.sha256(spki_of(self.key)).hexdigest()

    def enroll(self) -> Answer:
        """Ask for a certificate."""
        enroll = self.backend.enroll_as_article if self.article else self.backend.enroll
        return enroll(self.csr, self.thing, self.code)

    def successor(self) -> Device:
        """Return the same Thing with a new key."""
        return replace(self, key=ec.generate_private_key(ec.SECP256R1()))

    def renew(self, successor: Device) -> Answer:
        """Ask for a certificate for the Thing's next key."""
        return prove(self.backend, self.key, "/v1/renewals", {"csr": successor.csr})

    def commit(self) -> Answer:
        """Have its key become the Thing's."""
        return prove(self.backend, self.key, "/v1/renewals/commit")

    def recover(self) -> Answer:
        """Ask for its certificate again."""
        return prove(self.backend, self.key, "/v1/recoveries")

    def retire(self) -> Answer:
        """Give its key up."""
        return prove(self.backend, self.key, "/v1/retirements")

    def certificates(self) -> list[Any]:
        """Return moto's certificates for its key."""
        held = list(iot().certificates.values())
        return [certificate for certificate in held if _spki_sha256(certificate.certificate_pem) == self.spki_sha256]

    def usable(self) -> list[Any]:
        """Return those with which it could connect now."""
        return [
            certificate
            for certificate in self.certificates()
            if certificate.status == "ACTIVE" and (certificate.arn, POLICY) in iot().principal_policies
        ]

    def is_known(self) -> bool:
        """Whether what could connect for its key has its Thing and key in the ledger."""
        attached = list(iot().principal_things)
        for certificate in self.usable():
            # Another Thing may have the key as well.
            things = [thing for arn, thing in attached if arn == certificate.arn] or [self.thing]
            if any(not self._is_bound_to(thing) for thing in things):
                return False
        return True

    def _is_bound_to(self, thing: str) -> bool:
        return any(item(kind, thing).get("spki_sha256") == self.spki_sha256 for kind in ("thing", "renewal"))

    def assert_enrolled(self, answer: Answer, *, issued: int = 1) -> None:
        """Assert that an answer holds the one active certificate, of so many: attached, and valid in the ledger."""
        assert answer.status in {200, 201}, answer.body
        assert len(self.certificates()) == issued
        (certificate,) = [found for found in self.certificates() if found.status == "ACTIVE"]
        assert certificate.certificate_id == answer.json["certificateId"]
        assert certificate.certificate_pem == answer.json["certificatePem"]
        assert (certificate.arn, POLICY) in iot().principal_policies
        assert (certificate.arn, self.thing) in iot().principal_things
        claim, entry = item("thing", self.thing), item("certificate", certificate.certificate_id)
        assert claim["certificate_id"] == certificate.certificate_id
        assert "revoked" not in entry
        assert (claim["spki_sha256"], entry["spki_sha256"]) == (self.spki_sha256, self.spki_sha256)
        assert (entry["thing"], item("key", self.spki_sha256)["thing"]) == (self.thing, self.thing)

    def assert_alone(self) -> None:
        """Assert that its Thing has one certificate, for its key, and that nothing of a key before is left."""
        (certificate,) = self.certificates()
        assert (certificate.status, certificate.certificate_id) == (
            "ACTIVE",
            item("thing", self.thing)["certificate_id"],
        )
        attached = [arn for arn, thing in iot().principal_things if thing == self.thing]
        assert attached == [certificate.arn]
        assert (certificate.arn, POLICY) in iot().principal_policies
        entry = item("certificate", certificate.certificate_id)
        assert (entry["thing"], entry["spki_sha256"], "revoked" in entry) == (self.thing, self.spki_sha256, False)
        assert item("thing", self.thing)["spki_sha256"] == self.spki_sha256
        assert item("key", self.spki_sha256)["thing"] == self.thing
        assert item("renewal", self.thing) == {}
        assert self.backend.items("removal") == {}


def iot() -> Any:
    """Return moto's AWS IoT itself: its API would take most of the tests' time."""
    return iot_backends[DEFAULT_ACCOUNT_ID][REGION]


def let_items_expire(now: float) -> None:
    """Remove what DynamoDB's TTL removes by then, in seconds since the epoch."""
    for of_kind in dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items.values():
        for name, entry in list(of_kind.items()):
            if "ttl" in entry.attrs and int(entry.attrs["ttl"].value) < now:
                del of_kind[name]


def forget_turns() -> None:
    """Remove the counter of turns, as is needed where a test sets the time back."""
    dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items.pop(DynamoType({"S": "admission"}), None)


def forget_everything() -> None:
    """Empty ledger and AWS IoT: moto's transactions copy the whole table, and a retry looks at all new certificates."""
    dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items.clear()
    for kept in (iot().certificates, iot().principal_things, iot().principal_policies):
        kept.clear()


def item(kind: str, name: str) -> dict[str, Any]:
    """Return an item of the ledger, with DynamoDB's types taken off; empty if there is none."""
    found = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items.get(DynamoType({"S": kind}), {})
    entry = found.get(DynamoType({"S": name}))
    return {attribute: value.value for attribute, value in entry.attrs.items()} if entry else {}


@cache
def _spki_sha256(certificate_pem: str) -> str:
    key = x509.load_pem_x509_certificate(certificate_pem.encode("ascii")).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def between(steps: Sequence[str]) -> list[tuple[str, str]]:
    """Return when something may come in the middle of a request's steps: before each of them, and after the last."""
    return [*(("before", step) for step in steps), ("after", steps[-1])]


# --- what can go wrong ------------------------------------------------------------------------------------------------

Hook = Callable[[str, str], AWSResponse | None]
"""Takes ``before`` or ``after`` and the step; answers in AWS's place, raises, or returns None."""

_TIMEOUT = ReadTimeoutError(endpoint_url="https://aws.example.com")


def throttled(at: str) -> Hook:
    """Return a hook: AWS refuses each attempt of a step, for being asked too often."""
    return _answering(at, 400, "ThrottlingException")


def failing(at: str) -> Hook:
    """Return a hook: AWS answers each attempt of a step with 500."""
    return _answering(at, 500, "InternalFailure")


def unreachable(at: str) -> Hook:
    """Return a hook: no attempt of a step reaches AWS."""
    return _raising("before", at, _TIMEOUT)


def lost(at: str) -> Hook:
    """Return a hook: AWS does what a step asks for, at each attempt, and no answer comes."""
    return _raising("after", at, _TIMEOUT)


def lost_once(at: str) -> Hook:
    """Return a hook: the same for the first attempt only."""
    seen: list[str] = []

    def hook(phase: str, step: str) -> None:
        if (phase, step) == ("after", at) and not seen:
            seen.append(step)
            raise _TIMEOUT

    return hook


def killed_with(done: Iterable[str]) -> Hook:
    """Return a hook: the function is killed when these steps and no others have been done."""
    survived = frozenset(done)

    def hook(phase: str, step: str) -> None:
        if phase == "before" and step not in survived:
            raise Death

    return hook


def killed(phase: str, at: str) -> Hook:
    """Return a hook: the function is killed before or after a step; nothing else of it gets through from then on."""
    dead: list[str] = []

    def hook(now: str, step: str) -> None:
        if dead or (now, step) == (phase, at):
            dead.append(step)
            raise Death

    return hook


def _answering(at: str, status: int, code: str) -> Hook:
    # AWS IoT says the code in a header, DynamoDB in the body.
    body = json.dumps({"__type": code})
    return lambda phase, step: aws_answer(status, body, code) if (phase, step) == ("before", at) else None


def _raising(phase: str, at: str, error: Exception) -> Hook:
    def hook(now: str, step: str) -> None:
        if (now, step) == (phase, at):
            raise error

    return hook


@contextmanager
def going_wrong(device: Device, hook: Hook) -> Iterator[list[str]]:
    """Apply a hook to every request that goes to AWS until the block ends; yield the steps, as they are reached.

    A step is an operation and its number among the calls of that operation in the block, such as ``AttachPolicy 1``.
    All the time, what could connect for the device's key has to be in the ledger.
    """
    backend, steps, unknown = device.backend, list[str](), list[str]()
    begin = len(backend.calls)

    def step_of(operation: str) -> str:
        return f"{operation} {backend.calls[begin:].count(operation)}"

    def fault(operation: str) -> Callable[[Any], AWSResponse | None]:
        return lambda _request: hook("before", step_of(operation))

    def interrupt(phase: str, operation: str) -> None:
        step = step_of(operation)
        if phase == "before":
            steps.append(step)
            return
        if not device.is_known():
            unknown.append(step)
        hook("after", step)

    backend.faults = {operation: fault(operation) for operation in OPERATIONS}
    backend.interrupt = interrupt
    try:
        yield steps
    finally:
        backend.faults, backend.interrupt = {}, _nothing
    assert unknown == []


def _nothing(_phase: str, _operation: str) -> None: ...
