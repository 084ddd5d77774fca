"""Properties of reading what the operator's routes answer and what an operator's table says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.backend_api import answer as answers
from hsm_enroll.backend_api.answer import Answer, document
from hsm_enroll.errors import HsmEnrollError, UnexpectedResponseError, UsageError
from hsm_enroll.operator import batch, records, reports
from hsm_enroll.operator.invites import NewInvite
from hsm_enroll.operator.records import CreatedInvite, ThingRecord
from hsm_enroll.operator.refusals import refusal
from hsm_enroll.secret import Secret

_RUN = settings(database=None, deadline=None, max_examples=150)
_URL = "https://api.example"
_CODE = "7K3QM-ABCDE-FGHJK-MNPQR-STVWX"
_SHA256 = "0a" * 32
_INSTANT = "2026-11-24T10:00:00Z"
_SAMPLES: dict[str, dict[str, Any]] = {
    "created_invite": {
        "id": "0" * 16,
        "code": _CODE,
        "thing": "g-*",
        "uses": 3,
        "expires": _INSTANT,
        "thingStatus": "issued",
    },
    "invite_record": {
        "id": "0" * 16,
        "thing": "gateway-1",
        "uses": 1,
        "usesLeft": 0,
        "expires": _INSTANT,
        "created": _INSTANT,
        "createdBy": "arn:aws:iam::123456789012:user/operator",
        "status": "used",
        "existingThing": False,
        "ekSha256": _SHA256,
        "replacesKey": False,
        "requireTpm": True,
        "reuseTpm": False,
    },
    "thing_record": {
        "thing": "gateway-1",
        "status": "revoked",
        "spkiSha256": _SHA256,
        "certificateId": _SHA256,
        "claimed": _INSTANT,
        "enrolled": _INSTANT,
        "revoked": _INSTANT,
        "inviteId": "0" * 16,
        "keyType": "rsa-3072",
        "renewed": _INSTANT,
        "renewalDue": True,
        "renewalPending": False,
        "renewalUndone": _INSTANT,
        "renewalUndoneBecause": "old-key-used",
        "attested": True,
        "ekSha256": _SHA256,
        "ekCertificateSha256": _SHA256,
        "tpmManufacturer": "IFX",
        "tpmFirmware": "7.85",
    },
    "sweep_report": {
        "checked": 2,
        "disabled": [{"certificateId": _SHA256, "created": _INSTANT}],
        "foreign": 1,
        "found": [{"certificateId": _SHA256, "created": _INSTANT, "reason": "lost", "counts": False}],
        "limit": 20,
        "next": "c:",
    },
    "rebuild_report": {
        "examined": 2,
        "restored": [{"thing": "gateway-1", "certificateId": _SHA256, "status": "issued"}],
        "left": [{"certificateId": _SHA256, "reason": "other-key"}],
    },
    "shown_thing": {
        "thing": {
            "thing": "gateway-1",
            "status": "claimed",
            "spkiSha256": _SHA256,
            "certificateId": None,
            "claimed": _INSTANT,
            "enrolled": None,
            "revoked": None,
            "inviteId": None,
        },
        "certificates": [{"certificateId": _SHA256, "active": True, "created": _INSTANT}],
    },
}
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.sampled_from([_SHA256, _CODE, _INSTANT, "gateway-1", "\x1b[31m", "0000-00-00T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.from_regex(r"[a-zA-Z0-9:_-]{1,20}\*?", fullmatch=True)
_CELLS = st.text(max_size=12) | st.sampled_from(["gateway-1", "7d", "1", "true", _SHA256, f"{_URL}/#{_CODE}", '"', "="])


def _outcome(call: Callable[[], Any], expected: type[Exception]) -> Any:
    """Return what a call returns, or the error that it may raise."""
    try:
        return call()
    except expected as error:
        return error


def _read(name: str, text: str) -> Any:
    module = records if hasattr(records, name) else reports
    return getattr(module, name)(json.loads(text, object_hook=records.hide_code))


@_RUN
@given(name=st.sampled_from(sorted(_SAMPLES)), data=st.data())
def test_a_member_replaced_by_anything_is_refused_or_safe(name: str, data: st.DataObject) -> None:
    """D17: whatever stands in a member's place, it is a ValueError or a record whose texts are printable ASCII."""
    members = dict(_SAMPLES[name])
    member = data.draw(st.sampled_from(sorted(members)))
    members[member] = data.draw(_JSON)
    record = _outcome(lambda: _read(name, json.dumps(members)), ValueError)
    if isinstance(record, ValueError):
        assert str(record).isprintable()
        return
    for field in fields(record):
        value = getattr(record, field.name)
        assert not isinstance(value, str) or (value.isascii() and value.isprintable())
        assert isinstance(value, str | int | bool | datetime | Secret | tuple | ThingRecord | None)
    assert _CODE not in repr(record) or member != "code"


@_RUN
@given(name=st.sampled_from(["invite_record", "thing_record"]), extra=st.dictionaries(st.text(), _JSON, max_size=3))
def test_a_record_is_written_as_it_was_read(name: str, extra: dict[str, Any]) -> None:
    """Members that are not known are left out, and the known ones come back in the contract's form."""
    sample = _SAMPLES[name]
    assert records.to_json(_read(name, json.dumps({**extra, **sample}))) == sample


@_RUN
@given(
    status=st.integers(100, 599),
    media_type=st.sampled_from(["application/json", "application/problem+json", "text/html", "", "\x1b[0m"]),
    body=st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()),
    retry_after=st.text(max_size=10),
)
def test_any_answer_is_read_or_refused(status: int, media_type: str, body: bytes, retry_after: str) -> None:
    """D17: any status, type and body is a JSON object or one of our errors, whose text cannot steer a terminal."""
    answer = Answer(_URL, status, media_type, body, retry_after)
    assert answer.wait >= 0
    content = _outcome(lambda: document(answer), UnexpectedResponseError)
    assert isinstance(content, dict) or content.message.isprintable()
    for read in (
        partial(refusal, region="eu-central-1"),
        lambda any_answer: answers.refusal(any_answer, lambda *_: None),
    ):
        refused = _outcome(partial(read, answer), UnexpectedResponseError)
        assert isinstance(refused, HsmEnrollError)
        assert refused.message.isprintable()


@_RUN
@given(
    content=st.binary(max_size=300)
    | st.lists(st.lists(_CELLS, max_size=6).map(",".join), max_size=5).map(
        lambda lines: "\n".join(["thing,uses,ttl,invite,id,expires", *lines]).encode("utf-8", "surrogatepass")
    )
)
def test_any_table_is_read_or_refused_without_a_code(content: bytes) -> None:
    """Whatever a table holds, it is a batch of valid invites or a UsageError that repeats no code."""
    table = _outcome(lambda: batch.read(content), UsageError)
    if isinstance(table, UsageError):
        assert _CODE not in table.message + table.hint
        return
    assert table.rows
    assert batch.read(table.to_csv().encode()) == table


@_RUN
@given(things=st.lists(_NAMES, min_size=1, max_size=250, unique=True), stop=st.integers(0, 3))
def test_a_batch_stopped_anywhere_goes_on_to_the_same_end(things: list[str], stop: int) -> None:
    """Wherever a batch breaks off, its table as the next input ends with one invite for each row, none asked twice."""
    asked: list[str] = []

    def create(invites: Sequence[NewInvite]) -> list[CreatedInvite]:
        asked.extend(one.thing for one in invites)
        expires = datetime(2026, 11, 24, 10, tzinfo=UTC)
        return [CreatedInvite("0" * 16, Secret(_CODE), one.thing, one.uses, expires) for one in invites]

    table = batch.read("\r\n".join(["thing", *things]).encode())
    for done, _ in zip(batch.create(table, create, _URL), range(stop), strict=False):
        table = done
    asked = [row.requested.thing for row in table.rows if row.made]
    table = batch.read(table.to_csv().encode())
    for done in batch.create(table, create, _URL):
        table = done
    assert table.left == 0
    assert sorted(asked) == sorted(things)
    assert [one["thing"] for one in table.to_json()] == things
