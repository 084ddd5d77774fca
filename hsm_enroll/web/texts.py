"""What the pages say, in every language: one catalogue each, in the folder ``texts``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

LANGUAGES = {"en": "English", "ja": "日本語"}
DEFAULT_LANGUAGE = "en"


class Catalogue:
    """The texts of one language.

    Args:
        texts: by key; ``{name}`` stands for a value.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def __call__(self, key: str, **values: object) -> str:
        """Return a text with its values in place.

        Raises:
            KeyError: there is no such text, or a value is missing.
        """
        return self._texts[key].format(**values)

    def known(self, group: str, word: str) -> str:
        """Return the text for a word of the backend, or the word itself: a later backend may have more words."""
        return self._texts.get(f"{group}.{word}", word)

    @property
    def texts(self) -> Mapping[str, str]:
        """All texts by their keys."""
        return self._texts


@cache
def catalogue(language: str) -> Catalogue:
    """Return the catalogue of one of the languages."""
    content = files("hsm_enroll.web").joinpath("texts", f"{language}.toml").read_text(encoding="utf-8")
    return Catalogue(
        {f"{group}.{key}": text for group, texts in tomllib.loads(content).items() for key, text in texts.items()}
    )
