"""S23: an emptied or restored ledger: the sweep stops instead of cutting devices off, and a rebuild mends it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType

from tests.backend.fleet import LEASE, Device, iot, item
from tests.backend.test_scheduled_sweep import summary
from tests.backend.test_sweep import HOUR, by_route, certificate, refused, scheduled, throttled
from tests.support.csr_factory import THING
from tests.support.deployment import POLICY, REGION, TABLE, Deployment, assert_problem
from tests.support.pages import page
from tests.support.stack import template

LIMIT = 20
DEVICES = 30


def enrolled(backend: Deployment, count: int = DEVICES) -> list[Device]:
    """Enroll devices, and let two hours pass."""
    devices = [Device(backend, f"gateway-{number}") for number in range(count)]
    for device in devices:
        assert device.enroll().status == 201
        backend.clock.ahead += LEASE  # so that no turn is far ahead
    backend.clock.ahead += 2 * HOUR
    return devices


def forget(*kinds: str, names: Iterable[str] = ()) -> None:
    """Take items out of the table; without kinds all of them."""
    items = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items
    for kind in [DynamoType({"S": kind}) for kind in kinds] or list(items):
        for name in [DynamoType({"S": name}) for name in names] or list(items[kind]):
            items[kind].pop(name, None)


def rebuild(backend: Deployment, **members: object) -> list[dict[str, Any]]:
    """Rebuild part by part; return the answers."""
    answers = [backend.operate("POST", "rebuild", members)]
    while answers[-1].json["next"] is not None:
        answers.append(backend.operate("POST", "rebuild", {**members, "next": answers[-1].json["next"]}))
    return [answer.json for answer in answers]


def restored(answers: list[dict[str, Any]]) -> dict[str, str]:
    """Return the Things of the entries that were restored, each with its status."""
    return {one["thing"]: one["status"] for answer in answers for one in answer["restored"]}


def left(answers: list[dict[str, Any]]) -> list[str]:
    """Return why certificates were left."""
    return [one["reason"] for answer in answers for one in answer["left"]]


def test_s23_an_emptied_ledger_stops_the_sweep_and_rebuilding_mends_it(backend: Deployment) -> None:
    """S23: no device is cut off before, and afterwards each repeats its request with success and can be revoked."""
    devices = enrolled(backend)
    certificates = {device.thing: device.certificates()[0].certificate_id for device in devices}
    forget()
    for _ in range(2):
        assert scheduled(backend) == []
        assert not summary(backend)["finished"]
        (line,) = [line for line in backend.log_lines() if line["event"] == "sweep-stopped"]
        assert (line["level"], line["limit"]) == ("ERROR", LIMIT)
    assert set(backend.certificates()) == {"ACTIVE"}
    assert backend.items("certificate") == {}

    shown = rebuild(backend, lookOnly=True)
    assert restored(shown) == dict.fromkeys(certificates, "issued")
    assert backend.items("thing") == {}
    assert restored(rebuild(backend)) == restored(shown)
    assert (left(shown), restored(rebuild(backend))) == ([], {})

    assert scheduled(backend) == []
    assert summary(backend)["finished"]
    for device in devices:
        answer = device.enroll()
        assert (answer.status, answer.json["certificateId"]) == (200, certificates[device.thing])
        device.assert_enrolled(answer)
    assert backend.operate("DELETE", "fleet", thing=devices[0].thing).status == 204
    assert (devices[0].usable(), len(devices[1].usable())) == ([], 1)
    assert_problem(devices[0].enroll(), 409, "thing-revoked")
    assert_problem(Device(backend, "gateway-1").enroll(), 409, "thing-enrolled")
    listed = backend.operate("GET", "fleet", prefix="gateway-").json["things"]
    assert {thing["thing"] for thing in listed} == certificates.keys()


def test_s23_a_device_with_a_new_invite_gets_its_old_certificate(backend: Deployment) -> None:
    """S23: nobody knows the old invites any more; with another one the same key gets the same certificate."""
    device = Device(backend, THING, backend.invite(THING))
    before = device.enroll().json
    forget()
    rebuild(backend)
    assert_problem(device.enroll(), 401, "invite-invalid")
    again = Device(backend, THING, backend.invite(THING), device.key)
    assert again.enroll().json == before


def test_s23_a_restored_ledger_gets_what_it_lacks_and_keeps_what_it_has(backend: Deployment) -> None:
    """S23: entries that exist stay as they are, to the last value."""
    devices = enrolled(backend, 4)
    lost = devices[1:3]
    forget("thing", names=[device.thing for device in lost])
    forget("key", names=[device.spki_sha256 for device in lost])
    forget("certificate", names=[device.certificates()[0].certificate_id for device in lost])
    kept = backend.items("thing")
    assert restored(rebuild(backend)) == {device.thing: "issued" for device in lost}
    assert {name: backend.items("thing")[name] for name in kept} == kept
    assert by_route(backend) == []


def test_s23_a_revoked_things_entry_is_restored_as_revoked(backend: Deployment) -> None:
    """S23: its key stays out; a Thing that was enrolled again is issued, with the old key known and out."""
    revoked, again = enrolled(backend, 2)
    for device in (revoked, again):
        assert backend.operate("DELETE", "fleet", thing=device.thing).status == 204
    successor = Device(backend, again.thing, backend.invite(again.thing))
    assert successor.enroll().status == 201
    backend.clock.ahead += 2 * HOUR
    forget()
    answers = rebuild(backend)
    assert left(answers) == []
    assert sum(len(answer["restored"]) for answer in answers) == 3
    assert (item("thing", revoked.thing).get("revoked") is None, "revoked" in item("thing", again.thing)) == (
        False,
        False,
    )
    assert_problem(revoked.enroll(), 409, "thing-revoked")
    assert_problem(again.enroll(), 409, "thing-enrolled")
    assert_problem(Device(backend, "another", key=again.key).enroll(), 409, "key-enrolled")
    assert successor.usable()


def test_s23_an_enrollment_that_had_just_begun_is_completed(backend: Deployment) -> None:
    """S23: the table was restored to the moment between its claim and its certificate."""
    (device,) = enrolled(backend, 1)
    certificate_id = device.certificates()[0].certificate_id
    entry = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items[DynamoType({"S": "thing"})]
    for name in ("certificate_id", "certificate_arn", "certificate_pem", "enrolled"):
        del entry[DynamoType({"S": device.thing})].attrs[name]
    forget("certificate")
    assert restored(rebuild(backend)) == {device.thing: "issued"}
    device.assert_enrolled(device.enroll())
    assert device.enroll().json["certificateId"] == certificate_id


def test_s23_what_cannot_be_restored_is_named(backend: Deployment) -> None:
    """S23: with the reason, and nothing is written about it."""
    holder, other = enrolled(backend, 2)
    backend.iot.create_thing(thingName="old")
    cases = {
        "key-unknown": certificate(1, thing=holder.thing),
        "not-attached": certificate(2),
        "thing-existed": certificate(3, thing="old"),
        "other-key": certificate(4, thing=holder.thing, pem=other.certificates()[0].certificate_pem),
        "other-certificate": certificate(5, thing=holder.thing),
        "several-things": certificate(6, thing=holder.thing),
    }
    cases["key-unknown"].certificate_pem = "no certificate"
    iot().attach_thing_principal(other.thing, cases["several-things"].arn)
    before = backend.items("certificate")
    answers = rebuild(backend)
    found = {one["certificateId"]: one["reason"] for answer in answers for one in answer["left"]}
    assert found == {made.certificate_id: reason for reason, made in cases.items()}
    assert backend.items("certificate") == before


def test_s23_adopted_things_are_restored_where_the_operator_says_so(backend: Deployment) -> None:
    """S23: they do not bear the id of a claim, so AWS IoT does not tell that they were enrolled."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    device = Device(backend, THING, backend.invite(THING, existingThing=True))
    device.enroll()
    forget()
    assert left(rebuild(backend)) == ["thing-existed"]
    assert restored(rebuild(backend, existingThings=True)) == {THING: "issued"}
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    assert device.usable() == []


@pytest.mark.usefixtures("no_waiting")
def test_s23_an_interrupted_rebuild_is_resumed(backend: Deployment) -> None:
    """S23: what was restored is not missing any more; the same request does the rest."""
    enrolled(backend, 7)
    forget()
    written: list[Any] = []

    def throttle_the_fourth(sent: Any) -> AWSResponse | None:
        written.append(sent)
        return throttled(sent) if len(written) > 3 else None

    backend.inject("TransactWriteItems", throttle_the_fourth)
    assert_problem(backend.operate("POST", "rebuild", {"next": "p:"}), 429, "throttled")
    backend.faults.clear()
    assert len(backend.items("thing")) == 3
    assert len(restored(rebuild(backend))) == 4


@pytest.mark.parametrize(
    "body", [{"next": "x"}, {"next": "c:"}, {"next": 1}, {"lookOnly": 1}, {"existingThings": "yes"}, {"more": 1}]
)
def test_a_rebuild_that_is_asked_for_wrongly_is_refused(backend: Deployment, body: object) -> None:
    """400, and nothing is asked of AWS."""
    assert backend.refused(backend.operate("POST", "rebuild", body), 400, "field-invalid")


def test_s23_the_restore_procedure_of_the_page(backend: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """S23: each of its commands does what the page says, in that order, and its program copies what is missing."""
    block, program = (
        next(one for one in page("docs/operator.md").blocks if all(word in one.text for word in words))
        for words in (("restore-table-to-point-in-time",), ("# copy_table.py",))
    )
    commands = block.text.replace("\\\n", "").splitlines()
    early, late = enrolled(backend, 26)[:25], Device(backend, "late")
    saved = {kind: backend.items(kind) for kind in ("thing", "key", "certificate")}
    late.enroll()
    backend.clock.ahead += 2 * HOUR
    forget()
    assert_problem(backend.operate("POST", "sweep", {}), 409, "sweep-stopped")

    assert commands[0] == "hsm-enroll backend deploy --no-sweep"
    assert template()["Resources"]["SweepSchedule"]["Properties"]["State"] == {
        "Fn::If": ["Sweeps", "ENABLED", "DISABLED"]
    }
    assert commands[1].startswith("aws dynamodb restore-table-to-point-in-time")
    restore_into(f"{TABLE}-restored", saved)
    assert commands[2] == "aws dynamodb wait table-exists --table-name TABLE-restored"
    assert commands[3] == "python copy_table.py TABLE-restored TABLE"
    monkeypatch.setattr(sys, "argv", ["copy_table.py", f"{TABLE}-restored", TABLE])
    for _ in range(2):
        exec(compile(program.text, "copy_table.py", "exec"), {})  # noqa: S102 - it is the page's
    assert len(backend.items("thing")) == 26
    assert commands[4] == "hsm-enroll fleet rebuild"
    assert restored(rebuild(backend)) == {"late": "issued"}
    assert commands[5] == "hsm-enroll fleet sweep"
    assert by_route(backend) == []
    assert commands[6:] == ["hsm-enroll backend deploy --sweep"]
    for device in (*early, late):
        device.assert_enrolled(device.enroll())


def restore_into(table: str, items: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Make a table as DynamoDB does when it restores one."""
    client = boto3.client("dynamodb", region_name=REGION)
    described = client.describe_table(TableName=TABLE)["Table"]
    keys = [one for one in described["AttributeDefinitions"] if one["AttributeName"] in {"kind", "id"}]
    client.create_table(
        TableName=table, BillingMode="PAY_PER_REQUEST", AttributeDefinitions=keys, KeySchema=described["KeySchema"]
    )
    numbers = {"created", "enrolled", "lease_ends", "issuing_since", "turn"}
    for of_kind in items.values():
        for item_ in of_kind.values():
            typed: Any = {name: {"N" if name in numbers else "S": value} for name, value in item_.items()}
            client.put_item(TableName=table, Item=typed)


def test_a_marker_that_aws_iot_did_not_give_out_is_the_requests_fault(backend: Deployment) -> None:
    """400 with it, and 502 if AWS IoT refuses the first page, too."""
    backend.inject("ListTargetsForPolicy", refused)
    assert_problem(backend.operate("POST", "rebuild", {"next": "p:none"}), 400, "field-invalid")
    assert_problem(backend.operate("POST", "rebuild", {"next": "p:"}), 502, "aws-refused")


# --- the sweep's limit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [LIMIT, LIMIT + 1])
def test_s23_the_limit_is_twenty(backend: Deployment, count: int) -> None:
    """S23: twenty are disabled, and of twenty-one none, by the schedule and by the route."""
    orphans = [certificate(number) for number in range(count)]
    expected = count if count <= LIMIT else 0
    answer = backend.operate("POST", "sweep", {})
    if expected:
        assert len(answer.json["disabled"]) == count
        for orphan in orphans:
            orphan.status = "ACTIVE"
    else:
        assert_problem(answer, 409, "sweep-stopped")
    assert len(scheduled(backend)) == expected
    assert backend.certificates().count("ACTIVE") == count - expected


def test_s23_the_limit_is_that_of_a_run_not_of_a_page(backend: Deployment) -> None:
    """S23: a restored ledger lacks a few certificates in every page of a large account. Here, in each of two lists."""
    (device,) = enrolled(backend, 1)
    (pem,) = [one.certificate_pem for one in device.certificates()]
    backend.iot.create_policy(policyName="other", policyDocument="{}")
    half = LIMIT // 2 + 1
    for number in range(half):
        certificate(number)
        certificate(half + number, policy="other", thing=device.thing, pem=pem, minutes_old=600)
    assert scheduled(backend) == []
    assert "ListCertificates" in backend.calls
    assert backend.certificates().count("ACTIVE") == 2 * half + 1


def test_s23_the_operator_can_look_first_and_then_disable_them_all(backend: Deployment) -> None:
    """S23: looking changes nothing and names each; yesAll knows no limit."""
    orphans = [certificate(number) for number in range(LIMIT + 5)]
    looked = backend.operate("POST", "sweep", {"lookOnly": True}).json
    assert (looked["disabled"], looked["limit"]) == ([], LIMIT)
    assert len(looked["found"]) > LIMIT
    assert {one["counts"] for one in looked["found"]} == {True}
    assert set(backend.certificates()) == {"ACTIVE"}
    assert len(backend.operate("POST", "sweep", {"yesAll": True}).json["disabled"]) == len(orphans)
    assert set(backend.certificates()) == {"INACTIVE"}


def test_s23_what_can_do_nothing_and_what_was_revoked_does_not_count(backend: Deployment) -> None:
    """S21, S23: certificates that got lost in a storm, and Things that the operator revoked, stop no sweep."""
    devices = enrolled(backend, LIMIT + 2)
    (pem,) = [one.certificate_pem for one in devices[0].certificates()]
    for number in range(LIMIT + 2):
        certificate(number, policy=None, pem=pem, minutes_old=600)
    for device in devices[1:]:
        assert backend.operate("DELETE", "fleet", thing=device.thing).status == 204
        device.certificates()[0].status = "ACTIVE"
    assert len(scheduled(backend)) == 2 * LIMIT + 3
    assert summary(backend)["finished"]


def test_s23_a_lost_certificate_that_is_attached_counts(backend: Deployment) -> None:
    """S23: it has another policy, but its key is a device's: a device may be using it."""
    (device,) = enrolled(backend, 1)
    (pem,) = [one.certificate_pem for one in device.certificates()]
    backend.iot.create_policy(policyName="other", policyDocument="{}")
    for number in range(LIMIT + 1):
        certificate(number, policy="other", thing=device.thing, pem=pem, minutes_old=600)
    assert scheduled(backend) == []
    assert backend.certificates().count("ACTIVE") == LIMIT + 2


def test_the_limit_is_a_setting(backend: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """SWEEP_LIMIT; 0 disables nothing that counts."""
    monkeypatch.setenv("SWEEP_LIMIT", "0")
    certificate(1, policy=POLICY)
    assert_problem(backend.operate("POST", "sweep", {}), 409, "sweep-stopped")
