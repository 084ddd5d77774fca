"""A token that the conformance tests run against, whatever its make."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pkcs11 import Attribute, Session
from pkcs11.exceptions import PKCS11Error

from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token import inventory, selection, session
from hsm_enroll.uri import Pkcs11Uri
from tests.support.processes import pkcs11_tool

LABEL = "gateway"


class KeyName(NamedTuple):
    """What a test calls a key."""

    label: str
    id: bytes


class TokenUnderTest:
    """One initialised token, and what the tests must know of it beyond PKCS#11.

    Attributes:
        module: file of its PKCS#11 module.
        environment: what the module reads when it is initialised, here and in child processes.
        pin: the user's PIN.
        label: its label.
        serial: its serial number, where the label is not enough; else None.
    """

    module: Path
    environment: Mapping[str, str]
    pin: Secret
    label: str = LABEL
    serial: str | None = None

    @property
    def name(self) -> TokenName:
        """The token as the code under test names it."""
        return selection.choose([self.module], self.wanted, inventory.list_tokens).name

    @property
    def wanted(self) -> Pkcs11Uri:
        """The URI that selects it."""
        return Pkcs11Uri(token=self.label, serial=self.serial)

    def ask_pin(self) -> Secret:
        """Give the right PIN, as a ``session.PinSource``."""
        return self.pin

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """Open a writable session that is logged in, with the code under test."""
        with session.opened(self.name, self.ask_pin, writable=True) as opened:
            yield opened

    def pkcs11_tool(self, *arguments: str) -> str:
        """Run OpenSC's pkcs11-tool, logged in to the token."""
        environment = {**os.environ, **self.environment}
        shown = pkcs11_tool(self.module, self.pin, environment, "--token-label", self.label, *arguments)
        return shown.decode(errors="replace")


class OwnToken(TokenUnderTest, ABC):
    """A token that the tests have made, and may do anything to."""

    @abstractmethod
    def module_copy(self, folder: Path) -> Path:
        """Copy the module: another file is another module, with an initialisation and a configuration of its own."""

    @abstractmethod
    def import_key(self, private_key_file: Path, key: KeyName) -> None:
        """Put a key that was born outside into the token, by its label; its id may come out changed."""

    @abstractmethod
    def forget_wrong_pins(self) -> None:
        """Set the count of failed logins back, where the token keeps one."""


class GivenToken(TokenUnderTest):
    """Somebody's token, of any make, named on pytest's command line: what a test leaves in it is taken out again."""

    def __init__(self, module: Path, label: str, serial: str | None, pin: Secret) -> None:
        self.module, self.label, self.serial, self.pin = module, label, serial, pin
        self.environment = {}

    def destroy_keys_named_after(self, key: KeyName) -> None:
        """Destroy what has the key's name within its label: the tests put it into the label of each key they make."""
        with self.opened() as opened:
            for found in list(opened.get_objects()):
                if key.label in _label(found):
                    found.destroy()


def _label(found: object) -> str:
    try:
        return str(found[Attribute.LABEL])  # type: ignore[index]
    except (PKCS11Error, UnicodeDecodeError):  # an object of another kind, or another program's
        return ""
