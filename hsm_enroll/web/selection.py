"""Which part of a list a page shows: the filters and the page token in its address."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from flask import request

from hsm_enroll.operator import names

PAGE_SIZE = 50

# The backend may answer with an empty page that is followed by another, where few entries match.
_MOST_EMPTY_PAGES = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for; None is everything.

    Attributes:
        prefix: what names of Things begin with.
        status: of the entries.
        attested: ``yes`` or ``no``.
        token: of the page; None is the first one.
    """

    prefix: str | None
    status: str | None
    attested: str | None
    token: str | None

    @classmethod
    def asked(cls, statuses: Collection[str]) -> Self:
        """Read it from the request's address; a status that the list does not have is left out."""
        prefix, status, attested = (request.args.get(name, "").strip() for name in ("prefix", "status", "attested"))
        return cls(
            prefix=prefix.removesuffix("*") or None,
            status=status if status in statuses else None,
            attested=attested if attested in {"yes", "no"} else None,
            token=request.args.get("next") or None,
        )

    def check(self) -> None:
        """Check the prefix.

        Raises:
            UsageError: names of Things cannot begin with it.
        """
        if self.prefix is not None:
            names.check_prefix(self.prefix)

    @property
    def filters(self) -> dict[str, str]:
        """The parameters of an address with the same filters."""
        given = {"prefix": self.prefix, "status": self.status, "attested": self.attested}
        return {name: value for name, value in given.items() if value is not None}


def filled(page: Callable[[Selection], tuple[list[T], str | None]], selection: Selection) -> tuple[list[T], str | None]:
    """Return the entries of a page and the next page's token; empty pages are skipped, up to a limit."""
    found, following = page(selection)
    for _ in range(_MOST_EMPTY_PAGES):
        if found or following is None:
            break
        found, following = page(replace(selection, token=following))
    return found, following
