"""Whether this machine's clock can be right. Pure: the time is an argument.

Gateways without a battery for their clock start in 1970, or at another time that the factory chose. AWS IoT's own
certificates are valid until the end of 2049, so only a wrong clock can be past that while this version is in use.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hsm_enroll.errors import BackendRefusedError, ClockError, HsmEnrollError

if TYPE_CHECKING:
    from asn1crypto.x509 import Certificate

_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
_LATEST = datetime(2049, 1, 1, tzinfo=UTC)
# A clock that is only slow makes a new certificate look as if it were not valid yet.
_TOLERANCE = timedelta(days=1)
# IAM user guide, "Troubleshoot Signature Version 4": most of AWS's services accept no older signature.
_SIGNED_TOLERANCE = timedelta(minutes=5)


def is_plausible(now: datetime) -> bool:
    """Whether a clock that shows this time, with a time zone, may be right."""
    return _EARLIEST <= now <= _LATEST


def check(now: datetime, certificate: Certificate | None = None) -> None:
    """Refuse a clock that cannot be right.

    Args:
        now: what it shows, with a time zone.
        certificate: one that was issued in the past, such as this device's; None if there is none.

    Raises:
        ClockError: it is outside the years in which this version can be in use, or more than a day before the
            certificate's notBefore (RFC 5280 §4.1.2.5).
    """
    shown = f"this machine's clock is wrong: it says {now:%Y-%m-%d}"
    if not is_plausible(now):
        raise ClockError(shown)
    if certificate is not None and now < certificate.not_valid_before - _TOLERANCE:
        begin = certificate.not_valid_before
        raise ClockError(f"{shown}, but this device's certificate was issued on {begin:%Y-%m-%d}")


def check_end(end: datetime, now: datetime, api: datetime | None) -> None:
    """Refuse a clock by which a certificate has ended, if the API's clock says that it has not.

    Args:
        end: the certificate's notAfter.
        now: what this machine's clock shows.
        api: what the API's shows; None if it does not say.

    Raises:
        ClockError: this machine's clock is wrong.
    """
    if api is not None and api < end:
        raise ClockError(f"this machine's clock is wrong: it says {now:%Y-%m-%d}, the API's says {api:%Y-%m-%d}")


def skew(now: datetime, api: datetime | None) -> HsmEnrollError:
    """Return the error for a proof that the API did not accept because of its time; it says whose clock is wrong.

    Args:
        now: what this machine's clock shows, with a time zone.
        api: what the API's shows; None if it does not say.
    """
    if api is None or not is_plausible(api):
        return BackendRefusedError(
            "the API's clock and this machine's are more than five minutes apart, and the API's cannot be right",
            problem_code="clock-skew",
            hint="Tell the operator of the backend.",
        )
    return _differing(now, api, "the API's")


def refuse_skew(now: datetime, aws: datetime | None) -> None:
    """Refuse a clock by which AWS would not accept what is signed with credentials.

    Args:
        now: what this machine's clock shows, with a time zone.
        aws: what AWS's shows; None if it does not say.

    Raises:
        ClockError: they are more than five minutes apart.
    """
    if aws is not None and abs(now - aws) > _SIGNED_TOLERANCE:
        raise _differing(now, aws, "AWS's")


def _differing(now: datetime, other: datetime, whose: str) -> ClockError:
    apart = now - other
    minutes = round(abs(apart) / timedelta(minutes=1))
    amount = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
    direction = "ahead of" if apart > timedelta(0) else "behind"
    return ClockError(f"this machine's clock is {amount} {direction} {whose}, which says {other:%Y-%m-%d %H:%M} UTC")
