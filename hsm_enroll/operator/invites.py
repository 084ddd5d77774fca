"""The rules for a new invite (``lambda/openapi.yaml``), checked before a request is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hsm_enroll.errors import UsageError
from hsm_enroll.operator import fingerprints

MOST_IN_A_REQUEST = 100
LARGEST_BODY_BYTES = 16 * 1024  # of any request to the API
DEFAULT_TTL_SECONDS = 24 * 3600

# A Thing's name is its certificate's CN, of at most 64 characters (RFC 5280, upper bound ub-common-name).
_THING = re.compile(r"[a-zA-Z0-9:_-]{1,64}|[a-zA-Z0-9:_-]{0,63}\*")
_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,64}")
_ID = re.compile(r"[0-9a-f]{16}")
_TTL = re.compile(r"([0-9]{1,9})([mhd])")
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_SHORTEST_SECONDS = 60
_LONGEST_SECONDS = 365 * 86400
_MOST_USES = 1_000_000


@dataclass(frozen=True, slots=True)
class NewInvite:
    """An invite to be made.

    Args:
        thing: a Thing's name ``[a-zA-Z0-9:_-]{1,64}``, or a prefix of names followed by ``*``.
        uses: how many Things may be enrolled with it, 1 to 1,000,000; more than 1 only for a prefix.
        ttl_seconds: how long it is valid, one minute to 365 days.
        ek_sha256: SHA-256 of the endorsement key of the one TPM that it is for (a DER SubjectPublicKeyInfo), or of that
            key's DER certificate, in hexadecimal, perhaps with colons; None is any device.
        require_tpm: whether the key has to be proven to be in a TPM, which ``ek_sha256`` implies.
        reuse_tpm: whether that TPM may be another Thing's already.
        existing_thing: whether it may take over a Thing that exists in AWS IoT and is unknown to the backend.
        deactivate_existing: whether the certificates that such a Thing had before are then made inactive.

    Raises:
        UsageError: a value is invalid; the message does not repeat it.
    """

    thing: str
    uses: int = 1
    ttl_seconds: int = DEFAULT_TTL_SECONDS
    ek_sha256: str | None = None
    existing_thing: bool = False
    deactivate_existing: bool = False
    require_tpm: bool = False
    reuse_tpm: bool = False

    def __post_init__(self) -> None:
        if not _THING.fullmatch(self.thing):
            raise UsageError(
                "thing is not a valid Thing name",
                hint="A name has 1 to 64 of the characters a-z A-Z 0-9 : _ -, and a prefix of names ends in *.",
                reason="thing-name",
            )
        if not 1 <= self.uses <= _MOST_USES:
            raise UsageError("uses must be a number, 1 or more", hint=f"At most {_MOST_USES:,}.", reason="uses")
        if self.uses > 1 and not self.thing.endswith("*"):
            raise UsageError(
                "more than one use needs a prefix of names",
                hint="One Thing needs one use; a prefix ends in *.",
                reason="uses-of-prefix",
            )
        _check_ttl(self.ttl_seconds)
        if self.deactivate_existing and not self.existing_thing:
            raise UsageError(
                "deactivate_existing needs existing_thing", hint="A Thing that does not exist has no certificates."
            )
        _tpm_members(self)

    def to_json(self) -> dict[str, Any]:
        """Return an item of the request's ``invites``."""
        members: dict[str, Any] = {"thing": self.thing, "uses": self.uses, "ttlSeconds": self.ttl_seconds}
        members |= _tpm_members(self)
        if self.existing_thing:
            members["existingThing"] = True
        if self.deactivate_existing:
            members["deactivateExisting"] = True
        return members


@dataclass(frozen=True, slots=True)
class NewReplacement:
    """An invite to be made for a Thing that is in the ledger, whose key is then replaced by the new one.

    Args:
        thing: the Thing's name ``[a-zA-Z0-9:_-]{1,64}``.
        ttl_seconds: how long it is valid, one minute to 365 days.
        ek_sha256, require_tpm, reuse_tpm: as in `NewInvite`.

    Raises:
        UsageError: a value is invalid; the message does not repeat it.
    """

    thing: str
    ttl_seconds: int = DEFAULT_TTL_SECONDS
    ek_sha256: str | None = None
    require_tpm: bool = False
    reuse_tpm: bool = False
    uses: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.thing):
            raise UsageError(
                "thing is not a valid Thing name",
                hint="Give the name of one Thing, 1 to 64 of the characters a-z A-Z 0-9 : _ -, without a *.",
                reason="thing-name",
            )
        _check_ttl(self.ttl_seconds)
        _tpm_members(self)

    def body(self) -> bytes:
        """Return the body of the request."""
        return _compact({"thing": self.thing, "ttlSeconds": self.ttl_seconds, **_tpm_members(self)})


def _tpm_members(invite: NewInvite | NewReplacement) -> dict[str, Any]:
    """Return what an invite says about TPMs, as members of the request; raise a UsageError if that is invalid."""
    members: dict[str, Any] = {}
    if invite.ek_sha256 is not None:
        members["ekSha256"] = fingerprints.sha256(invite.ek_sha256, "ek_sha256")
    if invite.require_tpm:
        members["requireTpm"] = True
    if invite.reuse_tpm:
        members["reuseTpm"] = True
    return members


def _check_ttl(seconds: int) -> None:
    if not _SHORTEST_SECONDS <= seconds <= _LONGEST_SECONDS:
        raise UsageError("ttl must be between 1m and 365d", hint="Give a time like 30m, 24h or 7d.", reason="ttl")


def check_id(text: str) -> None:
    """Check that a text can be an invite's ID.

    Raises:
        UsageError: it cannot. The message does not repeat it: it may be the code of an invite.
    """
    if not _ID.fullmatch(text):
        raise UsageError(
            "that is not the ID of an invite",
            hint="An ID has 16 hexadecimal digits in lower case; hsm-enroll invite list shows it.",
            reason="invite-id",
        )


def body(invites: Sequence[NewInvite]) -> bytes:
    """Return the body of the request. Does *not* check its size; :func:`fitting` does."""
    return _compact({"invites": [invite.to_json() for invite in invites]})


def fitting(invites: Sequence[NewInvite]) -> int:
    """Return how many of the first invites fit into one request: 100, or fewer if the body would be too large."""
    size = len(body([]))
    for count, invite in enumerate(invites[:MOST_IN_A_REQUEST]):
        size += len(_compact(invite.to_json())) + 1
        if size > LARGEST_BODY_BYTES:
            return count
    return min(len(invites), MOST_IN_A_REQUEST)


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("utf-8")


def ttl_seconds(text: str) -> int:
    """Parse a time like ``30m``, ``24h`` or ``7d``. Does *not* check its bounds; :class:`NewInvite` does.

    Raises:
        UsageError: it is not a time.
    """
    match = _TTL.fullmatch(text)
    if match is None:
        raise UsageError("ttl is not a valid time", hint="Give a time like 30m, 24h or 7d.", reason="ttl")
    return int(match[1]) * _UNIT_SECONDS[match[2]]
