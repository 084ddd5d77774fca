"""The routes of operators: parses their requests, and builds the responses. API Gateway has authorized the callers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from enrollment_backend import log
from enrollment_backend.errors import FieldInvalidError
from enrollment_backend.http import Event, Response, Routes, json_body, json_response, operator_of, parameter, timestamp
from enrollment_backend.invites import Invite, invite_id
from enrollment_backend.operator_fields import (
    NAME,
    fingerprint,
    flag,
    integer,
    key,
    marker,
    matching,
    page,
    required_key,
    yes_or_no,
)

if TYPE_CHECKING:
    from enrollment_backend.inspection import Found
    from enrollment_backend.items import ThingEntry
    from enrollment_backend.operator import CreatedInvite, InviteRequest, Operator
    from enrollment_backend.rebuild import Rebuilder
    from enrollment_backend.sweep import Suspect, Sweeper

_MAX_INVITES = 100  # in one request
_PATTERN = re.compile(r"[a-zA-Z0-9:_-]{1,128}|[a-zA-Z0-9:_-]{0,127}\*")
_MAX_USES = 1_000_000
_MIN_TTL, _MAX_TTL, _DEFAULT_TTL = 60, 365 * 24 * 3600, 24 * 3600  # seconds
_FIELDS = {"thing", "uses", "ttlSeconds", "existingThing", "deactivateExisting", "ekSha256", "requireTpm", "reuseTpm"}
_REPLACEMENT_FIELDS = {"thing", "ttlSeconds", "ekSha256", "requireTpm", "reuseTpm"}
_MARKER = re.compile(r"[a-z]:[!-~]{0,1024}")  # which list, and a marker of AWS IoT, or an id
_SWEEP_PAGE_SIZE = 50  # certificates; the first time, each may cost a call, and a request takes up to 25 seconds
_MAX_NAMES = 100  # of Things in one request


def routes(
    operator: Callable[[], Operator],
    sweeper: Callable[[], Sweeper],
    rebuilder: Callable[[], Rebuilder],
    now: Callable[[], float],
) -> Routes:
    """Return the routes of operators.

    Args:
        operator: returns the operator's use cases; called only when a request needs them.
        sweeper: returns the sweeper, likewise.
        rebuilder: returns the rebuilder, likewise.
        now: the time, in seconds since the epoch.
    """
    return {
        "/v1/operator/invites": {
            "POST": partial(_create_invites, operator),
            "GET": partial(_list_invites, operator, now),
            "DELETE": partial(_revoke_invite, operator),
        },
        "/v1/operator/replacements": {"POST": partial(_create_replacement, operator)},
        "/v1/operator/fleet": {
            "GET": partial(_fleet, operator),
            "DELETE": partial(_revoke_thing, operator),
        },
        "/v1/operator/sweep": {"POST": partial(_sweep, sweeper)},
        "/v1/operator/rebuild": {"POST": partial(_rebuild, rebuilder)},
    }


def _create_invites(operator: Callable[[], Operator], event: Event) -> Response:
    caller = operator_of(event)
    fields = json_body(event)
    requested = fields.get("invites")
    if fields.keys() != {"invites"} or not isinstance(requested, list) or not 1 <= len(requested) <= _MAX_INVITES:
        raise FieldInvalidError("invites")
    return _created(operator().create_invites([_invite_request(entry) for entry in requested], caller))


def _create_replacement(operator: Callable[[], Operator], event: Event) -> Response:
    """Create an invite that replaces a Thing's key; a route of its own, so that IAM can allow one without the other."""
    caller = operator_of(event)
    return _created(operator().create_invites([_replacement_request(json_body(event))], caller))


def _created(created: Iterable[CreatedInvite]) -> Response:
    invites = [
        {
            "id": one.invite.id,
            "code": one.code,
            "thing": one.invite.thing,
            "uses": one.invite.uses,
            "expires": timestamp(one.invite.expires),
            "thingStatus": one.thing_status,
        }
        for one in created
    ]
    return json_response(HTTPStatus.CREATED, {"invites": invites})


def _list_invites(operator: Callable[[], Operator], now: Callable[[], float], event: Event) -> Response:
    operator_of(event)
    from enrollment_backend.items import INVITE_STATUSES

    invites, position = operator().list_invites(page(event, INVITE_STATUSES))
    content = {"invites": [_invite(invite, now()) for invite in invites], "next": marker(position)}
    return json_response(HTTPStatus.OK, content)


def _revoke_invite(operator: Callable[[], Operator], event: Event) -> Response:
    caller = operator_of(event)
    operator().revoke_invite(required_key(event, "id"), caller)
    return Response(HTTPStatus.NO_CONTENT)


def _fleet(operator: Callable[[], Operator], event: Event) -> Response:
    """Show one Thing, several by their names, or a page of them all."""
    operator_of(event)
    from enrollment_backend.items import THING_STATUSES

    name, names = key(event, "thing"), _names(event)
    wanted = replace(page(event, THING_STATUSES), attested=yes_or_no(event, "attested"))
    if name is not None:
        shown = _thing(operator().show_thing(name))
        return json_response(HTTPStatus.OK, {"thing": shown, "certificates": _found(operator().attached_to(name))})
    if names is not None:
        found, position = operator().find_things(names), None
    else:
        found, position = operator().list_things(wanted)
    return json_response(HTTPStatus.OK, {"things": [_thing(entry) for entry in found], "next": marker(position)})


def _revoke_thing(operator: Callable[[], Operator], event: Event) -> Response:
    """Revoke a Thing; the parameter `others` asks for a report of its other certificates, or to deactivate them."""
    caller = operator_of(event)
    thing, others = required_key(event, "thing"), parameter(event, "others")
    if others is None:
        operator().revoke_thing(thing, caller, "ignore")
        return Response(HTTPStatus.NO_CONTENT)
    if others not in {"show", "deactivate"}:
        raise FieldInvalidError("others")
    found = operator().revoke_thing(thing, caller, "show" if others == "show" else "deactivate")
    return json_response(HTTPStatus.OK, {"thing": thing, "otherCertificates": _found(found)})


def _sweep(sweeper: Callable[[], Sweeper], event: Event) -> Response:
    operator_of(event)
    fields = json_body(event)
    marker = _body_marker(fields, {"lookOnly", "yesAll"})
    swept = sweeper().sweep_page(
        marker, _SWEEP_PAGE_SIZE, look_only=flag(fields, "lookOnly"), yes_all=flag(fields, "yesAll")
    )
    content = {
        "checked": swept.examined.checked,
        "disabled": [_suspect(found) for found in swept.disabled],
        "foreign": swept.examined.foreign,
        "found": [
            {**_suspect(found), "reason": found.reason, "counts": found.counts} for found in swept.examined.suspects
        ],
        "limit": sweeper().limit,
        "next": swept.examined.next,
    }
    return json_response(HTTPStatus.OK, content)


def _rebuild(rebuilder: Callable[[], Rebuilder], event: Event) -> Response:
    caller = operator_of(event)
    fields = json_body(event)
    marker = _body_marker(fields, {"lookOnly", "existingThings"})
    look_only = flag(fields, "lookOnly")
    if not look_only:
        log.note(caller=caller)
    rebuilt = rebuilder().rebuild(marker, look_only=look_only, adopt=flag(fields, "existingThings"))
    content = {
        "examined": rebuilt.examined,
        "restored": [
            {"thing": one.thing, "certificateId": one.certificate_id, "status": one.status} for one in rebuilt.restored
        ],
        "left": [{"certificateId": one.certificate_id, "reason": one.reason} for one in rebuilt.left],
        "next": rebuilt.next,
    }
    return json_response(HTTPStatus.OK, content)


def _body_marker(fields: dict[str, Any], others: set[str]) -> str | None:
    """Return the member `next`, after checking that there are no members but it and the others."""
    marker = fields.get("next")
    is_marker = marker is None or (isinstance(marker, str) and _MARKER.fullmatch(marker))
    if not fields.keys() <= {"next", *others} or not is_marker:
        raise FieldInvalidError("next")
    return marker


def _tpm(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what an invite says about TPMs, as arguments of `InviteRequest`."""
    return {
        "ek_sha256": fingerprint(fields),
        "require_tpm": flag(fields, "requireTpm"),
        "reuse_tpm": flag(fields, "reuseTpm"),
    }


def _ttl(fields: dict[str, Any]) -> int:
    return integer(fields, "ttlSeconds", _DEFAULT_TTL, _MIN_TTL, _MAX_TTL)


def _names(event: Event) -> list[str] | None:
    text = parameter(event, "things")
    names = None if text is None else text.split(",")
    if names is not None and (len(names) > _MAX_NAMES or not all(NAME.fullmatch(name) for name in names)):
        raise FieldInvalidError("things")
    return names


def _suspect(found: Suspect) -> dict[str, Any]:
    return {"certificateId": found.certificate_id, "created": timestamp(found.created.timestamp())}


def _found(certificates: Iterable[Found]) -> list[dict[str, Any]]:
    return [
        {
            "certificateId": found.certificate_id,
            "active": found.active,
            "created": timestamp(found.created.timestamp()),
        }
        for found in certificates
    ]


def _invite_request(entry: object) -> InviteRequest:
    from enrollment_backend.operator import InviteRequest

    if not isinstance(entry, dict) or not entry.keys() <= _FIELDS:
        raise FieldInvalidError("invites")
    return InviteRequest(
        thing=matching(entry, "thing", _PATTERN),
        uses=integer(entry, "uses", 1, 1, _MAX_USES),
        ttl_seconds=_ttl(entry),
        existing_thing=flag(entry, "existingThing"),
        deactivate_existing=flag(entry, "deactivateExisting"),
        replaces_key=False,
        **_tpm(entry),
    )


def _replacement_request(fields: dict[str, Any]) -> InviteRequest:
    from enrollment_backend.operator import InviteRequest

    if not fields.keys() <= _REPLACEMENT_FIELDS:
        raise FieldInvalidError("body")
    return InviteRequest(
        thing=matching(fields, "thing", NAME),  # one key is replaced by one key
        uses=1,
        ttl_seconds=_ttl(fields),
        existing_thing=False,
        deactivate_existing=False,
        replaces_key=True,
        **_tpm(fields),
    )


def _invite(invite: Invite, now: float) -> dict[str, Any]:
    from enrollment_backend.items import invite_status

    of_one_tpm = {} if invite.ek_sha256 is None else {"ekSha256": invite.ek_sha256}
    return {
        "id": invite.id,
        "thing": invite.thing,
        "uses": invite.uses,
        "usesLeft": invite.uses_left,
        "expires": timestamp(invite.expires),
        "created": timestamp(invite.created),
        "createdBy": invite.created_by,
        "status": invite_status(invite, now),
        "existingThing": invite.existing_thing,
        "replacesKey": invite.replaces_key,
        "requireTpm": invite.requires_tpm,
        "reuseTpm": invite.reuse_tpm,
        **of_one_tpm,
    }


def _thing(entry: ThingEntry) -> dict[str, Any]:
    return {
        "thing": entry.thing,
        "status": entry.status,
        "spkiSha256": entry.spki_sha256,
        "certificateId": entry.certificate_id,
        "claimed": timestamp(entry.claimed),
        "enrolled": None if entry.enrolled is None else timestamp(entry.enrolled),
        "revoked": None if entry.revoked_at is None else timestamp(entry.revoked_at),
        "inviteId": None if entry.code_sha256 is None else invite_id(entry.code_sha256),
        "keyType": entry.key_type,
        "attested": entry.attestation is not None,
        "ekSha256": entry.attestation and entry.attestation.ek_sha256,
        "ekCertificateSha256": entry.attestation and entry.attestation.ek_certificate_sha256,
        "tpmManufacturer": entry.attestation and entry.attestation.manufacturer,
        "tpmFirmware": entry.attestation and entry.attestation.firmware,
        "renewed": None if entry.renewed is None else timestamp(entry.renewed),
        "renewalDue": entry.renewal_due,
        "renewalPending": entry.renewal_pending,
        "renewalUndone": None if entry.renewal_undone is None else timestamp(entry.renewal_undone),
        "renewalUndoneBecause": entry.renewal_undone_because,
    }
