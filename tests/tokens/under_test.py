"""A token that the conformance tests run against, whatever its make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pkcs11 import Session

from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token import inventory, selection, session
from hsm_enroll.uri import Pkcs11Uri
from tests.tokens.processes import program, run

LABEL = "gateway"


class KeyName(NamedTuple):
    """What a test calls a key."""

    label: str
    id: bytes


class TokenUnderTest(ABC):
    """One initialised token labelled ``gateway``, and what the tests must know of it beyond PKCS#11.

    Attributes:
        module: file of its PKCS#11 module.
        environment: what the module reads when it is initialised, here and in child processes.
        pin: the user's PIN.
    """

    module: Path
    environment: Mapping[str, str]
    pin: Secret

    @property
    def name(self) -> TokenName:
        """The token as the code under test names it."""
        return selection.choose([self.module], Pkcs11Uri(token=LABEL), inventory.list_tokens).name

    def ask_pin(self) -> Secret:
        """Give the right PIN, as a ``session.PinSource``."""
        return self.pin

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """Open a writable session that is logged in, with the code under test."""
        with session.opened(self.name, self.ask_pin, writable=True) as opened:
            yield opened

    def pkcs11_tool(self, *arguments: str) -> str:
        """Run OpenSC's pkcs11-tool, logged in to the token: a second opinion on what it holds."""
        command = [program("pkcs11-tool", package="opensc"), "--module", str(self.module), "--token-label", LABEL]
        login = ["--login", "--pin", "env:TOKEN_TEST_PIN"]
        return run([*command, *login, *arguments], {**self.environment, "TOKEN_TEST_PIN": self.pin.reveal()})

    @abstractmethod
    def module_copy(self, folder: Path) -> Path:
        """Copy the module: another file is another module, with an initialisation and a configuration of its own."""

    @abstractmethod
    def import_key(self, private_key_file: Path, key: KeyName) -> None:
        """Put a key that was born outside into the token, by its label; its id may come out changed."""

    @abstractmethod
    def forget_wrong_pins(self) -> None:
        """Set the count of failed logins back, where the token keeps one."""
