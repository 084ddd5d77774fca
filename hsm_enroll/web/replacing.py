"""The pages about replacing a Thing's key: what will happen, and the invite for it."""

from __future__ import annotations

import secrets
from threading import Lock
from typing import TYPE_CHECKING

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from hsm_enroll.operator.invites import NewReplacement, ttl_seconds
from hsm_enroll.web.invites import DEFAULT_LIFETIME, LIFETIMES
from hsm_enroll.web.labels import Sheet, Sheets

if TYPE_CHECKING:
    from hsm_enroll.operator.api import OperatorClient


class ReplacementPages:
    """The pages.

    Args:
        client: of the enrollment API; it takes one request at a time.
        lock: held while it is used.
        sheets: keeps the invites until they are shown.
    """

    def __init__(self, client: OperatorClient, lock: Lock, sheets: Sheets) -> None:
        self._client = client
        self._lock = lock
        self._sheets = sheets

    def add_to(self, pages: Blueprint) -> None:
        """Add the routes."""
        pages.add_url_rule("/replace", "replace", self._confirm)
        pages.add_url_rule("/replace", "create_replacement", self._create, methods=["POST"])

    def _confirm(self) -> str:
        asked = NewReplacement(request.args.get("thing", ""))
        with self._lock:
            shown = self._client.show_thing(asked.thing)
        return render_template(
            "replace.html",
            thing=shown.thing,
            lifetime=DEFAULT_LIFETIME,
            lifetimes=LIFETIMES,
            number=secrets.token_urlsafe(12),
        )

    def _create(self) -> Response:
        form = request.form
        wanted = NewReplacement(
            form.get("thing", ""), ttl_seconds(form.get("ttl", "")), require_tpm="require-tpm" in form
        )
        return redirect(url_for("pages.labels", sheet=self._sheets.of_form(form, lambda: self._sheet(wanted))), 303)

    def _sheet(self, wanted: NewReplacement) -> Sheet:
        with self._lock:
            return Sheet([self._client.create_replacement(wanted)], replaces=True)
