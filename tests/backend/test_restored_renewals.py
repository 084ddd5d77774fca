"""S23: renewals in a ledger that was emptied, or restored to an earlier moment."""

from __future__ import annotations

from typing import Any

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType

from tests.backend.fleet import Device, item
from tests.backend.test_restored_ledger import forget, left, rebuild
from tests.backend.test_sweep import HOUR, scheduled
from tests.support.csr_factory import THING
from tests.support.deployment import REGION, TABLE, Deployment, assert_problem

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def device(backend: Deployment) -> Device:
    """An enrolled device."""
    enrolled = Device(backend, THING)
    assert enrolled.enroll().status == 201
    return enrolled


def pending(device: Device) -> Device:
    """Begin a renewal; return the device with its next key. Its certificate is a minute younger than the other."""
    successor = device.successor()
    assert device.renew(successor).status == 201
    for certificate in device.certificates():
        certificate.creation_date = certificate.creation_date.replace(year=2020)
    return successor


@pytest.mark.parametrize("committing", [True, False])
def test_s23_a_pending_renewal_is_restored_as_such(backend: Deployment, device: Device, committing: bool) -> None:
    """S23: the older certificate is the Thing's, and the newer one its renewal's: the device may commit it, or not."""
    successor = pending(device)
    forget()
    assert left(rebuild(backend)) == []
    assert (item("thing", THING)["spki_sha256"], item("renewal", THING)["spki_sha256"]) == (
        device.spki_sha256, successor.spki_sha256
    )  # fmt: skip
    assert device.recover().status == 200
    if committing:
        assert successor.commit().status == 204
        successor.assert_alone()
        return
    backend.clock.ahead += HOUR + 60
    scheduled(backend)
    device.assert_alone()


def test_s23_a_ledger_of_before_the_renewal_gets_it_as_pending(backend: Deployment, device: Device) -> None:
    """S23: restored to a moment before the request to renew."""
    forget("proof")
    successor = pending(device)
    forget("renewal")
    forget("key", names=[successor.spki_sha256])
    forget("certificate", names=[successor.certificates()[0].certificate_id])
    backdate(THING)
    assert left(rebuild(backend)) == []
    assert successor.commit().status == 204
    successor.assert_alone()


def test_s23_a_ledger_of_before_the_commit_gets_the_new_certificate(backend: Deployment, device: Device) -> None:
    """S23: AWS IoT has the old certificate no more; the device goes on with the new one."""
    saved = {kind: item(kind, name) for kind, name in (("thing", THING), ("key", device.spki_sha256))}
    successor = pending(device)
    assert successor.commit().status == 204
    restore(saved["thing"], saved["key"], successor)
    backdate(THING)
    assert left(rebuild(backend)) == []
    successor.assert_alone()
    assert successor.recover().status == 200
    assert_problem(Device(backend, "another", key=device.key).enroll(), 409, "key-enrolled")


def backdate(thing: str) -> None:
    """Let a Thing's certificate have been recorded long ago."""
    table = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items
    table[DynamoType({"S": "thing"})][DynamoType({"S": thing})].attrs["enrolled"] = DynamoType({"N": "1600000000"})


def restore(thing: dict[str, Any], key: dict[str, Any], successor: Device) -> None:
    """Put a Thing and its key back as they were, and take its new key and certificate out."""
    table = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items
    for values in (thing, key):
        attributes = table[DynamoType({"S": values["kind"]})][DynamoType({"S": values["id"]})].attrs
        for name in set(attributes) - set(values):
            del attributes[name]
        for name, value in values.items():
            kind = "N" if name in {"created", "lease_ends", "issuing_since", "enrolled"} else "S"
            attributes[name] = DynamoType({kind: value})
    forget("key", names=[successor.spki_sha256])
    forget("certificate", names=[successor.certificates()[0].certificate_id])
    del table[DynamoType({"S": "certificate"})][DynamoType({"S": thing["certificate_id"]})].attrs["revoked"]
