"""The application: its pages, and the language they are in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from flask import Blueprint, Flask, Response, request

from hsm_enroll.operator.last_seen import LastSeen
from hsm_enroll.troubleshooting import section
from hsm_enroll.web import errors, formats
from hsm_enroll.web.access import Access
from hsm_enroll.web.invites import InvitePages
from hsm_enroll.web.labels import Sheets
from hsm_enroll.web.replacing import ReplacementPages
from hsm_enroll.web.texts import DEFAULT_LANGUAGE, LANGUAGES, catalogue
from hsm_enroll.web.things import ThingPages

if TYPE_CHECKING:
    from hsm_enroll.operator.api import OperatorClient

_LARGEST_FORM_BYTES = 256 * 1024
_LANGUAGE = "language"  # the parameter, and the cookie


def create(access: Access, client: OperatorClient, last_seen: LastSeen, report: Callable[[Exception], None]) -> Flask:
    """Return the application.

    Args:
        access: who may use it.
        client: of the enrollment API.
        last_seen: of AWS IoT.
        report: is told of an error that nobody expected.
    """
    app = Flask(__name__, static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=_LARGEST_FORM_BYTES, MAX_FORM_MEMORY_SIZE=_LARGEST_FORM_BYTES)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    pages = Blueprint("pages", __name__, url_prefix=access.place, static_folder="static", static_url_path="/static")
    lock, sheets = Lock(), Sheets()
    ThingPages(client, last_seen, lock).add_to(pages)
    InvitePages(client, lock, sheets).add_to(pages)
    ReplacementPages(client, lock, sheets).add_to(pages)
    access.guard(app, pages)
    # Not the application's: the cookie names the path, which is told to nobody who does not know it.
    pages.after_request(partial(_keep_language, access))
    app.register_blueprint(pages)
    app.context_processor(partial(_context, access, client))
    errors.handle(app, report)
    return app


def _context(access: Access, client: OperatorClient) -> dict[str, Any]:
    """Return what every template uses."""
    language = _language()
    text = catalogue(language)
    return {
        "t": text,
        "language": language,
        "languages": LANGUAGES,
        "advice": partial(errors.advice, text),
        "section": section,
        "here": _here,
        "api": client.api_url,
        "region": client.region,
        "token": access.token,
        "moment": formats.moment,
        "since": partial(formats.since, text, now=datetime.now(UTC)),
        "certified": formats.certified,
        "renewal": formats.renewal,
    }


def _here(language: str) -> str:
    """Return the address of the page that is shown, in another language."""
    asked = [(name, value) for name, value in request.args.items(multi=True) if name != _LANGUAGE]
    return f"{quote(request.path)}?{urlencode([*asked, (_LANGUAGE, language)], errors='replace')}"


def _language() -> str:
    """Return the language of the page: the one chosen last, or else the browser's."""
    for chosen in (request.args.get(_LANGUAGE), request.cookies.get(_LANGUAGE)):
        if chosen in LANGUAGES:
            return chosen
    return request.accept_languages.best_match(LANGUAGES, DEFAULT_LANGUAGE)


def _keep_language(access: Access, response: Response) -> Response:
    chosen = request.args.get(_LANGUAGE)
    if chosen in LANGUAGES:
        access.keep(response, _LANGUAGE, chosen)
    return response
