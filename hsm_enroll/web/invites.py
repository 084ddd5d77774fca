"""The pages about invites: the list, the form for new ones, their labels, and revoking one."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from hsm_enroll.errors import HsmEnrollError, UsageError
from hsm_enroll.operator import names
from hsm_enroll.operator.invites import NewInvite, check_id, fitting, ttl_seconds
from hsm_enroll.operator.records import CreatedInvite, InviteRecord
from hsm_enroll.web.labels import Sheet, Sheets, qr_code
from hsm_enroll.web.selection import PAGE_SIZE, Selection, filled

if TYPE_CHECKING:
    from hsm_enroll.operator.api import OperatorClient

STATUSES = ("open", "used", "expired", "revoked")
LIFETIMES = ("1h", "24h", "7d", "30d")
DEFAULT_LIFETIME = "24h"

_MOST_AT_ONCE = 200  # labels in one document


class InvitePages:
    """The pages.

    Args:
        client: of the enrollment API; it takes one request at a time.
        lock: held while it is used.
        sheets: keeps new invites until they are shown.
    """

    def __init__(self, client: OperatorClient, lock: Lock, sheets: Sheets) -> None:
        self._client = client
        self._lock = lock
        self._sheets = sheets

    def add_to(self, pages: Blueprint) -> None:
        """Add the routes."""
        pages.add_url_rule("/invites", "invites", self._list)
        pages.add_url_rule("/invites/new", "new_invites", self._form)
        pages.add_url_rule("/invites/new", "create_invites", self._create, methods=["POST"])
        pages.add_url_rule("/labels/<sheet>", "labels", self._show)
        pages.add_url_rule("/invites/revoke", "revoke_invite", self._revoke, methods=["POST"])

    def _list(self) -> tuple[str, int]:
        selection = Selection.asked(STATUSES)
        found: list[InviteRecord] = []
        following, error = None, None
        try:
            selection.check()
            with self._lock:
                found, following = filled(self._page, selection)
        except UsageError as mistake:
            if selection.prefix is None:
                raise
            error = mistake
        page = render_template(
            "invites.html",
            invites=found,
            following=following,
            selection=selection,
            statuses=STATUSES,
            error=error,
            revoked=request.args.get("revoked"),
        )
        return page, 400 if error else 200

    def _page(self, selection: Selection) -> tuple[list[InviteRecord], str | None]:
        return self._client.invite_page(PAGE_SIZE, selection.token, status=selection.status, prefix=selection.prefix)

    def _form(self, error: HsmEnrollError | None = None) -> str:
        return render_template(
            "new-invites.html",
            error=error,
            things=request.values.get("things", ""),
            lifetime=request.values.get("ttl", DEFAULT_LIFETIME),
            lifetimes=LIFETIMES,
            uses=request.values.get("uses", "1"),
            require_tpm="require-tpm" in request.values,
            most=_MOST_AT_ONCE,
            number=secrets.token_urlsafe(12),
        )

    def _create(self) -> Response | tuple[str, int]:
        try:
            wanted = _wanted()
        except UsageError as error:
            return self._form(error), 400
        # A page of its own, so that loading it again does not create invites again.
        sheet = self._sheets.of_form(request.form, lambda: self._sheet(wanted))
        return redirect(url_for("pages.labels", sheet=sheet), 303)

    def _sheet(self, wanted: Sequence[NewInvite]) -> Sheet:
        made: list[CreatedInvite] = []
        failure = None
        try:
            while left := wanted[len(made) :]:
                with self._lock:
                    made += self._client.create_invites(left[: fitting(left)])
        except HsmEnrollError as error:
            if not made:
                raise
            failure = error
        return Sheet(made, [one.thing for one in wanted[len(made) :]], failure)

    def _show(self, sheet: str) -> str:
        taken = self._sheets.take(sheet)
        if taken is None:
            return render_template("labels-gone.html")
        labels = [(one, url, qr_code(url)) for one in taken.invites for url in [one.url(self._client.api_url)]]
        return render_template("labels.html", sheet=taken, labels=labels)

    def _revoke(self) -> Response:
        invite_id = request.form.get("id", "")
        check_id(invite_id)
        with self._lock:
            self._client.revoke_invite(invite_id)
        return redirect(url_for("pages.invites", revoked=invite_id), 303)


def _wanted() -> Sequence[NewInvite]:
    """Return the invites that the form asks for.

    Raises:
        UsageError: one of its fields is invalid; the message says which name it is, and quotes none.
    """
    lines = [line.strip() for line in request.form.get("things", "").splitlines()]
    if not any(lines):
        raise UsageError("no names are given", hint="Write one name per line.", reason="no-names")
    given = [*dict.fromkeys(names.read("\n".join(filter(None, lines)).encode("utf-8", "replace")))]
    if len(given) > _MOST_AT_ONCE:
        raise UsageError(
            f"{len(given):,} names are too many for one page of labels",
            hint=f"Give up to {_MOST_AT_ONCE} at a time, or use hsm-enroll invite create --from.",
            reason="too-many-names",
        )
    lifetime, uses = ttl_seconds(request.form.get("ttl", "")), _uses(request.form.get("uses", ""))
    wanted = []
    for position, name in enumerate(given, 1):
        try:
            wanted.append(NewInvite(name, uses, lifetime, require_tpm="require-tpm" in request.form))
        except UsageError as error:
            place = "" if len(given) == 1 else f"name {position}: "
            raise UsageError(f"{place}{error.message}", hint=error.hint, reason=error.reason) from error
    return wanted


def _uses(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 7):
        raise UsageError("uses must be a number, 1 or more", hint="One Thing needs one use.", reason="uses")
    return int(text)
