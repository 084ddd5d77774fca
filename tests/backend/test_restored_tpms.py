"""S23: what a rebuild restores of proofs that keys are in TPMs: a Thing's attributes in AWS IoT say which TPM it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.backend.chips import ChipDevice, trust_the_vendor, trusting
from tests.backend.fleet import Device, going_wrong, item, throttled
from tests.backend.test_restored_ledger import forget, left, rebuild, restored
from tests.backend.test_restored_renewals import backdate, restore
from tests.support.csr_factory import THING
from tests.support.deployment import Deployment, assert_problem

TPM = ("ek_sha256", "tpm_manufacturer", "tpm_firmware")


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """A deployment that takes invites and trusts the TPMs' vendor."""
    with trusting({"AUTH_MODE": "invite"}) as deployment:
        yield deployment


def attested(backend: Deployment, thing: str = THING, **invite: object) -> ChipDevice:
    """Enroll a device with evidence."""
    device = ChipDevice(backend, thing, backend.invite(thing, requireTpm=True, **invite))
    assert device.enroll().status == 201
    return device


def tpm_of(thing: str) -> dict[str, Any]:
    """Return what the ledger has of a Thing's TPM."""
    found = item("thing", thing)
    return {name: found[name] for name in TPM if name in found}


def test_an_attested_thing_is_attested_again(backend: Deployment) -> None:
    """It is the same TPM, with manufacturer and firmware; its renewals have to be attested, and are accepted."""
    device = attested(backend)
    before = tpm_of(THING)
    assert before.keys() == set(TPM)
    forget()
    assert restored(rebuild(backend)) == {THING: "issued"}
    assert tpm_of(THING) == before
    assert item("tpm", device.ek_sha256)["thing"] == THING
    shown = backend.operate("GET", "fleet", attested="yes").json["things"]
    assert [(one["thing"], one["ekSha256"]) for one in shown] == [(THING, device.ek_sha256)]
    successor = device.successor()
    assert_problem(device.renew_without_evidence(successor), 403, "attestation-required")
    trust_the_vendor(backend)
    assert device.renew(successor).status == 201


def test_its_tpm_is_not_another_things(backend: Deployment) -> None:
    """One TPM, one Thing holds again after a rebuild."""
    device = attested(backend)
    forget()
    rebuild(backend)
    trust_the_vendor(backend)
    other = replace(device.wiped(backend.invite("other", requireTpm=True)), thing="other")
    assert_problem(other.enroll(), 409, "tpm-enrolled")


def test_a_thing_without_a_proof_stays_so(backend: Deployment) -> None:
    """Nothing is made up."""
    assert Device(backend, THING, backend.invite(THING)).enroll().status == 201
    forget()
    rebuild(backend)
    assert (tpm_of(THING), backend.items("tpm")) == ({}, {})


def test_two_things_of_one_tpm_are_both_restored(backend: Deployment) -> None:
    """An invite had allowed it; one of them gets the TPM, and neither is left out."""
    first = attested(backend, "first")
    code = backend.invite("second", requireTpm=True, reuseTpm=True)
    assert replace(first.wiped(code), thing="second").enroll().status == 201
    forget()
    answers = rebuild(backend)
    assert (restored(answers), left(answers)) == ({"first": "issued", "second": "issued"}, [])
    assert tpm_of("first") == tpm_of("second")
    assert item("tpm", first.ek_sha256)["thing"] in {"first", "second"}


def test_the_tpm_of_a_revoked_thing_is_free(backend: Deployment) -> None:
    """The Thing is restored as revoked, with its TPM; that may become another Thing, as before the loss."""
    device = attested(backend)
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    forget()
    assert restored(rebuild(backend)) == {THING: "revoked"}
    assert tpm_of(THING)["ek_sha256"] == device.ek_sha256
    assert backend.items("tpm") == {}


def test_the_attributes_of_a_thing_from_elsewhere_prove_nothing(backend: Deployment) -> None:
    """They are its owner's; only those of Things that were created here say which TPM it is."""
    backend.iot.create_thing(
        thingName=THING, attributePayload={"attributes": {"attested": "true", "key": f"ec-p256,ek={'0e' * 32}"}}
    )
    assert Device(backend, THING, backend.invite(THING, existingThing=True)).enroll().status == 201
    forget()
    assert restored(rebuild(backend, existingThings=True)) == {THING: "issued"}
    assert (tpm_of(THING), backend.items("tpm")) == ({}, {})


def test_a_ledger_of_before_an_attested_renewal_gets_its_tpm(backend: Deployment) -> None:
    """Then the Thing had no TPM, and its old certificate is gone: it gets the new one, with the TPM."""
    device = ChipDevice(backend, THING, backend.invite(THING))
    assert Device.enroll(device).status == 201
    saved = {kind: item(kind, name) for kind, name in (("thing", THING), ("key", device.spki_sha256))}
    successor = replace(device.wiped())
    assert device.renew(successor).status == 201
    assert successor.commit().status == 204
    restore(saved["thing"], saved["key"], successor)
    forget("tpm")
    backdate(THING)
    assert tpm_of(THING) == {}
    assert restored(rebuild(backend)) == {THING: "issued"}
    assert (item("thing", THING)["spki_sha256"], tpm_of(THING)["ek_sha256"]) == (
        successor.spki_sha256,
        device.ek_sha256,
    )
    assert item("tpm", device.ek_sha256)["thing"] == THING


@pytest.mark.usefixtures("no_waiting")
def test_a_device_that_had_committed_begins_its_next_renewal_with_evidence(backend: Deployment) -> None:
    """AWS IoT still had the old certificate when the ledger was lost: the session it asks for commits once more."""
    device = attested(backend)
    successor = device.wiped()
    assert device.renew(successor).status == 201
    with going_wrong(successor, throttled("UpdateCertificate 1")):
        assert successor.commit().status == 204
    for certificate in device.certificates():
        certificate.creation_date = certificate.creation_date.replace(year=2020)
    forget()
    assert left(rebuild(backend)) == []
    trust_the_vendor(backend)
    again = successor.wiped()
    assert successor.renew(again).status == 201
    assert device.certificates() == []
    assert again.commit().status == 204
    again.assert_alone()


def test_a_pending_renewal_of_a_thing_from_elsewhere_can_be_committed(backend: Deployment) -> None:
    """AWS IoT does not say that its key is in the TPM; the Thing's own entry does, which was not lost."""
    backend.iot.create_thing(thingName=THING)
    device = attested(backend, existingThing=True)
    successor = device.wiped()
    assert device.renew(successor).status == 201
    for certificate in device.certificates():
        certificate.creation_date = certificate.creation_date.replace(year=2020)
    forget("renewal")
    forget("key", names=[successor.spki_sha256])
    forget("certificate", names=[successor.certificates()[0].certificate_id])
    backdate(THING)
    before = tpm_of(THING)
    assert restored(rebuild(backend, existingThings=True)) == {THING: "issued"}
    assert successor.commit().status == 204
    successor.assert_alone()
    assert tpm_of(THING) == before
