"""What the pages say: every text in every language, and none that no page uses."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Formatter

import pytest

from hsm_enroll.operator.last_seen import Unknown
from hsm_enroll.web import invites, things
from hsm_enroll.web.texts import LANGUAGES, catalogue
from tests.support.openapi import SPEC

_ROOM = Path(str(files("hsm_enroll.web")))
# A key in a template or module; one that ends in a dot is the beginning of keys that are put together.
_KEY = re.compile(r"""["']([a-z]+\.(?:[a-z_0-9]+)?)["']""")

_BECAUSE = SPEC["components"]["schemas"]["Thing"]["properties"]["renewalUndoneBecause"]["enum"]
_UNDONE = {f"undone.{because}" for because in _BECAUSE if because}


def _values(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_all_languages_have_the_same_texts() -> None:
    """The same keys, each with the same values in it, and none is empty; errors are English as they are."""
    first, *others = (
        {key: _values(text) for key, text in catalogue(name).texts.items() if not key.startswith("error.")}
        for name in LANGUAGES
    )
    assert others == [first]
    assert all(text.strip() for name in LANGUAGES for text in catalogue(name).texts.values())


def test_languages_differ() -> None:
    """A text is the same in two languages only if it has no words to translate."""
    english, japanese = (catalogue(name).texts for name in ("en", "ja"))
    same = {key for key in english if english[key] == japanese[key]}
    assert same == {*("page.title", "column.tpm", "column.id", "renewal.none", "seen.unknown", "invites.nothing")}


def test_every_text_is_used_and_every_used_text_exists() -> None:
    """The templates and modules name the keys of the catalogue, and no others."""
    known = set(catalogue("en").texts)
    groups = {key.partition(".")[0] for key in known}
    named = {
        key
        for file in (*_ROOM.glob("templates/*.html"), *_ROOM.glob("*.py"))
        for key in _KEY.findall(file.read_text())
        if key.partition(".")[0] in groups and not key.endswith(".html")
    }
    whole, beginnings = {key for key in named if not key.endswith(".")}, {key for key in named if key.endswith(".")}
    assert whole - known == set()
    put_together = {key for key in known if key.startswith(tuple(beginnings))}
    units = {f"{group}.{unit}" for group in ("age", "ago") for unit in ("minutes", "hours", "days")}
    words = {f"status.{word}" for word in (*things.STATUSES, *invites.STATUSES)} | _UNDONE
    assert known - whole - put_together - units - words == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_of_the_backend_has_its_text(language: str) -> None:
    """Statuses, reasons and lifetimes are translated; a status of a later backend is shown as it is."""
    text = catalogue(language)
    wanted = [
        *(f"status.{word}" for word in (*things.STATUSES, *invites.STATUSES)),
        *(f"seen.{reason.value}" for reason in Unknown),
        *(f"ttl.{one}" for one in invites.LIFETIMES),
        *(f"renewal.{state}" for state in ("pending", "due", "none")),
        *_UNDONE,
    ]
    assert set(wanted) <= set(text.texts)
    assert text.known("status", "parked") == "parked"
