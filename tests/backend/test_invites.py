"""Enrollment codes as such: how they are made, read and kept, with no AWS and no HTTP."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from itertools import count
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollment_backend import invites
from tests.support.deployment import Deployment

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32
SAMPLES = json.loads((Path(__file__).parents[1] / "contract" / "samples" / "invite-codes.json").read_text("utf-8"))
LOOK_ALIKES = {"0": "0Oo", "1": "1IiLl"}


def code_from(number: int) -> str:
    """Return a code made while the random numbers are this one and those that follow."""
    with mock.patch("enrollment_backend.invites.secrets.randbits", side_effect=count(number)):
        return invites.create_code()


codes = st.integers(0, 2**120 - 100).map(code_from)


def plain(code: str) -> str:
    """Return a code without its dashes."""
    return code.replace("-", "")


@given(codes)
def test_a_code_is_five_groups_of_five_ordinary_characters(code: str) -> None:
    """Every code can be read aloud and typed: dashes, digits and capitals without I, L, O and U, nothing else."""
    assert re.fullmatch(rf"[{ALPHABET}]{{5}}(-[{ALPHABET}]{{5}}){{4}}", code)


def test_codes_differ_in_every_place() -> None:
    """None is made twice, and each of the 24 random characters takes every value."""
    made = [plain(invites.create_code()) for _ in range(2000)]
    assert len(set(made)) == len(made)
    for place in range(24):
        assert {code[place] for code in made} == set(ALPHABET)


@given(codes, st.data())
def test_s12_case_spaces_dashes_and_look_alikes_do_not_matter(code: str, data: st.DataObject) -> None:
    """S12: however it is written down, it is the same code, and its hash that of the normalized characters."""
    written = ""
    for symbol in plain(code):
        alike = LOOK_ALIKES.get(symbol, symbol + symbol.lower())
        written += data.draw(st.sampled_from(["", "-", " ", "- -"])) + data.draw(st.sampled_from(alike))
    expected = sha256(plain(code).encode("ascii")).hexdigest()
    assert invites.code_sha256(code) == invites.code_sha256(written) == expected
    assert invites.invite_id(expected) == expected[:16]


@given(codes)
def test_s12_every_single_wrong_character_is_found(code: str) -> None:
    """S12: the check character finds all 25 x 31 ways of getting one character wrong."""
    right = plain(code)
    for place, symbol in enumerate(right):
        for wrong in set(ALPHABET) - {symbol}:
            assert invites.code_sha256(right[:place] + wrong + right[place + 1 :]) is None


@given(codes)
def test_s12_every_swap_of_neighbours_is_found(code: str) -> None:
    """S12: so it does with two neighbours that have changed places, the check character's own included."""
    right = plain(code)
    for place in range(len(right) - 1):
        swapped = right[:place] + right[place + 1] + right[place] + right[place + 2 :]
        assert swapped == right or invites.code_sha256(swapped) is None


@given(codes, st.integers(0, 24))
def test_s12_a_character_too_many_or_too_few_is_found(code: str, place: int) -> None:
    """S12: a code has 25 characters."""
    right = plain(code)
    assert invites.code_sha256(right[:place] + right[place + 1 :]) is None
    assert invites.code_sha256(right[:place] + right[place] + right[place:]) is None


@given(st.text())
def test_no_text_brings_the_reading_down(written: str) -> None:
    """What is no code has no hash; what has one is 25 of the characters once normalized."""
    assert invites.code_sha256(written) is None or len(written) >= 25


def test_what_is_endless_is_not_looked_at() -> None:
    """A code may be written with blanks in it, to 200 characters in all."""
    code = invites.create_code()
    assert invites.code_sha256(code + " " * (200 - len(code))) == invites.code_sha256(code)
    assert invites.code_sha256(code + " " * (201 - len(code))) is None


@pytest.mark.parametrize("sample", SAMPLES["valid"], ids=lambda sample: sample["written"])
def test_a_code_is_read_as_the_contract_says(sample: dict[str, str]) -> None:
    """Client and backend read every valid sample alike."""
    assert invites.code_sha256(sample["written"]) == sha256(sample["normalized"].encode("ascii")).hexdigest()


@pytest.mark.parametrize("written", SAMPLES["invalid"], ids=ascii)
def test_what_the_contract_calls_no_code_is_none(written: str) -> None:
    """Client and backend refuse every invalid sample."""
    assert invites.code_sha256(written) is None


@pytest.mark.parametrize(
    ("pattern", "thing", "expected"),
    [
        ("press-17", "press-17", True),
        ("press-17", "press-170", False),
        ("press-17", "Press-17", False),
        ("line3-*", "line3-1", True),
        ("line3-*", "line3-", True),
        ("line3-*", "line3", False),
        ("line3-*", "line33-1", False),
        ("*", "anything", True),
    ],
)
def test_a_pattern_is_a_name_or_a_beginning(pattern: str, thing: str, expected: bool) -> None:
    """S12: without an asterisk the name is the name, to the letter."""
    assert invites.matches(pattern, thing) is expected


def test_the_backend_keeps_the_hash_alone(backend: Deployment) -> None:
    """Neither the table nor the log has the code, with dashes or without; the table has its hash."""
    code = backend.invite("press-17")
    (entry,) = backend.items("invite").values()
    assert entry["code_sha256"] == invites.code_sha256(code)
    kept = repr(entry) + backend.log.getvalue()
    assert code not in kept
    assert plain(code) not in kept.upper()
    assert not any(group in kept.upper() for group in code.split("-"))
