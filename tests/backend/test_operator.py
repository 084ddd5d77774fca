"""The operator's routes: who may call them, what they take, and how long lists are told."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from tests.backend.fleet import Device, let_items_expire
from tests.support.csr_factory import THING
from tests.support.deployment import OPERATOR, Deployment, assert_problem, aws_answer, event

DAY = 24 * 3600

ROUTES = [
    ("POST", "/v1/operator/invites"),
    ("GET", "/v1/operator/invites"),
    ("DELETE", "/v1/operator/invites"),
    ("POST", "/v1/operator/replacements"),
    ("GET", "/v1/operator/fleet"),
    ("DELETE", "/v1/operator/fleet"),
    ("POST", "/v1/operator/sweep"),
    ("POST", "/v1/operator/rebuild"),
]
NOBODY: list[object] = [
    None, {}, [], "iam", {"iam": None}, {"iam": {}}, {"iam": []}, {"iam": {"userArn": None}}, {"iam": {"userArn": ""}},
    {"iam": {"userArn": 1}}, {"jwt": {"claims": {"userArn": OPERATOR}}}, {"userArn": OPERATOR},
]  # fmt: skip
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_an_identity_of_iam_no_route_does_anything(backend: Deployment, method: str, path: str) -> None:
    """Each route asks for the identity that API Gateway has verified, before all else, and makes no AWS call."""
    for authorizer in (..., *NOBODY):
        backend.log.truncate(backend.log.seek(0))
        made = event(method, path, "not JSON", content_type="text/plain")
        if authorizer is not ...:
            made["requestContext"]["authorizer"] = authorizer
        assert backend.refused(backend.send(made), 403, "operator-required")


def test_an_identity_in_the_headers_or_the_body_is_none(backend: Deployment) -> None:
    """What a caller can write does not count."""
    made = event("GET", "/v1/operator/fleet", json.dumps({"requestContext": {"authorizer": {"iam": OPERATOR}}}))
    made["headers"]["userarn"] = made["headers"]["x-amzn-iam-user-arn"] = OPERATOR
    assert backend.refused(backend.send(made), 403, "operator-required")


GOOD: dict[str, Any] = {"thing": THING}


@pytest.mark.parametrize(
    ("invite", "field"),
    [
        *[({"thing": name}, "thing") for name in ("", "a b", "a/b", "a\n", "\u0661", "x" * 129, 1, None, ["a"])],
        *[({"thing": pattern}, "thing") for pattern in ("a*b", "**", "*a", "x" * 128 + "*")],
        ({}, "thing"),
        *[(GOOD | {"uses": uses}, "uses") for uses in (0, -1, 1_000_001, 1.5, "1", True, None, [1])],
        *[(GOOD | {"ttlSeconds": ttl}, "ttlSeconds") for ttl in (0, 59, 31_536_001, 60.5, "60", True, None)],
        *[(GOOD | {name: flag}, name) for name in ("existingThing", "requireTpm", "reuseTpm")
          for flag in (0, 1, "true", None)],
        *[(GOOD | {"replacesKey": flag}, "invites") for flag in (True, False)],  # it has a route of its own
        *[(GOOD | {"ekSha256": text}, "ekSha256") for text in ("", "ab", "AB" * 32, "g" * 64, "ab" * 32 + "\n", 1)],
        (GOOD | {"surplus": 1}, "invites"),
        ("press-17", "invites"),
        ([], "invites"),
        (None, "invites"),
    ],
)  # fmt: skip
def test_an_invite_that_makes_no_sense_is_refused_with_the_fields_name(
    backend: Deployment, invite: object, field: str
) -> None:
    """400 for the whole request; nothing is made, also not of the good ones beside it."""
    answer = backend.operate("POST", "invites", {"invites": [GOOD, invite]})
    assert backend.refused(answer, 400, "field-invalid")
    assert field in answer.json["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "thing"),
        *[({"thing": name}, "thing") for name in ("", "a b", "press-*", "*", "x" * 129, "a\n", 1, None, [THING])],
        *[(GOOD | {"ttlSeconds": ttl}, "ttlSeconds") for ttl in (59, 31_536_001, 60.5, "60", True, None)],
        *[(GOOD | {"ekSha256": text}, "ekSha256") for text in ("", "ab", "AB" * 32, 1, None)],
        *[(GOOD | {name: 1}, "body") for name in ("uses", "surplus")],
        *[(GOOD | {name: True}, "body") for name in ("replacesKey", "existingThing", "deactivateExisting")],
        ({"invites": [GOOD]}, "body"),
    ],
)
def test_a_replacement_that_makes_no_sense_is_refused_with_the_fields_name(
    backend: Deployment, body: object, field: str
) -> None:
    """400: it is for one Thing and one use, and takes a time and a TPM; nothing else of an invite."""
    answer = backend.operate("POST", "replacements", body)
    assert backend.refused(answer, 400, "field-invalid")
    assert field in answer.json["detail"]


@pytest.mark.parametrize("status", ["issued", "revoked"])
def test_a_replacement_is_answered_and_listed_like_an_invite(backend: Deployment, status: str) -> None:
    """One invite with its code and its Thing's status, which the list has without the code; it ends as was asked."""
    assert Device(backend, THING).enroll().status == 201
    if status == "revoked":
        assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    known = set(backend.items("invite"))
    answer = backend.operate("POST", "replacements", {"thing": THING, "ttlSeconds": 60, "ekSha256": "0f" * 32})
    (made,) = answer.json["invites"]
    assert (answer.status, made.keys()) == (201, {"id", "code", "thing", "uses", "expires", "thingStatus"})
    assert (made["thing"], made["uses"], made["thingStatus"]) == (THING, 1, status)
    (item,) = [item for identifier, item in backend.items("invite").items() if identifier not in known]
    assert int(item["expires"]) == int(item["created"]) + 60
    (listed,) = [one for one in backend.operate("GET", "invites").json["invites"] if one["id"] == made["id"]]
    assert (listed["ekSha256"], listed["existingThing"], listed["createdBy"]) == ("0f" * 32, False, OPERATOR)
    assert listed["replacesKey"] is True


@pytest.mark.parametrize(
    "body", [{}, {"invites": None}, {"invites": {}}, {"invites": "x"}, {"invites": []}, {"invites": [GOOD] * 101},
             {"invites": [GOOD], "surplus": 1}, {"Invites": [GOOD]}],
    ids=["empty", "null", "object", "text", "none", "101", "surplus", "case"],
)  # fmt: skip
def test_one_to_a_hundred_invites_are_made_at_once(backend: Deployment, body: object) -> None:
    """400 for any other list."""
    assert backend.refused(backend.operate("POST", "invites", body), 400, "field-invalid")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (None, "application/json", 400, "body-empty"),
        ("[]", "application/json", 400, "json-not-object"),
        ("{", "application/json", 400, "json-malformed"),
        ('{"invites": [], "invites": []}', "application/json", 400, "json-duplicate-key"),
        ("{}", "text/plain", 415, "media-type-unsupported"),
        ("{}", None, 415, "media-type-unsupported"),
        (" " * (16 * 1024 + 1), "application/json", 413, "body-too-large"),
    ],
)
@pytest.mark.parametrize("path", ["invites", "replacements", "sweep", "rebuild", "eks", "ek-authorities"])
def test_s1_s2_s3_the_operators_bodies_are_read_as_strictly(
    backend: Deployment, path: str, body: str | None, content_type: str | None, status: int, code: str
) -> None:
    """S1, S2, S3: declared as JSON, one strict object, 16 KiB at the most."""
    made = event("POST", f"/v1/operator/{path}", body, content_type=content_type)
    made["requestContext"]["authorizer"] = {"iam": {"userArn": OPERATOR}}
    assert backend.refused(backend.send(made), status, code)


@pytest.mark.parametrize(
    "invite",
    [
        {"thing": "x" * 128},
        {"thing": "x" * 127 + "*"},
        {"thing": "*"},
        {"thing": "A-z_0:9", "uses": 1_000_000, "ttlSeconds": 31_536_000, "existingThing": True},
        {"thing": "x", "uses": 1, "ttlSeconds": 60, "existingThing": False, "ekSha256": "0f" * 32},
        {"thing": "x*", "uses": 2, "requireTpm": True, "reuseTpm": True},
    ],
)
def test_an_invite_is_listed_as_it_was_made(backend: Deployment, invite: dict[str, Any]) -> None:
    """The answer has its id, code and end; the list has everything but the code, and who made it."""
    answer = backend.operate("POST", "invites", {"invites": [invite]})
    (made,) = answer.json["invites"]
    assert (answer.status, made.keys()) == (201, {"id", "code", "thing", "uses", "expires", "thingStatus"})
    (listed,) = backend.operate("GET", "invites").json["invites"]
    uses = invite.get("uses", 1)
    expected = {"existingThing": False, **invite} | {"uses": uses, "usesLeft": uses, "status": "open"}
    requires_tpm = "requireTpm" in invite or "ekSha256" in invite
    expected |= {"replacesKey": False, "requireTpm": requires_tpm, "reuseTpm": invite.get("reuseTpm", False)}
    expected |= {"createdBy": OPERATOR, "id": made["id"], "expires": made["expires"]}
    expected.pop("ttlSeconds", None)
    created = listed.pop("created")
    assert listed == expected
    assert INSTANT.fullmatch(created)
    assert INSTANT.fullmatch(made["expires"])


def test_the_states_of_an_invite(backend: Deployment) -> None:
    """Open, used, expired, revoked."""

    def status() -> str:
        (listed,) = backend.operate("GET", "invites").json["invites"]
        text: str = listed["status"]
        return text

    code = backend.invite(THING, ttlSeconds=60)
    (identifier,) = backend.items("invite")
    seen = [status()]
    backend.clock.ahead = 60
    seen.append(status())
    backend.clock.ahead = 0
    assert Device(backend, THING, code).enroll().status == 201
    seen.append(status())
    for _ in range(2):
        assert backend.operate("DELETE", "invites", id=identifier).status == 204
    assert [*seen, status()] == ["open", "expired", "used", "revoked"]


def test_a_hundred_invites_come_in_one_request(backend: Deployment) -> None:
    """All codes differ, in the order of the request."""
    things = [f"line3-{number}" for number in range(100)]
    answer = backend.operate("POST", "invites", {"invites": [{"thing": thing} for thing in things]})
    made = answer.json["invites"]
    assert [invite["thing"] for invite in made] == things
    assert len({invite["code"] for invite in made}) == 100


def test_an_invites_item_leaves_by_itself_after_it_has_expired(backend: Deployment) -> None:
    """DynamoDB's TTL is some time after the invite's end, so that it can be listed as expired; others have none."""
    Device(backend, THING, backend.invite(THING, ttlSeconds=60)).enroll()
    (entry,) = backend.items("invite").values()
    assert int(entry["ttl"]) == int(entry["expires"]) + 90 * 24 * 3600
    others = [*backend.items("thing").values(), *backend.items("key").values(), *backend.items("certificate").values()]
    assert len(others) == 3
    assert not any("ttl" in other for other in others)


def test_a_revoked_invites_item_stays(backend: Deployment) -> None:
    """TTL would make an invite that was taken back one that is unknown, and a device bound to that may come back."""
    made = backend.operate("POST", "invites", {"invites": [{"thing": "taken-back"}, {"thing": "open"}]}).json["invites"]
    assert backend.operate("DELETE", "invites", id=made[0]["id"]).status == 204
    entries = backend.items("invite")
    assert ["ttl" in entries[invite["id"]] for invite in made] == [False, True]
    let_items_expire(backend.clock.time() + 365 * DAY)
    assert [invite["id"] for invite in backend.operate("GET", "invites").json["invites"]] == [made[0]["id"]]


CANCELED = {"CancellationReasons": [{"Code": "None"}, {"Code": "ThrottlingError"}]}
FAILURES = {
    "throttled": (400, {"__type": "ThrottlingException"}, 429),
    "failing": (500, {"__type": "InternalServerError"}, 503),
    "canceled": (400, {"__type": "TransactionCanceledException", **CANCELED}, 429),
}


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("works", [0, 1])
@pytest.mark.parametrize(("status", "body", "told"), FAILURES.values(), ids=FAILURES.keys())
def test_a_hundred_invites_are_made_or_none(
    backend: Deployment, works: int, status: int, body: dict[str, object], told: int
) -> None:
    """Whichever write DynamoDB fails at: nobody has the codes of those of before."""
    writes: list[Any] = []

    def fail(sent: Any) -> AWSResponse | None:
        writes.append(sent)
        return None if len(writes) <= works else aws_answer(status, json.dumps(body))

    for operation in ("TransactWriteItems", "BatchWriteItem", "PutItem"):
        backend.inject(operation, fail)
    answer = backend.operate("POST", "invites", {"invites": [GOOD] * 100})
    expected = (201, 100) if works else (told, 0)
    assert (answer.status, len(backend.items("invite"))) == expected


def test_the_fleet_is_listed_and_shown(backend: Deployment) -> None:
    """Claimed, issued and revoked Things, with key, certificate, invite and times."""
    issued, revoked, claimed = (Device(backend, name, backend.invite(name)) for name in ("a", "b", "c"))
    answers = [issued.enroll(), revoked.enroll()]
    assert backend.operate("DELETE", "fleet", thing="b").status == 204
    backend.inject("CreateCertificateFromCsr", lambda _: (_ for _ in ()).throw(ConnectionError()))
    claimed.enroll()
    listed = backend.operate("GET", "fleet").json
    assert listed["next"] is None
    listed["things"].sort(key=lambda thing: thing["thing"])
    assert [(thing["thing"], thing["status"]) for thing in listed["things"]] == [
        ("a", "issued"), ("b", "revoked"), ("c", "claimed")
    ]  # fmt: skip
    certificates = [answer.json["certificateId"] for answer in answers]
    assert [thing["certificateId"] for thing in listed["things"]] == [*certificates, None]
    for thing, device in zip(listed["things"], (issued, revoked, claimed), strict=True):
        assert backend.operate("GET", "fleet", thing=thing["thing"]).json["thing"] == thing
        assert thing["spkiSha256"] == device.spki_sha256
        assert thing["inviteId"] in backend.items("invite")
        assert INSTANT.fullmatch(thing["claimed"])
        assert (thing["enrolled"] is None, thing["revoked"] is None) == (device is claimed, device is not revoked)


@pytest.mark.parametrize(
    ("method", "path", "query", "code"),
    [
        ("DELETE", "invites", {"id": "0123456789abcdef"}, "invite-unknown"),
        ("DELETE", "invites", {"id": "x"}, "invite-unknown"),
        ("GET", "fleet", {"thing": "nobody"}, "thing-unknown"),
        ("DELETE", "fleet", {"thing": "nobody"}, "thing-unknown"),
    ],
)
def test_what_is_not_there_is_404(
    backend: Deployment, method: str, path: str, query: dict[str, str], code: str
) -> None:
    """404 with a code of its own; nothing is written."""
    assert_problem(backend.operate(method, path, **query), 404, code)
    assert set(backend.calls) <= {"BatchGetItem", "TransactGetItems"}


NO_LISTS = [
    *[{"next": text} for text in ("", "x", "1", "1.", ".a", "-1.a", "1a.b", "1" * 13 + ".a", "1." + "x" * 129)],
    *[{"next": text} for text in ("1.a b", "1.\u00e9", "\u0661.a", "1.a\n", " 1.a")],
    *[{"limit": text} for text in ("", "0", "-1", "1.5", "01", "1001", "x", "\u0661", " 1")],
    *[{"prefix": text} for text in ("", "a b", "a*", "x" * 129, "\u00e4", "a\n")],
    *[{"status": text} for text in ("", "gone", "Revoked", "revoked,open")],
]


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("DELETE", "invites", {}),
        ("DELETE", "invites", {"id": ""}),
        ("DELETE", "fleet", {}),
        ("DELETE", "fleet", {"thing": ""}),
        ("GET", "fleet", {"thing": ""}),
        *[("GET", path, query) for path in ("fleet", "invites") for query in NO_LISTS],
        ("GET", "fleet", {"status": "open"}),
        *[("GET", "fleet", {"thing": "a", "things": "a,b", "status": "issued", **wrong}) for wrong in NO_LISTS],
        ("GET", "invites", {"status": "issued"}),
        *[("GET", "fleet", {"things": names}) for names in ("", ",", "a,", "a b", "x" * 129, ",".join("x" * 101))],
        *[(method, "fleet", {"thing": "x" * 1025}) for method in ("GET", "DELETE")],
        ("DELETE", "invites", {"id": "\u00e9" * 513}),
    ],
)  # fmt: skip
def test_a_parameter_that_no_key_can_be_is_refused(
    backend: Deployment, method: str, path: str, query: dict[str, str]
) -> None:
    """400 and no AWS call: for what no name, no id and no list's parameter can be."""
    assert backend.refused(backend.operate(method, path, **query), 400, "field-invalid")


@pytest.mark.parametrize("body", [{"next": 1}, {"next": ["x"]}, {"surplus": "x"}, {"next": "x" * 1025}, {"next": ""}])
def test_a_sweeps_marker_is_text(backend: Deployment, body: object) -> None:
    """400 for anything else: AWS IoT's markers have 1,024 characters at the most."""
    assert backend.refused(backend.operate("POST", "sweep", body), 400, "field-invalid")
