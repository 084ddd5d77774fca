"""The JSON documents of ``init`` and ``status``, and their texts for a terminal."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hsm_enroll.device.outbox import what_waits, what_was_lost
from hsm_enroll.device.pending import Pending
from hsm_enroll.iot.device_topics import DeviceTopics
from hsm_enroll.store.forwarder import ForwarderState
from hsm_enroll.store.identity import Identity, certificate_file
from hsm_enroll.store.outbox import OutboxState
from hsm_enroll.x509.certificate import subject_text


def identity_document(identity: Identity, folder: Path, *, matches_certificate: bool | None) -> dict[str, Any]:
    """Return the document that ``init`` and ``status`` print; its topics are those of the built-in policy.

    Args:
        identity: the device's identity.
        folder: the state folder.
        matches_certificate: whether this run found that the token's public key is the certificate's; None if the token
            could not be asked.
    """
    certificate = identity.certificate
    origin = identity.key_origin
    return {
        "enrolled": True,
        "thingName": identity.thing_name,
        "certificate": {
            "id": identity.certificate_id,
            "sha256": hashlib.sha256(certificate.dump()).hexdigest(),
            "subject": subject_text(certificate.subject),
            "notBefore": instant(certificate.not_valid_before),
            "notAfter": instant(certificate.not_valid_after),
            "file": str(certificate_file(folder)),
        },
        "key": {
            "uri": str(identity.key_uri),
            "type": identity.key_type.value,
            "local": origin.local,
            "sensitive": origin.sensitive,
            "extractable": origin.extractable,
            "neverExtractable": origin.never_extractable,
            "alwaysSensitive": origin.always_sensitive,
            "matchesCertificate": matches_certificate,
        },
        "token": {
            "label": identity.token.label,
            "serial": identity.token.serial,
            "manufacturer": identity.token.manufacturer,
            "model": identity.token.model,
            "module": str(identity.token.module),
        },
        "api": identity.api,
        "mqtt": {"endpoint": identity.mqtt_endpoint, "port": identity.mqtt_port},
        "roleAlias": None if identity.role_alias is None else identity.role_alias._asdict(),
        "topics": DeviceTopics.of(identity.thing_name)._asdict(),
        "attested": identity.attested,
    }


def pending_document(pending: Pending | None) -> dict[str, Any] | None:
    """Return what ``status`` prints of what is not finished; None if nothing."""
    if pending is None:
        return None
    return {
        "what": pending.what.value,
        "thingName": pending.thing_name,
        "keyType": pending.key_type.value,
        "token": pending.token_label,
    }


def outbox_document(outbox: OutboxState | None) -> dict[str, Any] | None:
    """Return what ``status`` prints of the outbox; None if it cannot be read."""
    if outbox is None:
        return None
    return {
        "messages": outbox.messages,
        "bytes": outbox.bytes,
        "oldestAge": None if outbox.oldest_age is None else round(outbox.oldest_age, 3),
        "refused": outbox.refused,
        "refusedBytes": outbox.refused_bytes,
        "dropped": outbox.dropped,
        "expired": outbox.expired,
        "damagedFiles": [str(file) for file in outbox.damaged_files],
    }


def forward_document(forwarder: ForwarderState) -> dict[str, Any]:
    """Return what ``status`` prints of ``hsm-enroll forward``."""
    report = forwarder.report
    error = report.last_error
    since = report.connected_since if forwarder.is_responding else None
    return {
        "running": forwarder.is_running,
        "responding": forwarder.is_responding,
        "connected": since is not None,
        "connectedSince": None if since is None else instant(since),
        "rate": report.rate,
        "repeated": report.repeated,
        "received": report.received,
        "unread": report.unread,
        "lastError": None if error is None else {"code": error.code, "message": error.message, "at": instant(error.at)},
    }


def outbox_text(outbox: OutboxState | None, forwarder: ForwarderState) -> str:
    """Return the rows about outbox and forwarder; "" on a device that does not use them."""
    if outbox is None or not (outbox.messages or what_was_lost(outbox) or forwarder.is_running):
        return ""
    rows = {
        "Outbox": what_waits(outbox),
        "": what_was_lost(outbox) + ("; see hsm-enroll outbox refused" if outbox.refused_bytes else ""),
        "Forward": forwarder.text,
        " ": _last_error_text(forwarder),
    }
    return "\n".join(f"{name:<12} {value}" for name, value in rows.items() if value)


def _last_error_text(forwarder: ForwarderState) -> str:
    error, since = forwarder.report.last_error, forwarder.report.connected_since
    if error is None:
        return ""
    # A filter may be refused, or a disk full, while there is a connection.
    is_over = forwarder.is_responding and since is not None and error.at < since
    when = "before that, at" if is_over else "last error at"
    return f"{when} {error.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {error.message}"


def identity_text(document: dict[str, Any]) -> str:
    """Return an identity document as text."""
    certificate, key, mqtt = document["certificate"], document["key"], document["mqtt"]
    topics = document["topics"]
    is_kept = key["local"] and not key["extractable"]
    origin = "generated in the token, cannot leave it" if is_kept else "NOT generated in the token, or can leave it"
    rows = {
        "Thing": document["thingName"],
        "Certificate": certificate["id"],
        "": f"valid until {certificate['notAfter'][:10]}, in {certificate['file']}",
        "Key": f"{key['type']}, {origin}",
        " ": key["uri"],
        "Attested": "the API has proof that the key is in a TPM" if document["attested"] else "",
        "MQTT": f"{mqtt['endpoint']}:{mqtt['port']}",
        "Topics": f"{topics['own']}, {topics['hello']}",
        "  ": f"{topics['shadow']}, {topics['jobs']}",
    }
    return "\n".join(f"{name:<12} {value}" for name, value in rows.items() if value)


def other_keys_text(count: int) -> str:
    """Return what to do about keys in the token beside this device's own, for a person."""
    many = "another key" if count == 1 else f"{count} other keys"
    return f"The token has {many} of hsm-enroll. To destroy those that are not used: hsm-enroll token prune"


def instant(moment: datetime) -> str:
    """Return a time, which has a time zone, as the documents have it: in UTC, to the second (RFC 3339)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
