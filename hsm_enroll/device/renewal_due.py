"""Whether a renewal is due. A timer asks that every day, so this loads no more than the identity."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from hsm_enroll.device import clock
from hsm_enroll.store.renewal import Renewal

if TYPE_CHECKING:
    from hsm_enroll.settings import Settings
    from hsm_enroll.store.identity import Identity


class Due(NamedTuple):
    """Whether a renewal is due.

    Attributes:
        at: when it is, with a time zone.
        is_unfinished: whether an earlier run has begun one.
        is_now: whether it is due now, or unfinished.
    """

    at: datetime
    is_unfinished: bool
    is_now: bool


def due(identity: Identity, settings: Settings, now: datetime) -> Due:
    """Return whether the renewal of the identity in the state folder is due.

    Raises:
        ClockError: the time cannot be right.
        StateError, StateCorruptError, StateTooNewError: the journal of a renewal cannot be used.
    """
    clock.check(now, identity.certificate)
    at = due_at(identity, after_days=settings.renew_after_days, at_lifetime_share=settings.renew_at_lifetime_share)
    is_unfinished = Renewal.load(settings.state) is not None
    return Due(at, is_unfinished, is_now=is_unfinished or at <= now)


def due_at(identity: Identity, *, after_days: int, at_lifetime_share: float) -> datetime:
    """Return when the renewal of an identity is due, with a time zone: at an age, or late in its certificate's life.

    AWS IoT's certificates are valid until the end of 2049, so for them it is the age that counts.

    Args:
        identity: the device's identity.
        after_days: the certificate's age in days, from its notBefore (RFC 5280 §4.1.2.5); 0 is never.
        at_lifetime_share: the share of its lifetime, above 0 and up to 1.
    """
    begin, end = identity.certificate.not_valid_before, identity.certificate.not_valid_after
    late: datetime = begin + (end - begin) * at_lifetime_share
    return min(late, begin + timedelta(days=after_days)) if after_days else late
