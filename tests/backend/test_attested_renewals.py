"""Renewals of Things whose keys are in TPMs: the next key is in the same one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from enrollment_backend.claims import SETTLING_SECONDS
from tests.backend.chips import ChipDevice, list_tpm, tpm, trusting
from tests.backend.fleet import Device, Hook, going_wrong, item, killed, lost, throttled
from tests.backend.test_sweep import scheduled
from tests.support import software_tpm
from tests.support.csr_factory import THING
from tests.support.deployment import Answer, Death, Deployment, assert_problem, load_handler
from tests.support.est import EstClient
from tests.support.proofs import prove
from tests.support.software_tpm import EVIDENCE_LIES, SoftwareTpm


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """An open deployment that trusts the TPMs' vendor."""
    with trusting() as deployment:
        yield deployment


@pytest.fixture
def device(backend: Deployment) -> ChipDevice:
    """An enrolled device with a TPM; the calls of its enrollment are forgotten."""
    enrolled = ChipDevice(backend, THING)
    assert enrolled.enroll().json["attested"] is True
    backend.calls.clear()
    return enrolled


def renew(device: Device, started: Answer, successor: Device, of: SoftwareTpm) -> Answer:
    """Renew with the evidence of some TPM, for a session that was started."""
    assert started.status == 201, started.body
    csr = successor.csr
    evidence = of.evidence(started.json, csr, successor.key)
    return prove(device.backend, device.key, "/v1/renewals", {"csr": csr, "evidence": evidence})


def test_the_next_key_is_attested_too(device: ChipDevice) -> None:
    """The same TPM; where nothing about it has changed, AWS IoT's Thing is left alone."""
    successor = device.wiped()
    assert device.renew(successor).json["attested"] is True
    assert successor.commit().status == 204
    assert "UpdateThing" not in device.backend.calls
    successor.assert_alone()
    assert item("thing", THING)["ek_sha256"] == device.ek_sha256
    assert device.renew_without_evidence(device.wiped()).status == 409  # its key is not the Thing's any more
    assert successor.recover().json["attested"] is True


def test_a_next_key_that_is_not_attested_is_refused(device: ChipDevice) -> None:
    """Whatever the deployment asks for: a key that is in a TPM is not followed by one that may be anywhere."""
    assert_problem(device.renew_without_evidence(device.wiped()), 403, "attestation-required")
    assert item("renewal", THING) == {}


def test_est_gives_an_attested_thing_no_other_key(device: ChipDevice) -> None:
    """It has no evidence; with the key that is in the TPM, it returns the certificate that there is."""
    client = EstClient(device.backend, THING, key=device.key)
    client.certificate = device.recover().json["certificatePem"]
    assert_problem(client.reenroll(client.successor().key), 403, "attestation-required")
    assert item("renewal", THING) == {}
    client.take(client.reenroll())


def test_a_renewal_by_est_ends_with_the_proof_that_the_key_is_in_a_tpm(backend: Deployment) -> None:
    """It is for a key that may be anywhere: neither its use nor the hourly run makes that the Thing's."""
    client = EstClient(backend, "another")
    client.take(client.enroll())
    successor = client.successor()
    successor.take(client.reenroll(successor.key))
    assert ChipDevice(backend, "another", key=client.key).enroll().json["attested"] is True
    assert_problem(successor.reenroll(), 409, "renewal-unknown")
    backend.clock.ahead += SETTLING_SECONDS + 3600
    scheduled(backend)
    assert (len(client.device.usable()), successor.device.certificates()) == (1, [])


def test_a_deployment_that_requires_it_renews_nothing_else(
    backend: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not a Thing that was enrolled before that was required; with evidence, it is attested from then on."""
    plain = Device(backend, THING)
    assert plain.enroll().status == 201
    monkeypatch.setenv("ATTESTATION", "require")
    load_handler()
    assert_problem(plain.renew(plain.successor()), 403, "attestation-required")
    upgraded = ChipDevice(backend, THING, key=plain.key)
    successor = upgraded.wiped()
    assert upgraded.renew(successor).json["attested"] is True
    assert successor.commit().status == 204
    assert successor.attributes()["attested"] == "true"
    assert item("tpm", upgraded.ek_sha256)["thing"] == THING


def test_the_next_key_is_in_no_other_tpm(device: ChipDevice) -> None:
    """Neither a session for it is started, nor is one taken that was started for something else."""
    other = replace(device, tpm=tpm())
    assert_problem(other.start_with_key(), 403, "ek-mismatch")
    enrollment = ChipDevice(device.backend, THING, tpm=other.tpm).start()
    assert_problem(renew(device, enrollment, device.wiped(), other.tpm), 403, "attestation-other-thing")
    assert_problem(device.send(device.request(device.start_with_key().json)), 403, "attestation-other-thing")


def test_the_next_key_is_in_no_tpm_that_is_another_things(device: ChipDevice) -> None:
    """A Thing that was not attested so far gets a TPM only if that is free."""
    plain = Device(device.backend, "another")
    assert plain.enroll().status == 201
    upgraded = ChipDevice(device.backend, "another", key=plain.key, tpm=device.tpm)
    assert_problem(upgraded.renew(upgraded.wiped()), 409, "tpm-enrolled")


@pytest.mark.parametrize("lie", ["secret-guessed", "forged", "of-another-csr", "of-another-key", "key-imported"])
def test_s20_a_lie_in_the_evidence_of_a_renewal_is_refused(device: ChipDevice, lie: Any) -> None:
    """S20: as in an enrollment; the Thing keeps its key."""
    assert_problem(device.renew(device.wiped(), lie), 403, EVIDENCE_LIES[lie])
    assert item("renewal", THING) == {}
    assert "CreateCertificateFromCsr" not in device.backend.calls


def test_a_session_for_a_renewal_takes_a_proof_of_the_things_key(device: ChipDevice) -> None:
    """Neither a key that is not the Thing's, nor one that is unknown, starts one."""
    assert_problem(device.wiped().start_with_key(), 401, "proof-invalid")
    successor = device.wiped()
    assert device.renew(successor).status == 201
    assert_problem(successor.start_with_key(), 409, "key-not-current")
    named = device.tpm.request(thing_name=THING)
    assert_problem(prove(device.backend, device.key, "/v1/attestations", named), 400, "field-unknown")
    assert device.backend.operate("DELETE", "fleet", thing=THING).status == 204
    assert_problem(device.start_with_key(), 409, "thing-revoked")


def test_a_renewal_needs_no_vendor_for_a_tpm_that_was_accepted_before(backend: Deployment) -> None:
    """The Thing has it; for another Thing, it takes the vendor or the operator's list."""
    unknown = SoftwareTpm("ec-p256")
    invite = backend.invite(THING, ekSha256=ChipDevice(backend, THING, tpm=unknown).ek_sha256)
    device = ChipDevice(backend, THING, invite, tpm=unknown)
    assert device.enroll().status == 201
    assert device.renew(device.wiped()).status == 201
    plain = Device(backend, "plain")
    assert plain.enroll().status == 201
    upgraded = ChipDevice(backend, "plain", key=plain.key, tpm=SoftwareTpm("ec-p256"))
    assert_problem(upgraded.start_with_key(), 403, "ek-untrusted")
    list_tpm(backend, upgraded.ek_sha256, "plain")
    assert upgraded.renew(upgraded.wiped()).status == 201


def test_new_firmware_is_in_the_things_attributes(device: ChipDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger and AWS IoT say with which firmware the TPM made its last statement; a lost answer changes nothing."""
    monkeypatch.setattr(software_tpm, "attest", partial(software_tpm.attest, firmware=1 << 48))
    successor = device.wiped()
    assert device.renew(successor).status == 201
    with going_wrong(successor, lost("UpdateThing 1")), suppress(Death):
        assert_problem(successor.commit(), 503, "aws-unavailable")
    assert successor.commit().status == 204
    assert item("thing", THING)["tpm_firmware"] == "1.0.0.0"
    assert successor.attributes()["key"].endswith("firmware=1.0.0.0")


def test_another_type_of_key_is_in_the_things_attributes(backend: Deployment) -> None:
    """Without a TPM as well; an AWS IoT that refuses is logged, and refuses no renewal."""
    device = Device(backend, THING)
    assert device.enroll().status == 201
    successor = replace(device, key=ec.generate_private_key(ec.SECP384R1()))
    assert device.renew(successor).status == 201
    assert successor.commit().status == 204
    assert backend.iot.describe_thing(thingName=THING)["attributes"]["key"] == "ec-p384"


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    "fault", [throttled, lost, lambda step: killed("after", step)], ids=["throttled", "lost", "killed"]
)
@pytest.mark.parametrize("step", ["UpdateItem 1", "UpdateItem 2", "TransactWriteItems 1", "TransactWriteItems 2"])
def test_s17_an_attested_renewal_that_failed_is_continued(
    device: ChipDevice, step: str, fault: Callable[[str], Hook]
) -> None:
    """S15, S17: the same CSR with the same evidence gets the one certificate, and the commit ends it."""
    successor, started = device.wiped(), device.start_with_key()
    csr = successor.csr
    fields = {"csr": csr, "evidence": device.tpm.evidence(started.json, csr, successor.key)}
    with going_wrong(successor, fault(step)), suppress(Death):
        prove(device.backend, device.key, "/v1/renewals", fields)
    device.backend.clock.ahead += 31
    answer = prove(device.backend, device.key, "/v1/renewals", fields)
    assert answer.status in {200, 201}, answer.body
    assert successor.commit().status == 204
    scheduled(device.backend)
    successor.assert_alone()
