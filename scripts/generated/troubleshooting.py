"""docs/troubleshooting.md: the errors, what the API refuses, and what the doctor's checks can find."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import enrollment_backend
from enrollment_backend.attestation.errors import AttestationRefusedError
from enrollment_backend.errors import EnrollmentError
from generated import findings, markdown
from generated.expressions import UNKNOWN
from hsm_enroll import doctor, errors
from hsm_enroll.backend_api.answer import Problem
from hsm_enroll.backend_api.hints import hint
from hsm_enroll.errors import HsmEnrollError

PAGE = "docs/troubleshooting.md"

# What may be a code or an id in a docstring.
_NAME = re.compile(r"`([a-z][a-z.-]+)`")
_AN_ERROR = "the message of an error"
_ITS_HINT = "what the hint says"


def page(text: str) -> str:
    """Return the page with its generated parts as the code has them now."""
    for part, content in (("errors", _errors()), ("refusals", _refusals()), ("checks", _checks())):
        text = markdown.replaced(text, part, content)
    return text


def error_classes() -> list[type[HsmEnrollError]]:
    """Return the classes of the error tree by exit status, those of one status in the order of their codes."""
    offered = (getattr(errors, name) for name in errors.__all__)
    return sorted(offered, key=lambda error: (error.exit_status, error.code))


def _errors() -> str:
    """Return a section for each error but the base, whose own section the page has."""
    return "\n\n".join(_error(error) for error in error_classes() if error is not HsmEnrollError)


def _error(error: type[HsmEnrollError]) -> str:
    again = "; the same command may succeed later, without anybody changing anything" if error.retryable else ""
    return markdown.paragraphs(
        f"### {error.code}",
        *map(_linked, markdown.description(inspect.getdoc(error) or "")),
        f"**What to do:** {markdown.plain(error.default_hint)}",
        f"Exit status {error.exit_status}{again}.",
    )


def _refusals() -> str:
    """Return the table of the refusals about which a technician can do something, but for those of attestations."""
    rows = {}
    for error in _below(EnrollmentError):
        advice = hint(0, Problem(error.code, "", ""))
        if advice is not None and not issubclass(error, AttestationRefusedError):
            rows[error.code] = (f"`{error.code}`", markdown.plain(error.detail), markdown.plain(advice))
    return markdown.table(("refusal", "the API says", "what to do"), (rows[code] for code in sorted(rows)))


def _below(error: type[EnrollmentError]) -> Iterator[type[EnrollmentError]]:
    """Yield an error's subclasses, wherever the backend has them."""
    for module in pkgutil.iter_modules(enrollment_backend.__path__):
        if module.name.endswith("errors"):
            import_module(f"enrollment_backend.{module.name}")
    for narrower in error.__subclasses__():
        yield narrower
        yield from _below(narrower)


def _checks() -> str:
    return "\n\n".join(map(_check, doctor.CHECKS))


def _check(check: findings.Check) -> str:
    name = findings.check_id(check)
    first, *others = markdown.description(inspect.getdoc(check) or "")
    rows = [*_rows(findings.problems(check))]
    if [row[1:] for row in rows] == [(_AN_ERROR, _ITS_HINT)]:
        found = f"Result: {rows[0][0]}, with the message and the hint of an error."
    else:
        found = markdown.table(("result", "what it says", "what to do"), rows)
    mark = f'<a id="{name}"></a>' if "." in name else ""  # else the heading's own is the same
    said = f"Says {first[0].lower()}{first[1:]}"
    return markdown.paragraphs(mark, f"### {name}", *map(_linked, (said, *others)), found if rows else "")


def _rows(found: list[findings.Said]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each message, with all results that it may come with, and all hints."""
    statuses: dict[str, dict[str, None]] = {}
    hints: dict[str, dict[str, None]] = {}
    for problem in found:
        advice = _ITS_HINT if not problem.hint.strip(f" {UNKNOWN}") else markdown.plain(problem.hint)
        is_an_error = problem.message == UNKNOWN and advice == _ITS_HINT
        says = _AN_ERROR if is_an_error else markdown.plain(problem.message)
        statuses.setdefault(says, {})[problem.status.value] = None
        hints.setdefault(says, {})[advice] = None
    for says, advices in hints.items():
        yield " or ".join(statuses[says]), says, " Or: ".join(advices)


def _linked(text: str) -> str:
    """Return a text in which each code of an error, and each id of a check, leads to its section."""
    return _NAME.sub(lambda found: f"[{found[0]}](#{found[1]})" if found[1] in anchors() else found[0], text)


@cache
def anchors() -> set[str]:
    """Return the codes of all errors and the ids of all checks: what the program's messages name."""
    return {error.code for error in error_classes()} | set(map(findings.check_id, doctor.CHECKS))
