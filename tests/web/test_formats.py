"""Times and states in a page's words."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hsm_enroll.operator.records import ThingRecord
from hsm_enroll.web import formats
from hsm_enroll.web.texts import catalogue

_NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("age", "shown"),
    [
        (timedelta(seconds=-5), "0 min"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=1), "1 h"),
        (timedelta(hours=47, minutes=59), "47 h"),
        (timedelta(days=2), "2 d"),
        (timedelta(days=1234), "1,234 d"),
    ],
)
def test_an_age_is_in_the_unit_that_fits(age: timedelta, shown: str) -> None:
    """Minutes, from an hour on hours, from two days on days; a clock that is a little behind makes none negative."""
    assert f">{shown}<" in formats.since(catalogue("en"), "age", _NOW - age, _NOW)


@pytest.mark.parametrize(
    ("renewed", "enrolled", "since"),
    [(None, None, 3), (None, 2, 2), (1, 2, 1)],
    ids=["claimed", "enrolled", "renewed"],
)
def test_the_age_is_that_of_the_last_certificate(renewed: int | None, enrolled: int | None, since: int) -> None:
    """Its renewal counts, or else its enrollment; a Thing without a certificate has the age of its claim."""
    members: dict[str, Any] = dict.fromkeys(field.name for field in fields(ThingRecord))
    for name, days in {"renewed": renewed, "enrolled": enrolled, "claimed": 3}.items():
        members[name] = None if days is None else _NOW - timedelta(days=days)
    assert formats.certified(ThingRecord(**members)) == _NOW - timedelta(days=since)
