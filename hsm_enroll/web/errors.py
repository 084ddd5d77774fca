"""How the pages show errors: in English as everywhere, and before that in the page's own language what to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flask import Flask, render_template
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from hsm_enroll.errors import BackendRefusedError, HsmEnrollError, UsageError
from hsm_enroll.web.texts import Catalogue


def handle(app: Flask, report: Callable[[Exception], None]) -> None:
    """Have an application show every error as a page.

    Args:
        app: the application.
        report: is told of an error that nobody expected.
    """
    app.register_error_handler(HsmEnrollError, _expected)
    app.register_error_handler(RequestEntityTooLarge, _too_large)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, partial(_unexpected, report))


def advice(text: Catalogue, error: HsmEnrollError) -> str | None:
    """Return what happened and what to do, in the page's language; None in English, in which the error says it.

    Args:
        text: the texts. Those of the group ``error`` are named after what is known about an error: why a value is
            invalid, why the API refused, or else the error's code.
        error: the error. Values and details are in its English message alone.
    """
    known = error.code
    if isinstance(error, UsageError):
        known = error.reason
    elif isinstance(error, BackendRefusedError):
        # Only API Gateway refuses without a code of the backend's: an identity that IAM does not admit.
        known = error.problem_code or "not-admitted"
    return text.texts.get(f"error.{known}") or text.texts.get(f"error.{error.code}")


def _expected(error: HsmEnrollError) -> tuple[str, int]:
    """Show an error as the command line does: what happened, and what to do next."""
    status = 503 if error.retryable else 400 if isinstance(error, UsageError) else 502
    return render_template("error.html", error=error), status


def _too_large(_error: RequestEntityTooLarge) -> tuple[str, int]:
    """Name the remedy: the only long form is that of names, and none is read before the browser is let in."""
    shown = UsageError("the form is too large", hint="Give fewer names at a time.", reason="form-too-large")
    return render_template("error.html", error=shown), 413


def _http(error: HTTPException) -> HTTPException:
    """Show no page of this application to a browser that may not have been let in."""
    return error


def _unexpected(report: Callable[[Exception], None], error: Exception) -> tuple[str, int]:
    report(error)
    shown = HsmEnrollError(
        f"unexpected error: {type(error).__name__}",
        hint="The terminal in which hsm-enroll fleet web runs has more with --verbose.",
    )
    return render_template("error.html", error=shown), 500
