"""Times and states as the pages show them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from markupsafe import Markup

from hsm_enroll.operator.records import ThingRecord
from hsm_enroll.web.texts import Catalogue

_HOUR, _DAY = 60, 24 * 60  # minutes


def moment(when: datetime | None) -> Markup:
    """Return a time in UTC to the minute, or a dash."""
    if when is None:
        return Markup("-")
    utc = when.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(f"{utc:%Y-%m-%dT%H:%M:%SZ}", f"{utc:%Y-%m-%d %H:%M}")


def since(text: Catalogue, group: str, when: datetime, now: datetime) -> Markup:
    """Return how long ago a time was, in minutes, hours or days; the time itself is shown where one points at it.

    Args:
        text: the texts.
        group: of the texts for the units: ``age`` or ``ago``.
        when, now: with time zones.
    """
    minutes = max(0, int((now - when) / timedelta(minutes=1)))
    number, unit = (
        (minutes, "minutes")
        if minutes < _HOUR
        else (minutes // _HOUR, "hours")
        if minutes < 2 * _DAY
        else (minutes // _DAY, "days")
    )
    utc = when.astimezone(UTC)
    shown = text(f"{group}.{unit}", number=f"{number:,}")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        f"{utc:%Y-%m-%dT%H:%M:%SZ}", f"{utc:%Y-%m-%d %H:%M} UTC", shown
    )


def certified(thing: ThingRecord) -> datetime:
    """Return since when a Thing has its certificate, or without one its claim."""
    return thing.renewed or thing.enrolled or thing.claimed


def renewal(thing: ThingRecord) -> str:
    """Return the state of a Thing's renewal: ``pending``, ``due`` or ``none``."""
    return "pending" if thing.renewal_pending else "due" if thing.renewal_due else "none"
