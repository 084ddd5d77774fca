"""The operators' routes about TPMs: the manifest of endorsement keys, and the CAs of EK certificates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from enrollment_backend.errors import FieldInvalidError
from enrollment_backend.http import Event, Response, Routes, json_body, json_response, operator_of, timestamp
from enrollment_backend.operator_fields import NAME, SHA256, key, marker, matching, page

if TYPE_CHECKING:
    from enrollment_backend.known_tpms import Authority, KnownTpms, ListedKey

_MAX_KEYS = 100  # in one request


def routes(tpms: Callable[[], KnownTpms]) -> Routes:
    """Return the routes.

    Args:
        tpms: returns the use cases; called only when a request needs them.
    """
    return {
        "/v1/operator/eks": {
            "POST": partial(_import_keys, tpms),
            "GET": partial(_list_keys, tpms),
            "DELETE": partial(_forget_key, tpms),
        },
        "/v1/operator/ek-authorities": {
            "POST": partial(_add_authority, tpms),
            "GET": partial(_list_authorities, tpms),
            "DELETE": partial(_remove_authority, tpms),
        },
    }


def _import_keys(tpms: Callable[[], KnownTpms], event: Event) -> Response:
    caller = operator_of(event)
    fields = json_body(event)
    entries = fields.get("keys")
    if fields.keys() != {"keys"} or not isinstance(entries, list) or not 1 <= len(entries) <= _MAX_KEYS:
        raise FieldInvalidError("keys")
    things = dict(map(_entry, entries))
    if len(things) < len(entries):
        raise FieldInvalidError("keys")
    imported = tpms().import_keys(things, caller)
    content = {
        "added": imported.added,
        "unchanged": imported.unchanged,
        "conflicts": [{"ekSha256": one.ek_sha256, "thing": one.thing} for one in imported.conflicts],
    }
    return json_response(HTTPStatus.OK, content)


def _entry(entry: object) -> tuple[str, str]:
    if not isinstance(entry, dict) or entry.keys() != {"ekSha256", "thing"}:
        raise FieldInvalidError("keys")
    return matching(entry, "ekSha256", SHA256), matching(entry, "thing", NAME)


def _list_keys(tpms: Callable[[], KnownTpms], event: Event) -> Response:
    operator_of(event)
    wanted = page(event)
    listed, position = tpms().list_keys(wanted.prefix, wanted.after, wanted.size)
    return json_response(HTTPStatus.OK, {"keys": [_listed(one) for one in listed], "next": marker(position)})


def _forget_key(tpms: Callable[[], KnownTpms], event: Event) -> Response:
    caller = operator_of(event)
    tpms().forget_key(_fingerprint(event, "ekSha256"), caller)
    return Response(HTTPStatus.NO_CONTENT)


def _add_authority(tpms: Callable[[], KnownTpms], event: Event) -> Response:
    caller = operator_of(event)
    fields = json_body(event)
    pem = fields.get("certificate")
    if fields.keys() != {"certificate", "sha256"} or not isinstance(pem, str):
        raise FieldInvalidError("certificate")
    added = tpms().add_authority(pem, matching(fields, "sha256", SHA256), caller)
    return json_response(HTTPStatus.CREATED, _authority(added))


def _list_authorities(tpms: Callable[[], KnownTpms], event: Event) -> Response:
    operator_of(event)
    return json_response(HTTPStatus.OK, {"authorities": [_authority(one) for one in tpms().list_authorities()]})


def _remove_authority(tpms: Callable[[], KnownTpms], event: Event) -> Response:
    caller = operator_of(event)
    tpms().remove_authority(_fingerprint(event, "sha256"), caller)
    return Response(HTTPStatus.NO_CONTENT)


def _fingerprint(event: Event, name: str) -> str:
    value = key(event, name)
    if value is None or not SHA256.fullmatch(value):
        raise FieldInvalidError(name)
    return value


def _listed(one: ListedKey) -> dict[str, Any]:
    return {
        "ekSha256": one.ek_sha256,
        "thing": one.thing,
        "created": timestamp(one.created),
        "createdBy": one.created_by,
    }


def _authority(one: Authority) -> dict[str, Any]:
    return {
        "sha256": one.sha256,
        "subject": one.subject,
        "root": one.root,
        "notAfter": timestamp(one.not_after),
        "created": timestamp(one.created),
        "createdBy": one.created_by,
    }
