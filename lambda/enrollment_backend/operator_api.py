"""The routes of operators: parses their requests, and builds the responses. API Gateway has authorized the callers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from enrollment_backend import log
from enrollment_backend.errors import FieldInvalidError
from enrollment_backend.http import Event, Response, Routes, json_body, json_response, operator_of, parameter, timestamp
from enrollment_backend.invites import Invite, invite_id

if TYPE_CHECKING:
    from enrollment_backend.inspection import Found
    from enrollment_backend.items import ThingEntry
    from enrollment_backend.operator import CreatedInvite, InviteRequest, Operator, Page
    from enrollment_backend.rebuild import Rebuilder
    from enrollment_backend.sweep import Suspect, Sweeper
    from enrollment_backend.table import Position

_MAX_INVITES = 100  # in one request
_PATTERN = re.compile(r"[a-zA-Z0-9:_-]{1,128}|[a-zA-Z0-9:_-]{0,127}\*")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_MAX_USES = 1_000_000
_MIN_TTL, _MAX_TTL, _DEFAULT_TTL = 60, 365 * 24 * 3600, 24 * 3600  # seconds
_FIELDS = {"thing", "uses", "ttlSeconds", "existingThing", "deactivateExisting", "ekSha256"}
_REPLACEMENT_FIELDS = {"thing", "ttlSeconds", "ekSha256"}
_MAX_KEY_LENGTH = 1024  # characters: a sort key of DynamoDB
_MARKER = re.compile(r"[a-z]:[!-~]{0,1024}")  # which list, and a marker of AWS IoT, or an id
_SWEEP_PAGE_SIZE = 50  # certificates; the first time, each may cost a call, and a request takes up to 25 seconds
_MAX_PAGE_SIZE = _DEFAULT_PAGE_SIZE = 1000  # entries: less than a megabyte, where a function may answer six
_MAX_NAMES = 100  # of Things in one request
_LIMIT = re.compile(r"[1-9][0-9]{0,3}")
_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
_POSITION = re.compile(r"([0-9]{1,12})\.([a-zA-Z0-9:_-]{1,128})")


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

    invites, position = operator().list_invites(_page(event, INVITE_STATUSES))
    content = {"invites": [_invite(invite, now()) for invite in invites], "next": _marker(position)}
    return json_response(HTTPStatus.OK, content)


def _revoke_invite(operator: Callable[[], Operator], event: Event) -> Response:
    caller = operator_of(event)
    operator().revoke_invite(_required(event, "id"), caller)
    return Response(HTTPStatus.NO_CONTENT)


def _fleet(operator: Callable[[], Operator], event: Event) -> Response:
    """Show one Thing, several by their names, or a page of them all."""
    operator_of(event)
    from enrollment_backend.items import THING_STATUSES

    name, names, page = _parameter(event, "thing"), _names(event), _page(event, THING_STATUSES)
    if name is not None:
        shown = _thing(operator().show_thing(name))
        return json_response(HTTPStatus.OK, {"thing": shown, "certificates": _found(operator().attached_to(name))})
    if names is not None:
        found, position = operator().find_things(names), None
    else:
        found, position = operator().list_things(page)
    return json_response(HTTPStatus.OK, {"things": [_thing(entry) for entry in found], "next": _marker(position)})


def _revoke_thing(operator: Callable[[], Operator], event: Event) -> Response:
    """Revoke a Thing; the parameter `others` asks for a report of its other certificates, or to deactivate them."""
    caller = operator_of(event)
    thing, others = _required(event, "thing"), parameter(event, "others")
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
        marker, _SWEEP_PAGE_SIZE, look_only=_flag(fields, "lookOnly"), yes_all=_flag(fields, "yesAll")
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
    look_only = _flag(fields, "lookOnly")
    if not look_only:
        log.note(caller=caller)
    rebuilt = rebuilder().rebuild(marker, look_only=look_only, adopt=_flag(fields, "existingThings"))
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


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise FieldInvalidError(name)
    return value


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
        thing=_matching(entry, "thing", _PATTERN),
        uses=_integer(entry, "uses", 1, 1, _MAX_USES),
        ttl_seconds=_ttl(entry),
        existing_thing=_flag(entry, "existingThing"),
        deactivate_existing=_flag(entry, "deactivateExisting"),
        replaces_key=False,
        ek_sha256=_fingerprint(entry),
    )


def _replacement_request(fields: dict[str, Any]) -> InviteRequest:
    from enrollment_backend.operator import InviteRequest

    if not fields.keys() <= _REPLACEMENT_FIELDS:
        raise FieldInvalidError("body")
    return InviteRequest(
        thing=_matching(fields, "thing", _NAME),  # one key is replaced by one key
        uses=1,
        ttl_seconds=_ttl(fields),
        existing_thing=False,
        deactivate_existing=False,
        replaces_key=True,
        ek_sha256=_fingerprint(fields),
    )


def _fingerprint(fields: dict[str, Any]) -> str | None:
    return _matching(fields, "ekSha256", _FINGERPRINT) if "ekSha256" in fields else None


def _matching(fields: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    text = fields.get(name)
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise FieldInvalidError(name)
    return text


def _ttl(fields: dict[str, Any]) -> int:
    return _integer(fields, "ttlSeconds", _DEFAULT_TTL, _MIN_TTL, _MAX_TTL)


def _integer(entry: dict[str, Any], name: str, default: int, minimum: int, maximum: int) -> int:
    value = entry.get(name, default)
    if type(value) is not int or not minimum <= value <= maximum:  # `isinstance` would accept True
        raise FieldInvalidError(name)
    return value


def _page(event: Event, statuses: Iterable[str]) -> Page:
    from enrollment_backend.operator import Page

    status, prefix, limit = (parameter(event, name) for name in ("status", "prefix", "limit"))
    if status is not None and status not in statuses:
        raise FieldInvalidError("status")
    if prefix is not None and not _NAME.fullmatch(prefix):
        raise FieldInvalidError("prefix")
    if limit is not None and not (_LIMIT.fullmatch(limit) and int(limit) <= _MAX_PAGE_SIZE):
        raise FieldInvalidError("limit")
    return Page(status, prefix, _position(event), int(limit or _DEFAULT_PAGE_SIZE))


def _marker(position: Position | None) -> str | None:
    """Return a position in a list as a text, which says nothing to clients."""
    return None if position is None else f"{position[0]}.{position[1]}"


def _position(event: Event) -> Position | None:
    """Return the position in the parameter `next`, which `_marker` wrote."""
    marker = parameter(event, "next")
    if marker is None:
        return None
    matched = _POSITION.fullmatch(marker)
    if matched is None:
        raise FieldInvalidError("next")
    return int(matched[1]), matched[2]


def _names(event: Event) -> list[str] | None:
    text = parameter(event, "things")
    names = None if text is None else text.split(",")
    if names is not None and (len(names) > _MAX_NAMES or not all(_NAME.fullmatch(name) for name in names)):
        raise FieldInvalidError("things")
    return names


def _parameter(event: Event, name: str) -> str | None:
    value = parameter(event, name)
    if value is not None and not _is_key(value):
        raise FieldInvalidError(name)
    return value


def _is_key(text: str) -> bool:
    """Whether a text can be a name or an id; all of them are ASCII."""
    return text.isascii() and 1 <= len(text) <= _MAX_KEY_LENGTH


def _required(event: Event, name: str) -> str:
    value = _parameter(event, name)
    if value is None:
        raise FieldInvalidError(name)
    return value


def _invite(invite: Invite, now: float) -> dict[str, Any]:
    from enrollment_backend.items import invite_status

    fingerprint = {} if invite.ek_sha256 is None else {"ekSha256": invite.ek_sha256}
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
        **fingerprint,
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
        "renewed": None if entry.renewed is None else timestamp(entry.renewed),
        "renewalDue": entry.renewal_due,
        "renewalPending": entry.renewal_pending,
    }
