"""Tells the operator that a renewal was undone: by one line in the log, which an alarm counts."""

from __future__ import annotations

from enrollment_backend import log
from enrollment_backend.claims import Claim, UndoneBecause


def tell(renewal: Claim, because: UndoneBecause) -> None:
    """Tell the operator that a renewal was undone, and why."""
    log.error("renewal-undone", thing=renewal.thing, spkiSha256=renewal.spki_sha256, because=because)
