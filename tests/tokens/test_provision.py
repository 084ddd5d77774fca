"""Making SoftHSM tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.errors import PinWrongError, TokenAmbiguousError, TokenRefusedError, UsageError
from hsm_enroll.key import KeyType
from hsm_enroll.secret import Secret
from hsm_enroll.token import inventory, keypair, provision, session
from hsm_enroll.token.provision import complete_token, create_softhsm_token
from hsm_enroll.token.reports import TokenKind
from hsm_enroll.token.tokens import Tokens
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.under_test import LABEL, KeyName

_SO_PIN = Secret("officer-5678")
_USER_PIN = Secret("user-Straße-5678")

_SPAWNING = {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"}
_started: list[list[str]] = []
_watching = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in _SPAWNING:
        # All but os.fork and os.system tell it as the second argument.
        _started.append(list(arguments[1]) if arguments[1:] else [event])


# An audit hook (PEP 578) cannot be taken away again, so there is one, and it looks only when asked to.
sys.addaudithook(_audit)


@contextmanager
def watched() -> Iterator[list[list[str]]]:
    """Collect the argv of each program that is started inside the block."""
    global _watching
    _started.clear()
    _watching = True
    try:
        yield _started
    finally:
        _watching = False


def test_a_new_token_takes_its_pin(empty_softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """A token is made with its label and user PIN, UTF-8 included, and holds a key at once."""
    made = create_softhsm_token(empty_softhsm.module, "Halle Süd", so_pin=_SO_PIN, user_pin=_USER_PIN)
    assert made.name.label == "Halle Süd"
    assert made.initialized
    assert made.public_keys == ()
    with session.opened(made.name, lambda: _USER_PIN, writable=True) as opened:
        assert keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id).origin.is_hardware_born
    with pytest.raises(PinWrongError), session.opened(made.name, lambda: _SO_PIN):
        pass


def test_an_initialised_token_is_never_touched(softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """A new token is made beside the one that is there, which keeps its name, its PIN and its key."""
    with softhsm.opened() as opened:
        before = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    name = softhsm.name
    made = create_softhsm_token(softhsm.module, "second", so_pin=_SO_PIN, user_pin=_USER_PIN)
    assert made.name.serial != name.serial
    with session.opened(name, softhsm.ask_pin) as opened:
        assert keypair.find(opened, label=key.label, key_id=key.id).public_key_info == before.public_key_info
    assert sorted(softhsm.labels()) == [LABEL, "second"]


def test_a_taken_label_is_refused(softhsm: SoftHsmUnderTest) -> None:
    """A label that a token has already makes no second one, and the first one keeps its PIN."""
    with pytest.raises(TokenAmbiguousError, match="'gateway' already exists") as caught:
        create_softhsm_token(softhsm.module, LABEL, so_pin=_SO_PIN, user_pin=_USER_PIN)
    assert caught.value.exit_status == 11
    assert softhsm.labels() == [LABEL]
    with softhsm.opened():
        pass


@pytest.mark.parametrize(
    "label",
    ["", "x" * 33, "ü" * 17, " ", f"{LABEL} ", f" {LABEL}", f"{LABEL}\n", f"{LABEL}\0", "a\tb"],
    ids=["empty", "33 bytes", "34 bytes", "blank", "blank behind", "blank before", "newline", "NUL", "tab"],
)
def test_a_label_that_a_token_cannot_have_is_refused(softhsm: SoftHsmUnderTest, label: str) -> None:
    """A label that would come out shortened, padded away or unreadable makes no token, above all no second gateway."""
    with pytest.raises(UsageError):
        create_softhsm_token(softhsm.module, label, so_pin=_SO_PIN, user_pin=_USER_PIN)
    assert softhsm.labels() == [LABEL]


def test_a_label_of_32_bytes_is_the_longest(empty_softhsm: SoftHsmUnderTest) -> None:
    """Thirty-two bytes of label come back whole, also where they are sixteen characters."""
    for label in ("x" * 32, "ü" * 16):
        made = create_softhsm_token(empty_softhsm.module, label, so_pin=_SO_PIN, user_pin=_USER_PIN)
        assert made.name.label == label


@pytest.mark.parametrize("length", [0, 3, 256])
@pytest.mark.parametrize("which", ["so_pin", "user_pin"])
def test_a_pin_that_cannot_be_set_makes_no_token(empty_softhsm: SoftHsmUnderTest, which: str, length: int) -> None:
    """A PIN that SoftHSM would refuse half-way leaves no token behind that has a label and no PIN."""
    pins = {"so_pin": _SO_PIN, "user_pin": _USER_PIN, which: Secret("7" * length)}
    with pytest.raises(UsageError, match="4 to 255 bytes"):
        create_softhsm_token(empty_softhsm.module, "new", **pins)
    assert empty_softhsm.labels() == []


@pytest.mark.parametrize("length", [4, 255])
def test_the_shortest_and_the_longest_pin_work(empty_softhsm: SoftHsmUnderTest, length: int) -> None:
    """PINs of four and of 255 bytes open the token."""
    pin = Secret("7" * length)
    made = create_softhsm_token(empty_softhsm.module, "new", so_pin=pin, user_pin=pin)
    with session.opened(made.name, lambda: pin):
        pass


def test_a_module_that_makes_no_token_says_so(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """Where C_InitToken fails, for the folder is full, the error names its return value, and there is no new token."""
    module = FaultModule(softhsm.module, tmp_path, f"C_InitToken 1+ fail {CKR['CKR_DEVICE_MEMORY']:x}").file
    with pytest.raises(
        TokenRefusedError, match=r"failed to initialise a token: the token is full \(CKR_DEVICE_MEMORY\)"
    ) as caught:
        create_softhsm_token(module, "new", so_pin=_SO_PIN, user_pin=_USER_PIN)
    assert caught.value.exit_status == 15
    assert softhsm.labels() == [LABEL]


def test_d10_a_token_without_a_pin_is_completed(
    empty_softhsm: SoftHsmUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D10: a token whose making died before its PIN was set takes the PIN afterwards; a complete one stays as it is."""

    def died(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(provision, "set_user_pin", died)
        with pytest.raises(KeyboardInterrupt):
            create_softhsm_token(empty_softhsm.module, "half", so_pin=_USER_PIN, user_pin=_USER_PIN)
    (half,) = [token.name for token in inventory.list_tokens(empty_softhsm.module) if token.initialized]
    for _ in range(2):
        complete_token(half, so_pin=_USER_PIN, user_pin=_USER_PIN)
        with session.opened(half, lambda: _USER_PIN):
            pass


def test_d4_pins_are_in_no_command_line(empty_softhsm: SoftHsmUnderTest) -> None:
    """D4: making a token starts the module's process and nothing else, with neither PIN in its argv."""
    with watched() as started:
        with Tokens() as tokens:
            tokens.create(empty_softhsm.module, TokenKind.SOFTHSM, "new", so_pin=_SO_PIN, user_pin=_USER_PIN)
        [argv] = started
    assert not {_SO_PIN.reveal(), _USER_PIN.reveal()} & set(argv)
