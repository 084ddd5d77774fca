"""What the pages say about errors on a page in Japanese: what to do comes first, and the English details follow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from hsm_enroll.errors import (
    ApiTlsError,
    BackendRefusedError,
    BackendUnreachableError,
    HsmEnrollError,
    MachineLimitError,
    ThrottledError,
    UnexpectedResponseError,
    UsageError,
)
from hsm_enroll.web.errors import advice
from hsm_enroll.web.texts import DEFAULT_LANGUAGE, LANGUAGES, catalogue
from tests.operator.api.stand_in import Reply, json_reply, problem
from tests.web.site import Site, alert, visit

_PACKAGE = Path(str(files("hsm_enroll")))
_OTHERS = sorted(LANGUAGES.keys() - {DEFAULT_LANGUAGE})
# What a request to the API may raise (`SignedApi`), and what nobody expected.
_KINDS = (
    HsmEnrollError,
    UsageError,
    BackendUnreachableError,
    BackendRefusedError,
    ThrottledError,
    UnexpectedResponseError,
    ApiTlsError,
    MachineLimitError,
)
# Why the API refuses what the pages ask for; "not-admitted" is API Gateway's refusal, which has no code.
_REFUSALS = {"operator-required", "thing-unknown", "invite-unknown", "not-admitted"}


def _reasons() -> Iterator[str]:
    """Yield all reasons that are given for an invalid value where the pages, or what they use, check one."""
    checking = [_PACKAGE / "operator" / f"{name}.py" for name in ("names", "invites", "aws")]
    for file in (*checking, *(_PACKAGE / "web").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "reason" and isinstance(node.value, ast.Constant):
                yield str(node.value.value)


@pytest.mark.parametrize("language", _OTHERS)
def test_every_error_of_a_page_is_explained(language: str) -> None:
    """Each kind of error, each refusal and each reason has its text in every language but English, and no other has."""
    texts = catalogue(language).texts
    explained = {key.removeprefix("error.") for key in texts if key.startswith("error.")}
    assert explained == {*(kind.code for kind in _KINDS), *_REFUSALS, *_reasons()}


@pytest.mark.parametrize("file", ["names", "invites"])
def test_no_check_of_what_was_typed_is_without_a_reason(file: str) -> None:
    """What is typed into a form is refused with a reason, by which a page explains it."""
    if_deactivating = "deactivate_existing needs existing_thing"  # neither is in a form
    tree = ast.parse((_PACKAGE / "operator" / f"{file}.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    raised = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "UsageError"]
    without = [ast.unparse(call.args[0]) for call in raised if "reason" not in {one.arg for one in call.keywords}]
    assert without == ([repr(if_deactivating)] if file == "invites" else [])
    assert raised


def test_in_english_an_error_explains_itself() -> None:
    """Its own message and hint are English, so that the page has nothing to add."""
    assert advice(catalogue(DEFAULT_LANGUAGE), UsageError("no names are given", reason="no-names")) is None


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (UsageError("a", reason="ttl"), "ttl"),
        (UsageError("a"), "usage"),
        (BackendRefusedError("a", problem_code="thing-unknown"), "thing-unknown"),
        (BackendRefusedError("a", problem_code="of-a-later-backend"), "backend-refused"),
        (BackendRefusedError("a"), "not-admitted"),
        (ThrottledError("a"), "throttled"),
    ],
    ids=["reason", "no reason", "refusal", "unknown refusal", "not admitted", "code"],
)
def test_the_narrowest_explanation_is_taken(error: HsmEnrollError, known: str) -> None:
    """Why a value is invalid or the API refused, where that is known; or else the error's code."""
    japanese = catalogue("ja")
    assert advice(japanese, error) == japanese(f"error.{known}")


_DETAIL = f" {catalogue('ja')('page.detail')}: "
_NEW = {"things": "gateway-1", "ttl": "24h", "uses": "1"}


@pytest.mark.parametrize(
    ("path", "form", "known", "detail"),
    [
        ("revoke", None, "none-selected", "no Thing is selected. Select Things"),
        ("revoke?thing=a%20b", None, "thing-name", "'a b' is not a valid Thing name"),
        ("revoke?thing=gone", None, "thing-unknown", "the ledger has no Thing 'gone'"),
        ("?prefix=a%20b", None, "prefix", "no Thing name begins with 'a b'"),
        ("invites/new", _NEW | {"things": ""}, "no-names", "no names are given"),
        ("invites/new", _NEW | {"things": "a,b\nc,d"}, "names", "the table has no column 'thing'"),
        ("invites/new", _NEW | {"things": "a\nb c"}, "thing-name", "name 2: thing is not a valid Thing name"),
        ("invites/new", _NEW | {"uses": "2"}, "uses-of-prefix", "more than one use needs a prefix"),
        ("invites/new", _NEW | {"uses": "many"}, "uses", "uses must be a number"),
        ("invites/new", _NEW | {"ttl": "ever"}, "ttl", "ttl is not a valid time"),
        ("invites/new", _NEW | {"things": "a\n" * 140_000}, "form-too-large", "the form is too large"),
        ("invites/revoke", {"id": "x"}, "invite-id", "that is not the ID of an invite"),
        ("invites/revoke", {"id": "0" * 16}, "invite-unknown", "(invite-unknown)"),
    ],
)
def test_a_mistake_is_explained_in_japanese(
    site: Site, path: str, form: dict[str, str] | None, known: str, detail: str
) -> None:
    """A sentence that says what to do, then the details as the command line has them, and the error's page."""
    explained, _, english = alert(visit(site, path, form, "ja")).partition(_DETAIL)
    assert explained.removeprefix("エラー ") == catalogue("ja")(f"error.{known}")
    assert detail in english
    assert "docs/troubleshooting.md#" in english


@pytest.mark.parametrize(
    ("reply", "known", "detail"),
    [
        (json_reply(403, {"message": "Forbidden"}), "not-admitted", "does not admit this AWS identity: Forbidden"),
        (problem(403, "operator-required"), "operator-required", "Detail of operator-required"),
        (problem(409, "thing-busy"), "backend-refused", "under request id the-request"),
        (problem(500, "internal"), "backend-unreachable", "failed: Detail of internal"),
        ((200, {"Content-Type": "text/html"}, b"<p>Please log in"), "unexpected-response", "text/html"),
    ],
    ids=["gateway", "operator", "unknown", "outage", "portal"],
)
def test_the_apis_errors_are_explained_in_japanese(site: Site, reply: Reply, known: str, detail: str) -> None:
    """What the API says stays as it is, after a sentence that says what to do about it."""
    site.answer_next(reply)
    explained, _, english = alert(visit(site, "", language="ja")).partition(_DETAIL)
    assert explained == catalogue("ja")(f"error.{known}")
    assert detail in english
