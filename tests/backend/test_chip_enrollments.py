"""One TPM, one Thing; and TPMs that stand in for an invite: listed by the operator, or known from before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType

from tests.backend.chips import ChipDevice, forget_tpm, list_tpm, tpm, trusting
from tests.backend.fleet import Device, Hook, going_wrong, iot, item, killed, lost, throttled
from tests.backend.test_sweep import scheduled
from tests.support.csr_factory import THING
from tests.support.deployment import REGION, TABLE, Death, Deployment, assert_problem, load_handler
from tests.support.software_tpm import SoftwareTpm


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """A deployment that takes invites and trusts the TPMs' vendor."""
    with trusting({"AUTH_MODE": "invite"}) as deployment:
        yield deployment


def listed(backend: Deployment, thing: str = THING) -> ChipDevice:
    """Return a device without an invite that the operator has listed."""
    device = ChipDevice(backend, thing)
    list_tpm(backend, device.ek_sha256, thing)
    backend.calls.clear()
    return device


def with_invite(device: ChipDevice, thing: str | None = None, **invite: object) -> ChipDevice:
    """Return the device with a new key and a new invite, perhaps for another Thing."""
    thing = thing or device.thing
    return replace(device.wiped(device.backend.invite(thing, **invite)), thing=thing)


def test_a_listed_tpm_is_the_invite(backend: Deployment) -> None:
    """Nothing but the API's URL: the backend says which Thing the TPM is, and issues for it."""
    device = listed(backend)
    session = device.session(named=False)
    assert session["thingName"] == THING
    answer = device.send(device.request(session))
    device.assert_enrolled(answer)
    assert answer.json["attested"] is True
    assert backend.items("invite") == {}


def test_a_tpm_may_be_listed_by_its_certificate_and_its_vendor_be_unknown(backend: Deployment) -> None:
    """The operator's word is enough, with either fingerprint; without its certificate the first one counts."""
    by_certificate = ChipDevice(backend, "by-certificate", tpm=SoftwareTpm("ec-p256"))
    list_tpm(backend, by_certificate.ek_certificate_sha256, by_certificate.thing)
    by_certificate.assert_enrolled(by_certificate.enroll())
    by_key = ChipDevice(backend, "by-key", tpm=SoftwareTpm("ec-p256"))
    list_tpm(backend, by_key.ek_sha256, by_key.thing)
    by_key.assert_enrolled(by_key.send(by_key.request(by_key.session(certified=False))))


def test_a_tpm_that_nobody_knows_gets_nothing(backend: Deployment) -> None:
    """Although its vendor is trusted; nothing is written for it."""
    device = ChipDevice(backend, THING)
    for named in (True, False):
        assert_problem(device.start(named=named), 403, "ek-unknown")
    assert set(backend.calls) == {"BatchGetItem"}
    assert backend.items("attestation") == {}
    assert_problem(Device(backend, THING).enroll(), 401, "invite-required")


def test_a_listed_tpm_is_no_other_thing(backend: Deployment) -> None:
    """The name in the request has to be the one on the list; also in the request for the certificate."""
    device = listed(backend)
    other = replace(device, thing="another")
    assert_problem(other.start(), 403, "ek-mismatch")
    assert_problem(other.send(other.request(device.session())), 403, "attestation-other-thing")


def test_in_an_open_deployment_any_tpm_of_a_known_vendor_names_its_thing() -> None:
    """As anyone may enroll there; but it has to say who it is, and it cannot become a Thing that is enrolled."""
    with trusting({"ATTESTATION": "require"}) as backend:
        device = ChipDevice(backend, THING)
        assert_problem(device.start(named=False), 403, "ek-unknown")
        assert device.enroll().json["attested"] is True
        assert_problem(ChipDevice(backend, THING).enroll(), 409, "thing-enrolled")


def test_a_session_of_an_open_deployment_is_void_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever began while anyone could enroll needs an invite now."""
    with trusting() as backend:
        device = ChipDevice(backend, THING)
        request = device.request(device.session())
        monkeypatch.setenv("AUTH_MODE", "invite")
        load_handler()
        assert_problem(device.send(request), 401, "invite-required")


@pytest.mark.parametrize("how", ["listed", "known", "invited", "open"])
def test_a_wiped_disk_gets_the_same_thing_back(how: str) -> None:
    """The same TPM with a new key: the Thing's, and the old certificate goes in the same transaction."""
    with trusting({"AUTH_MODE": "open" if how == "open" else "invite"}) as backend:
        device = listed(backend) if how == "listed" else with_invite(ChipDevice(backend, THING), requireTpm=True)
        old = device.enroll()
        wiped = with_invite(device) if how == "invited" else device.wiped()
        session = wiped.session(named=how == "open")
        assert session["thingName"] == THING
        request = wiped.request(session)
        new, again = wiped.send(request), wiped.send(request)
        assert (new.status, again.status, again.body) == (201, 200, new.body)
        assert new.json["certificateId"] != old.json["certificateId"]
        assert device.certificates() == []
        wiped.assert_alone()
        assert item("certificate", old.json["certificateId"])["revoked"]
        assert wiped.attributes()["attested"] == "true"


@pytest.mark.parametrize(
    "fault", [throttled, lost, lambda step: killed("after", step)], ids=["throttled", "lost", "killed"]
)
@pytest.mark.parametrize(
    "step",
    ["UpdateItem 1", "TransactWriteItems 1", "CreateCertificateFromCsr 1", "TransactWriteItems 2", "AttachPolicy 1",
     "BatchGetItem 2", "UpdateCertificate 1"],
)  # fmt: skip
@pytest.mark.usefixtures("no_waiting")
def test_s17_a_wiped_disk_whose_enrollment_fails_ends_with_one_certificate(
    backend: Deployment, step: str, fault: Callable[[str], Hook]
) -> None:
    """S15, S17: whatever is lost on the way, the same request again ends it."""
    device = listed(backend)
    assert device.enroll().status == 201
    wiped = device.wiped()
    request = wiped.request(wiped.session())
    with going_wrong(wiped, fault(step)), suppress(Death):
        wiped.send(request)
    backend.clock.ahead += 31
    answer = wiped.send(request)
    assert answer.status in {200, 201}, answer.body
    scheduled(backend)
    assert device.certificates() == []
    wiped.assert_alone()
    assert wiped.attributes()["attested"] == "true"


def test_a_wiped_disk_undoes_a_renewal_that_was_pending(backend: Deployment) -> None:
    """The key before and the key that was to be next are both lost."""
    device = listed(backend)
    assert device.enroll().status == 201
    successor = device.wiped()
    assert device.renew(successor).status == 201
    wiped = device.wiped()
    assert wiped.enroll().status == 201
    assert device.certificates() == successor.certificates() == []
    wiped.assert_alone()


def test_another_tpm_or_none_does_not_get_an_enrolled_thing(backend: Deployment) -> None:
    """Neither by an ordinary invite nor by the list: `fleet replace` is the way."""
    device = with_invite(ChipDevice(backend, THING), requireTpm=True)
    assert device.enroll().status == 201
    other = with_invite(ChipDevice(backend, THING))
    assert_problem(other.enroll(), 409, "thing-enrolled")
    assert_problem(Device(backend, THING, other.code).enroll(), 409, "thing-enrolled")
    list_tpm(backend, other.ek_sha256, THING)
    assert_problem(other.wiped().enroll(), 409, "thing-enrolled")
    replaced = other.wiped(backend.replacement(THING))
    assert replaced.enroll().json["attested"] is True
    assert item("thing", THING)["ek_sha256"] == other.ek_sha256
    assert replaced.attributes()["key"].startswith(f"ec-p256,ek={other.ek_sha256}")
    assert_problem(device.wiped().start(), 403, "ek-unknown")


def test_a_thing_without_a_tpm_is_not_taken_over_by_a_listed_one(backend: Deployment) -> None:
    """The list says which TPM the Thing should have, and it has none."""
    plain = Device(backend, THING, backend.invite(THING))
    assert plain.enroll().status == 201
    assert_problem(listed(backend).enroll(), 409, "thing-enrolled")


def test_new_hardware_without_a_tpm_is_not_attested_any_more(backend: Deployment) -> None:
    """`fleet replace` allows it where nothing requires attestation; then the Thing says so."""
    device = listed(backend)
    assert device.enroll().status == 201
    plain = Device(backend, THING, backend.replacement(THING))
    assert plain.enroll().json["attested"] is False
    assert "ek_sha256" not in item("thing", THING)
    assert device.attributes() == {"attested": "false", "key": "ec-p256"}


def test_one_tpm_is_one_thing(backend: Deployment) -> None:
    """The same TPM for another Thing is a conflict, whoever invites it; and AWS IoT hears nothing of it."""
    device = with_invite(ChipDevice(backend, THING), requireTpm=True)
    assert device.enroll().status == 201
    other = with_invite(device, "another")
    request = other.request(other.session())
    backend.calls.clear()
    assert_problem(other.send(request), 409, "tpm-enrolled")
    assert set(backend.calls) <= {"BatchGetItem", "UpdateItem", "TransactGetItems", "TransactWriteItems"}
    assert (item("thing", "another"), item("tpm", device.ek_sha256)["thing"]) == ({}, THING)


def test_one_tpm_for_two_things_at_once_is_one_of_them(backend: Deployment) -> None:
    """Whoever is first; the transaction's condition decides."""
    backend.clock.waits = True
    device = ChipDevice(backend, THING)
    both = [with_invite(device, f"thing-{number}") for number in range(4)]
    requests = [one.request(one.session()) for one in both]
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda pair: pair[0].send(pair[1]).status, zip(both, requests, strict=True)))
    assert sorted(statuses) == [201, 409, 409, 409]
    (winner,) = [one for one, status in zip(both, statuses, strict=True) if status == 201]
    assert item("tpm", device.ek_sha256)["thing"] == winner.thing
    assert len(iot().certificates) == 1


@pytest.mark.parametrize("how", ["revoked", "retired", "reuse", "listed", "replaced"])
def test_a_tpm_that_is_free_or_allowed_becomes_another_thing(backend: Deployment, how: str) -> None:
    """Its Thing is revoked or retired, or has other hardware; or the operator says that this is right."""
    device = with_invite(ChipDevice(backend, THING), requireTpm=True)
    assert device.enroll().status == 201
    backend.clock.ahead += 60
    if how == "revoked":
        assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    elif how == "retired":
        assert device.retire().status == 204
    elif how == "replaced":
        assert ChipDevice(backend, THING, backend.replacement(THING)).enroll().status == 201
    elif how == "listed":
        list_tpm(backend, device.ek_sha256, "another")
    other = with_invite(device, "another", **({"reuseTpm": True} if how == "reuse" else {}))
    other.assert_enrolled(other.enroll())
    assert item("tpm", device.ek_sha256)["thing"] == "another"
    if how in {"reuse", "listed"}:  # both go on
        backend.clock.ahead += 60
        successor = device.wiped()
        assert device.renew(successor).status == 201
        assert successor.commit().status == 204
    back = with_invite(device)
    if how not in {"reuse", "listed"}:
        assert_problem(back.enroll(), 409, "tpm-enrolled")


def test_a_list_from_before_moves_no_tpm(backend: Deployment) -> None:
    """It was listed for one Thing, then enrolled as another by an invite: the list is older than that."""
    device = ChipDevice(backend, THING)
    list_tpm(backend, device.ek_sha256, "another")
    backend.clock.ahead += 60
    invited = with_invite(device)
    assert invited.enroll().status == 201
    other = replace(device.wiped(), thing="another")
    assert_problem(other.enroll(), 409, "tpm-enrolled")
    forget_tpm(backend, device.ek_sha256)
    backend.clock.ahead += 60
    list_tpm(backend, device.ek_sha256, "another")
    other.assert_enrolled(other.enroll())


def test_a_revoked_thing_comes_back_by_its_tpm_only_if_it_was_listed_since(backend: Deployment) -> None:
    """Neither a list from before nor that it was enrolled is enough; nor is a session from before."""
    device = listed(backend)
    assert device.enroll().status == 201
    wiped = device.wiped()
    before = wiped.request(wiped.session())
    backend.clock.ahead += 60
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    assert_problem(wiped.send(before), 409, "thing-revoked")
    assert_problem(wiped.start(), 409, "thing-revoked")
    forget_tpm(backend, device.ek_sha256)
    assert_problem(wiped.start(), 409, "thing-revoked")
    backend.clock.ahead += 60
    list_tpm(backend, device.ek_sha256, THING)
    again = device.wiped()
    again.assert_enrolled(again.enroll())
    assert again.attributes()["attested"] == "true"
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    other = with_invite(ChipDevice(backend, THING))
    other.assert_enrolled(other.enroll())
    assert item("tpm", other.ek_sha256)["thing"] == THING


def test_a_thing_that_is_gone_does_not_come_back_by_its_tpm_alone(backend: Deployment) -> None:
    """The ledger has lost it since the session began: it takes an invite, or the list."""
    device = with_invite(ChipDevice(backend, THING), requireTpm=True)
    assert device.enroll().status == 201
    wiped = device.wiped()
    request = wiped.request(wiped.session())
    of_kind = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items
    for kind in ("thing", "key"):
        of_kind.pop(DynamoType({"S": kind}))
    assert_problem(wiped.send(request), 403, "ek-unknown")


def test_an_enrollment_that_was_undone_leaves_no_chip_behind_that_would_be_an_invite(backend: Deployment) -> None:
    """AWS IoT has the Thing already: the claim is undone, and the TPM needs an invite as before."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    device = with_invite(ChipDevice(backend, THING), requireTpm=True)
    assert_problem(device.enroll(), 409, "thing-exists")
    assert_problem(device.wiped().start(), 403, "ek-unknown")
    other = with_invite(device, "another")
    other.assert_enrolled(other.enroll())


def test_an_adopted_thing_keeps_the_attributes_that_it_has(backend: Deployment) -> None:
    """They are the operator's, and there may be no room for more."""
    attributes = {"site": "Linz", "key": "drawer 7", "hall": "3"}
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": attributes})
    device = with_invite(ChipDevice(backend, THING), existingThing=True)
    assert device.enroll().json["attested"] is True
    assert with_invite(device).enroll().status == 201
    assert backend.iot.describe_thing(thingName=THING)["attributes"] == attributes


def test_a_tpm_stays_known_by_the_thing_that_is_named_where_it_is_several(backend: Deployment) -> None:
    """An operator allowed two Things on one TPM: each of them comes back by its name."""
    first = with_invite(ChipDevice(backend, "first"), requireTpm=True)
    assert first.enroll().status == 201
    second = with_invite(first, "second", reuseTpm=True)
    assert second.enroll().status == 201
    for device in (first, second):
        wiped = device.wiped()
        wiped.assert_enrolled(wiped.enroll())
    third = replace(first.wiped(), thing="third", tpm=tpm())
    assert_problem(third.start(), 403, "ek-unknown")
