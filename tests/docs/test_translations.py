"""The Japanese pages beside the English ones: the same blocks, sections, links and tables."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import TRANSLATIONS, Page, page

_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")

_pairs = pytest.mark.parametrize(
    ("japanese", "english"),
    [(page(name), page(original)) for name, original in TRANSLATIONS.items()],
    ids=list(TRANSLATIONS),
)


def _levels(translated: Page) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", translated.prose, re.MULTILINE)]


def _targets(linking: Page) -> set[str]:
    """Return where its links lead, whichever of the two languages that is in."""
    return {target.replace(".ja.md", ".md") for target in linking.links}


def _rows(tabled: Page) -> list[int]:
    """Return how many columns each line of its tables has."""
    return [line.count("|") for line in tabled.prose.splitlines() if line.startswith("|")]


@_pairs
def test_the_blocks_are_the_same(japanese: Page, english: Page) -> None:
    """Every fenced block is there in both languages, in the same order, to the letter."""
    assert [(block.language, block.text) for block in japanese.blocks] == [
        (block.language, block.text) for block in english.blocks
    ]


@_pairs
def test_the_sections_are_the_same(japanese: Page, english: Page) -> None:
    """The headings have the same levels in the same order, and each can be linked to by the English one's anchor."""
    assert _levels(japanese) == _levels(english)
    title, *_ = re.findall(r"^# +(.+)$", english.prose, re.MULTILINE)
    marks = re.findall(r'^<a id="([^"]+)"></a>\n\n#+ ', japanese.prose, re.MULTILINE)
    assert len(marks) == len(_levels(english)) - 1
    assert set(marks) == english.anchors - {title.lower().replace(" ", "-")}


@_pairs
def test_the_links_and_tables_are_the_same(japanese: Page, english: Page) -> None:
    """Both link to the same pages, sections and pictures, and have tables of the same size."""
    assert _targets(japanese) == _targets(english)
    assert _rows(japanese) == _rows(english)


@_pairs
def test_each_leads_to_the_other(japanese: Page, english: Page) -> None:
    """The first link of each page is the same page in the other language."""
    assert english.links[0] == japanese.name.rpartition("/")[2]
    assert japanese.links[0] == english.name.rpartition("/")[2]


@_pairs
def test_a_japanese_page_keeps_to_japanese(japanese: Page, english: Page) -> None:
    """It leads to the Japanese page where there is one, and every heading is in Japanese, but for names."""
    own = {original.rpartition("/")[2] for original in TRANSLATIONS.values()}
    (_, *others) = [target.partition("#")[0].rpartition("/")[2] for target in japanese.links]
    assert own.isdisjoint(others), "an English page that there is in Japanese"
    titles = re.findall(r"^#+ +(.+)$", japanese.prose, re.MULTILINE)
    assert [title for title in titles if not _JAPANESE.search(title)] in (["hsm-enroll"], ["TPM"])
    assert _JAPANESE.search(english.prose.replace("[日本語]", "")) is None
