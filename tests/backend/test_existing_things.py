"""S18: Things that the ledger does not know: whose they are, what a refusal costs, and what an invite may say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.backend.fleet import (
    LEASE,
    Device,
    Hook,
    failing,
    going_wrong,
    iot,
    item,
    lost,
    lost_once,
    throttled,
    unreachable,
)
from tests.backend.test_sweep import certificate
from tests.support.csr_factory import THING
from tests.support.deployment import Deployment, assert_problem, load_handler

pytestmark = pytest.mark.usefixtures("no_waiting")


def test_s18_a_thing_that_the_ledger_does_not_know_is_not_taken_over(backend: Deployment) -> None:
    """S18: 409, nothing is attached and no certificate is left; the operator can delete the Thing."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    device = Device(backend, THING, backend.invite(THING))
    for _ in range(2):
        assert_problem(device.enroll(), 409, "thing-exists")
        assert backend.certificates() == []
        assert backend.iot.list_thing_principals(thingName=THING)["principals"] == []
    backend.iot.delete_thing(thingName=THING)
    device.assert_enrolled(device.enroll())


def test_s18_an_invite_may_say_that_the_thing_exists(backend: Deployment) -> None:
    """S18: then it is enrolled with its own attributes, and again after it was revoked, with any new invite."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    first = Device(backend, THING, backend.invite(THING, existingThing=True))
    first.assert_enrolled(first.enroll())
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    second = Device(backend, THING, backend.invite(THING))
    second.assert_enrolled(second.enroll())
    assert backend.iot.describe_thing(thingName=THING)["attributes"] == {"site": "Linz"}
    assert (first.usable(), len(second.usable())) == ([], 1)


def test_s18_a_new_invite_can_say_so_later(backend: Deployment) -> None:
    """S18: a device refused with 409 goes on with the same key once it has an invite for an existing Thing."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    device = Device(backend, THING, backend.invite(THING))
    assert device.enroll().status == 409
    again = Device(backend, THING, backend.invite(THING, existingThing=True), device.key)
    again.assert_enrolled(again.enroll())


def uses_left(backend: Deployment) -> list[str]:
    """Return how often each invite can be used, the least first."""
    return sorted(entry["uses_left"] for entry in backend.items("invite").values())


def test_s18_a_refused_name_costs_nothing(backend: Deployment) -> None:
    """S18: Thing, key and the invite's use are as before, so that the device can take another name with them."""
    backend.iot.create_thing(thingName="line3-1", attributePayload={"attributes": {"site": "Linz"}})
    refused = Device(backend, "line3-1", backend.invite("line3-*", uses=1))
    assert_problem(refused.enroll(), 409, "thing-exists")
    assert (backend.items("thing"), backend.items("key"), uses_left(backend)) == ({}, {}, ["1"])
    assert backend.certificates() == []
    renamed = Device(backend, "line3-2", refused.code, refused.key)
    renamed.assert_enrolled(renamed.enroll())
    assert uses_left(backend) == ["0"]


@pytest.mark.parametrize("fault", [throttled, failing, unreachable, lost, lost_once])
def test_s18_a_refusal_may_fail_to_be_cleared_up(backend: Deployment, fault: Callable[[str], Hook]) -> None:
    """S15, S18: 409 whatever DynamoDB does to the clearing up; a later request does what is missing, and no more."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    device = Device(backend, THING, backend.invite(THING))
    with going_wrong(device, fault("TransactWriteItems 2")):
        assert_problem(device.enroll(), 409, "thing-exists")
    backend.clock.ahead += LEASE
    assert_problem(device.enroll(), 409, "thing-exists")
    assert (backend.items("thing"), backend.items("key"), uses_left(backend)) == ({}, {}, ["1"])
    assert backend.certificates() == []


def test_s18_a_refusal_leaves_a_revoked_thing_as_it_is(backend: Deployment) -> None:
    """S18: it was another system's when it was to be enrolled anew; the key of before stays out, the new one may."""
    revoked = Device(backend, THING, backend.invite(THING))
    revoked.enroll()
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    backend.iot.detach_thing_principal(thingName=THING, principal=revoked.certificates()[0].arn)
    backend.iot.delete_thing(thingName=THING)
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    device = Device(backend, THING, backend.invite(THING))
    assert_problem(device.enroll(), 409, "thing-exists")
    assert item("thing", THING)["spki_sha256"] == device.spki_sha256
    again = Device(backend, THING, backend.invite(THING), revoked.key)
    assert_problem(again.enroll(), 409, "thing-enrolled")
    backend.iot.delete_thing(thingName=THING)
    backend.clock.ahead += LEASE
    answer = device.enroll()
    device.assert_enrolled(answer, issued=len(device.certificates()))
    assert "ACTIVE" not in {found.status for found in revoked.certificates()}


@pytest.mark.parametrize("merge", [True, False])
def test_s18_attributes_that_an_operator_gives_the_thing_do_not_hinder(backend: Deployment, merge: bool) -> None:
    """S18: it is the ledger's as long as it bears the claim's attribute; without that it may be anybody's."""
    first = Device(backend, THING, backend.invite(THING))
    first.assert_enrolled(first.enroll())
    attributes = {"attributes": {"site": "Linz"}, "merge": merge}
    backend.iot.update_thing(thingName=THING, attributePayload=attributes)
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    second = Device(backend, THING, backend.invite(THING))
    answer = second.enroll()
    if not merge:
        assert_problem(answer, 409, "thing-exists")
        return
    second.assert_enrolled(answer)
    assert backend.iot.describe_thing(thingName=THING)["attributes"]["site"] == "Linz"
    assert first.usable() == []


@pytest.fixture
def earlier(backend: Deployment) -> Any:
    """Another system's certificate, active and attached to the Thing."""
    backend.iot.create_policy(policyName="other", policyDocument="{}")
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    return certificate(1, policy="other", thing=THING)


def revoke(backend: Deployment, others: str) -> list[dict[str, Any]]:
    """Revoke the Thing; return what the answer says of its other certificates."""
    answer = backend.operate("DELETE", "fleet", thing=THING, others=others)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["otherCertificates"]
    return found


def test_an_earlier_certificate_of_an_adopted_thing_is_reported(backend: Deployment, earlier: Any) -> None:
    """On adoption in the log; by fleet show; and when the Thing is revoked, since it stays active."""
    device = Device(backend, THING, backend.invite(THING, existingThing=True))
    device.enroll()
    (line,) = [line for line in backend.log_lines() if line["event"] == "thing-adopted"]
    assert (line["thing"], line["certificates"], line["stillActive"]) == (THING, [earlier.certificate_id], 1)
    shown = backend.operate("GET", "fleet", thing=THING).json
    (own,) = device.certificates()
    assert {(one["certificateId"], one["active"]) for one in shown["certificates"]} == {
        (own.certificate_id, True),
        (earlier.certificate_id, True),
    }
    (reported,) = revoke(backend, "show")
    assert (reported["certificateId"], reported["active"]) == (earlier.certificate_id, True)
    assert (earlier.status, device.usable()) == ("ACTIVE", [])


def test_revoking_can_deactivate_all_certificates_of_a_thing(backend: Deployment, earlier: Any) -> None:
    """Also later, when the Thing has been revoked already, and for a Thing that AWS IoT does not have any more."""
    Device(backend, THING, backend.invite(THING, existingThing=True)).enroll()
    revoke(backend, "show")
    (reported,) = revoke(backend, "deactivate")
    assert (reported["certificateId"], reported["active"]) == (earlier.certificate_id, False)
    assert set(backend.certificates()) == {"INACTIVE"}
    for arn, thing in list(iot().principal_things):
        iot().detach_thing_principal(thing, arn)
    backend.iot.delete_thing(thingName=THING)
    assert revoke(backend, "show") == []


def test_only_two_words_say_what_to_do_about_other_certificates(backend: Deployment) -> None:
    """Any other value is refused, and nothing is revoked."""
    Device(backend, THING).enroll()
    assert_problem(backend.operate("DELETE", "fleet", thing=THING, others="all"), 400, "field-invalid")
    assert "ACTIVE" in backend.certificates()


@pytest.mark.parametrize("fault", [None, throttled("ListThingPrincipals 1"), throttled("UpdateCertificate 1")])
def test_an_invite_can_deactivate_what_the_thing_had_before(
    backend: Deployment, earlier: Any, fault: Hook | None
) -> None:
    """The device has its own certificate by then; where AWS was busy, its next try finishes the job."""
    device = Device(backend, THING, backend.invite(THING, existingThing=True, deactivateExisting=True))
    if fault is not None:
        with going_wrong(device, fault):
            assert_problem(device.enroll(), 429, "throttled")
        assert (earlier.status, len(device.usable())) == ("ACTIVE", 1)
    device.assert_enrolled(device.enroll())
    assert earlier.status == "INACTIVE"
    assert device.enroll().status == 200


def test_existing_things_need_the_deployments_permission(backend: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, no such invite is made, and one that was made before is refused when it is used."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    code = backend.invite(THING, existingThing=True)
    monkeypatch.setenv("ALLOW_EXISTING_THINGS", "no")
    backend.handler = load_handler()
    body = {"invites": [{"thing": THING, "existingThing": True}, {"thing": "another"}]}
    assert_problem(backend.operate("POST", "invites", body), 409, "existing-things-not-allowed")
    assert len(backend.items("invite")) == 1
    assert_problem(Device(backend, THING, code).enroll(), 409, "thing-exists")
