"""The pages about Things: the fleet, one Thing, and revoking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from flask import Blueprint, render_template, request

from hsm_enroll.errors import BackendRefusedError, HsmEnrollError, UsageError
from hsm_enroll.operator import names
from hsm_enroll.operator.last_seen import LastSeen, Sighting, Unknown
from hsm_enroll.operator.records import AttachedCertificate, ThingRecord
from hsm_enroll.web.selection import PAGE_SIZE, Selection, filled

if TYPE_CHECKING:
    from hsm_enroll.operator.api import OperatorClient

STATUSES = ("claimed", "issued", "revoked")


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one Thing that was to be revoked.

    Attributes:
        error: why it is not revoked; None if it is.
        tried: whether it was tried at all.
        active: ids of other certificates of the Thing, with which it can still connect.
    """

    thing: str
    error: HsmEnrollError | None = None
    tried: bool = True
    active: tuple[str, ...] = ()


class ThingPages:
    """The pages.

    Args:
        client: of the enrollment API; it takes one request at a time.
        last_seen: of AWS IoT.
        lock: held while one of them is used.
    """

    def __init__(self, client: OperatorClient, last_seen: LastSeen, lock: Lock) -> None:
        self._client = client
        self._last_seen = last_seen
        self._lock = lock

    def add_to(self, pages: Blueprint) -> None:
        """Add the routes."""
        pages.add_url_rule("/", "things", self._list)
        pages.add_url_rule("/things/<thing>", "thing", self._show)
        pages.add_url_rule("/revoke", "revoke", self._confirm)
        pages.add_url_rule("/revoke", "revoke_now", self._revoke, methods=["POST"])

    def _list(self) -> tuple[str, int]:
        selection = Selection.asked(STATUSES)
        found: list[ThingRecord] = []
        following, seen, error = None, None, None
        try:
            selection.check()
            with self._lock:
                found, following = filled(self._page, selection)
                seen = self._last_seen.of([one.thing for one in found]) if found else None
        except UsageError as mistake:
            if selection.prefix is None:
                raise
            error = mistake
        page = render_template(
            "things.html",
            things=found,
            following=following,
            selection=selection,
            statuses=STATUSES,
            error=error,
            **_seen(seen),
        )
        return page, 400 if error else 200

    def _page(self, selection: Selection) -> tuple[list[ThingRecord], str | None]:
        return self._client.thing_page(
            PAGE_SIZE,
            selection.token,
            status=selection.status,
            prefix=selection.prefix,
            attested=selection.attested,
        )

    def _show(self, thing: str) -> str:
        with self._lock:
            shown = self._client.show_thing(thing)
            seen = self._last_seen.of([thing])
        others = [one for one in shown.certificates or () if one.certificate_id != shown.thing.certificate_id]
        return render_template("thing.html", thing=shown.thing, others=others, **_seen(seen))

    def _confirm(self) -> str:
        return render_template("revoke.html", things=self._find(request.args.getlist("thing")))

    def _find(self, given: Sequence[str]) -> list[ThingRecord]:
        """Return the Things of these names; all of them have to exist."""
        wanted = names.checked(given)
        if not wanted:
            raise UsageError(
                "no Thing is selected", hint="Select Things in the list, then revoke them.", reason="none-selected"
            )
        with self._lock:
            found = self._client.find_things(wanted)
        known = {one.thing for one in found}
        if missing := [name for name in wanted if name not in known]:
            raise BackendRefusedError(
                f"the ledger has no Thing {missing[0]!r} (thing-unknown)",
                problem_code="thing-unknown",
                hint="Nothing was revoked. The list shows the Things that exist.",
            )
        return found

    def _revoke(self) -> str:
        found = self._find(request.form.getlist("thing"))
        everything = "all-certificates" in request.form
        outcomes: list[_Outcome] = []
        stopped = False
        for one in found:
            outcome = (
                _Outcome(one.thing, tried=False) if stopped else self._revoke_one(one.thing, everything=everything)
            )
            # What is refused is refused for one Thing. Anything else would fail for the others, too.
            stopped = stopped or not (outcome.error is None or isinstance(outcome.error, BackendRefusedError))
            outcomes.append(outcome)
        done = sum(outcome.tried and outcome.error is None for outcome in outcomes)
        return render_template("revoked.html", outcomes=outcomes, done=done)

    def _revoke_one(self, thing: str, *, everything: bool) -> _Outcome:
        try:
            with self._lock:
                others = self._client.revoke_thing(thing, all_certificates=everything)
        except HsmEnrollError as error:
            return _Outcome(thing, error)
        return _Outcome(thing, active=_active(others))


def _active(certificates: Sequence[AttachedCertificate]) -> tuple[str, ...]:
    return tuple(one.certificate_id for one in certificates if one.active)


def _seen(seen: dict[str, Sighting] | Unknown | None) -> dict[str, object]:
    """Return what a page shows about when Things were last seen: by their names, or why it is not known."""
    if isinstance(seen, Unknown):
        return {"seen": {}, "unseen": seen.value}
    return {"seen": seen or {}, "unseen": None}
