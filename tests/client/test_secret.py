"""A Secret shows itself to nobody but who asks it."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hsm_enroll.secret import Secret

_VALUE = "correct-horse-493817"
_REDACTED = "[redacted]"


@dataclass(frozen=True)
class _Login:
    user: str
    pin: Secret


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        format,
        pprint.pformat,
        ascii,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r}",
        lambda secret: f"{secret!s:>40}",
        lambda secret: f"{secret:>40}",
        lambda secret: "%s" % secret,  # noqa: UP031 - the very operator is under test
        lambda secret: "%r" % secret,  # noqa: UP031
        lambda secret: "{}".format(secret),  # noqa: UP032
        lambda secret: str([secret]),
        lambda secret: str({"pin": secret}),
        lambda secret: repr(_Login("gateway", secret)),
        lambda secret: str(ValueError("refused", secret)),
        lambda secret: json.dumps({"pin": secret}, default=str),
        lambda secret: json.dumps({"pin": secret}, default=repr),
    ],
)
def test_every_way_to_print_it_is_redacted(show: Callable[[Secret], str]) -> None:
    """D4: whichever way a Secret becomes text, the text says [redacted] and nothing of the value."""
    shown = show(Secret(_VALUE))

    assert _REDACTED in shown
    assert _VALUE not in shown


@pytest.mark.parametrize(
    "carry",
    [
        *(lambda secret, protocol=protocol: pickle.dumps(secret, protocol) for protocol in range(6)),
        copy.copy,
        copy.deepcopy,
        json.dumps,
        hash,
    ],
)
def test_it_cannot_be_carried_off(carry: Callable[[Secret], object]) -> None:
    """D4: a Secret is not pickled, copied, serialised or hashed, and the refusal does not hold the value."""
    with pytest.raises(TypeError) as caught:
        carry(Secret(_VALUE))
    assert _VALUE not in str(caught.value)


def test_a_traceback_with_locals_does_not_show_it() -> None:
    """D4: a traceback that prints every frame's locals prints [redacted]."""

    def log_in(pin: Secret) -> None:
        raise RuntimeError(f"refused {pin}")

    with pytest.raises(RuntimeError) as caught:
        log_in(Secret(_VALUE))
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())

    assert f"pin = {_REDACTED}" in shown
    assert _VALUE not in shown


def test_a_log_record_does_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    """D4: a Secret given to a logger is logged as [redacted]."""
    logging.getLogger("test").warning("the PIN is %s", Secret(_VALUE))

    assert _REDACTED in caplog.text
    assert _VALUE not in caplog.text


def test_it_has_no_attribute_dictionary() -> None:
    """D4: what serialises objects by their ``__dict__`` finds none."""
    assert not hasattr(Secret(_VALUE), "__dict__")


def test_it_tells_who_asks() -> None:
    """``reveal`` returns the value, whatever characters it holds."""
    assert [Secret(value).reveal() for value in ("", _VALUE, "pä\N{OLD KEY} \n", "\udcff")] == [
        "",
        _VALUE,
        "pä\N{OLD KEY} \n",
        "\udcff",
    ]


def test_equality_is_of_the_values() -> None:
    """Secrets are equal when their values are, also where a value is not ASCII or came from bytes that are no text."""
    for value in ("", _VALUE, "pä", "\udcff"):
        assert Secret(value) == Secret(value)
    assert Secret("pä") != Secret("pa")
    assert Secret("\udcff") != Secret("\udcfe")


def test_it_does_not_equal_its_text() -> None:
    """A Secret equals no plain string, neither its value nor what it prints."""
    assert Secret(_VALUE) != _VALUE
    assert Secret(_REDACTED) != _REDACTED


def test_an_empty_one_is_false() -> None:
    """An empty Secret counts as none."""
    assert not Secret("")
    assert Secret(" ")
