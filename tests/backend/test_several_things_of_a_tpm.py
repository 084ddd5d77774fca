"""Ways in which a Thing could lose its TPM, or a TPM its Thing, without the operator's word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.backend.chips import ChipDevice, list_tpm, tpm, trusting
from tests.backend.fleet import LEASE, Device, going_wrong, item, killed
from tests.support.csr_factory import THING
from tests.support.deployment import Death, Deployment, assert_problem


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """A deployment that takes invites and trusts the TPMs' vendor."""
    with trusting({"AUTH_MODE": "invite"}) as deployment:
        yield deployment


def invited(device: ChipDevice, thing: str, **invite: object) -> ChipDevice:
    """Return the same TPM with a new key and a new invite for a Thing."""
    return replace(device.wiped(device.backend.invite(thing, **invite)), thing=thing)


def test_a_tpm_of_several_things_is_in_use_until_the_last_one_is_gone(backend: Deployment) -> None:
    """The operator allowed a second Thing; that the second is revoked does not make the TPM free for a third."""
    first = invited(ChipDevice(backend, "first"), "first")
    assert first.enroll().status == 201
    second = invited(first, "second", reuseTpm=True)
    assert second.enroll().status == 201
    assert backend.operate("DELETE", "fleet", thing="second").status == 204
    third = invited(first, "third")
    assert_problem(third.enroll(), 409, "tpm-enrolled")
    assert backend.operate("DELETE", "fleet", thing="first").status == 204
    third.assert_enrolled(third.enroll())


def test_an_enrollment_that_was_undone_leaves_the_tpm_to_the_thing_that_has_it(backend: Deployment) -> None:
    """The second Thing exists in AWS IoT already: the first one still has the TPM, and comes back by it."""
    backend.iot.create_thing(thingName="second", attributePayload={"attributes": {"site": "Linz"}})
    first = invited(ChipDevice(backend, "first"), "first")
    assert first.enroll().status == 201
    assert_problem(invited(first, "second", reuseTpm=True).enroll(), 409, "thing-exists")
    assert_problem(invited(first, "third").enroll(), 409, "tpm-enrolled")
    wiped = first.wiped()
    session = wiped.session(named=False)
    assert session["thingName"] == "first"
    wiped.assert_enrolled(wiped.send(wiped.request(session)))


def test_a_renewal_from_before_the_key_was_attested_is_not_committed(backend: Deployment) -> None:
    """A key that is proven to be in a TPM is not followed by one that is not, also not by one that was there before."""
    plain = Device(backend, THING, backend.invite(THING))
    assert plain.enroll().status == 201
    software = plain.successor()
    assert plain.renew(software).status == 201
    attested = ChipDevice(backend, THING, plain.code, key=plain.key)
    assert attested.enroll().json["attested"] is True
    assert_problem(software.commit(), 409, "renewal-unknown")
    assert item("thing", THING)["spki_sha256"] == attested.spki_sha256
    assert item("thing", THING)["ek_sha256"] == attested.ek_sha256
    successor = attested.wiped()
    assert attested.renew(successor).status == 201
    assert successor.commit().status == 204
    successor.assert_alone()


def test_a_renewal_that_is_repeated_with_evidence_is_attested(backend: Deployment) -> None:
    """The device had no TPM support when it began; the answer, and the Thing after the commit, say what is proven."""
    plain = Device(backend, THING, backend.invite(THING))
    assert plain.enroll().status == 201
    upgraded = ChipDevice(backend, THING, key=plain.key)
    successor = upgraded.wiped()
    assert plain.renew(successor).json["attested"] is False
    assert upgraded.renew(successor).json["attested"] is True
    assert successor.commit().status == 204
    successor.assert_alone()
    assert successor.attributes()["attested"] == "true"
    assert item("tpm", upgraded.ek_sha256)["thing"] == THING


def test_a_tpm_does_not_push_out_the_hardware_that_replaces_it() -> None:
    """The operator has it replaced, perhaps because it was stolen: while that waits for its turn, it stays as it is."""
    with trusting({"AUTH_MODE": "invite", "CERTIFICATE_RATE": "0.001"}) as backend:
        stolen = ChipDevice(backend, THING)
        list_tpm(backend, stolen.ek_sha256, THING)
        assert stolen.enroll().status == 201
        new = ChipDevice(backend, THING, backend.replacement(THING))
        request = new.request(new.session())
        assert_problem(new.send(request), 429, "enrollment-queued")
        for how in (stolen.wiped(), stolen.wiped(backend.invite(THING))):
            assert_problem(how.enroll(), 409, "renewal-in-progress")
        backend.clock.ahead += 2000
        assert new.send(request).json["attested"] is True
        new.assert_alone()


def test_an_invite_is_not_used_by_a_key_in_another_tpm_than_its_things(backend: Deployment) -> None:
    """What is refused for its TPM leaves the invite as it was."""
    device = invited(ChipDevice(backend, THING), THING)
    assert device.enroll().status == 201
    code = backend.invite(THING)
    liar = replace(device, code=code, tpm=tpm())
    assert_problem(liar.enroll(), 403, "ek-mismatch")
    unused = [invite for invite in backend.items("invite").values() if invite["uses_left"] == "1"]
    assert len(unused) == 1


@pytest.mark.usefixtures("no_waiting")
def test_an_invite_gives_back_and_takes_one_use_at_once(backend: Deployment) -> None:
    """A disk that is wiped twice, the second time before there was a certificate: one use for both of its keys."""
    code = backend.invite("gw-*", uses=3)
    device = ChipDevice(backend, "gw-1", code)
    assert device.enroll().status == 201
    interrupted = device.wiped(code)
    with going_wrong(interrupted, killed("before", "CreateCertificateFromCsr 1")), pytest.raises(Death):
        interrupted.enroll()
    backend.clock.ahead += LEASE
    again = device.wiped(code)
    assert again.enroll().status == 201
    again.assert_alone()
    (invite,) = backend.items("invite").values()
    assert invite["uses_left"] == "1"
