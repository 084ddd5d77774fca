"""The error tree is the contract of ``--json`` and of the exit statuses."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator

import pytest

from hsm_enroll import errors
from hsm_enroll.errors import BackendRefusedError, HsmEnrollError, NotEnrolledError, PinWrongError

# The contract, written once: code → exit status, and whether the same request may succeed later by itself.
_CONTRACT = {
    "unexpected": (1, False),
    "service-failed": (1, False),
    "local-cloud": (1, False),
    "aws-failed": (1, False),
    "package-failed": (1, False),
    "clock-wrong": (1, True),
    "usage": (2, False),
    "not-enrolled": (3, False),
    "module-missing": (10, False),
    "module-unusable": (10, False),
    "token-not-found": (11, False),
    "token-ambiguous": (11, False),
    "pin-missing": (12, False),
    "pin-file-exposed": (12, False),
    "pin-wrong": (12, False),
    "pin-locked": (13, False),
    "pin-final-try": (13, False),
    "key-missing": (14, False),
    "key-ambiguous": (14, False),
    "key-origin": (14, False),
    "token-refused": (15, False),
    "backend-unreachable": (30, True),
    "backend-refused": (31, False),
    "credentials-refused": (31, False),
    "role-alias-missing": (31, False),
    "throttled": (32, True),
    "unexpected-response": (33, False),
    "certificate-not-ours": (33, False),
    "api-not-trusted": (33, False),
    "retired-locally": (34, False),
    "mqtt-failed": (40, True),
    "mqtt-unreachable": (40, True),
    "mqtt-not-trusted": (40, False),
    "mqtt-refused": (40, True),
    "mqtt-taken-over": (40, True),
    "machine-limit": (50, True),
    "outbox-full": (50, True),
    "state-unusable": (50, False),
    "state-corrupt": (50, False),
    "busy": (51, True),
    "state-too-new": (52, False),
    "output-unwritable": (53, False),
    "interrupted": (130, True),
}


def _tree(root: type[HsmEnrollError]) -> Iterator[type[HsmEnrollError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__.startswith("hsm_enroll."):
            yield from _tree(child)


_ERRORS = sorted(set(_tree(HsmEnrollError)), key=lambda error: error.__name__)


def test_codes_statuses_and_retryability_are_the_contract() -> None:
    """Each code has the exit status of the contract, and none is missing from it."""
    assert {error.code: (error.exit_status, error.retryable) for error in _ERRORS} == _CONTRACT


def test_codes_are_unique() -> None:
    """No two errors share a code."""
    codes = [error.code for error in _ERRORS]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("error", _ERRORS)
def test_a_code_is_kebab_case(error: type[HsmEnrollError]) -> None:
    """A code is lower-case words joined by dashes."""
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code)


@pytest.mark.parametrize("error", [error for error in _ERRORS if error is not HsmEnrollError])
def test_every_error_says_what_to_do(error: type[HsmEnrollError]) -> None:
    """Every error but the base has a hint of one or more whole sentences, or a command."""
    hint = error("it happened").hint

    assert re.search(r"[.?)']$|hsm-enroll [a-z ]+( INVITE)?$", hint), hint
    assert hint[0].isupper()


@pytest.mark.parametrize("error", _ERRORS)
def test_every_error_of_the_package_lives_in_one_tree(error: type[HsmEnrollError]) -> None:
    """An error is defined in ``errors``, offered by it and documented, so that one handler sees them all."""
    assert error.__module__.startswith(f"{errors.__name__}.")
    assert getattr(errors, error.__name__) is error
    assert error.__doc__


def test_nothing_in_the_package_is_outside_the_tree() -> None:
    """Every exception class that ``errors`` offers derives from HsmEnrollError."""
    defined = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined == set(_ERRORS)


def test_a_hint_for_the_case_replaces_the_general_one() -> None:
    """The place that raises may know better what to do, and may know that there is nothing to say."""
    assert NotEnrolledError("m").hint == NotEnrolledError.default_hint
    assert NotEnrolledError("m", hint="Do that.").hint == "Do that."
    assert NotEnrolledError("m", hint="").hint == ""


def test_the_message_is_the_exceptions_text() -> None:
    """``str`` of an error is its message, without the hint."""
    error = PinWrongError("token 'gateway' refused the PIN")
    assert (str(error), error.message) == ("token 'gateway' refused the PIN",) * 2


@pytest.mark.parametrize("error", _ERRORS)
def test_an_error_survives_the_way_between_processes(error: type[HsmEnrollError]) -> None:
    """Pickled and read back, an error is of its class and holds its message and hint."""
    copy = pickle.loads(pickle.dumps(error("it happened", hint="Do that.")))  # noqa: S301 - our own bytes

    assert type(copy) is error
    assert (copy.message, copy.hint) == ("it happened", "Do that.")


def test_a_refusal_carries_what_the_backend_said() -> None:
    """BackendRefusedError holds the problem's code and the request id as data, also across processes."""
    error = BackendRefusedError("refused", problem_code="invite-expired", request_id="r-1")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert (copy.problem_code, copy.request_id) == ("invite-expired", "r-1")
    assert (BackendRefusedError("refused").problem_code, BackendRefusedError("refused").request_id) == ("", "")
