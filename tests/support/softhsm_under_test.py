"""SoftHSM for tests: each instance is a machine of its own, with its own folder, configuration and module."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from hsm_enroll.secret import Secret
from hsm_enroll.token import discovery, inventory
from tests.support.processes import program, run
from tests.support.under_test import KeyName, OwnToken

_SHIM = Path(__file__).with_name("shim.c")
_FRONT = Path(__file__).with_name("front.c")


class SoftHsm(OwnToken):
    """A SoftHSM without tokens; its module is a copy of the installed one.

    SoftHSM reads its configuration once, when it is initialised, and a file that is loaded twice is one module. A
    copy is a second module: so the tests can stay in one process and each can still have a SoftHSM of its own, and
    none meets a SoftHSM that other tests of the same process have loaded.

    Args:
        home: an empty folder.
        mechanisms: SoftHSM's setting ``slots.mechanisms``: those that it lists. (Its form with a minus, for those
            that it does not list, passes over the first one in SoftHSM 2.6.1.)
    """

    def __init__(self, home: Path, *, mechanisms: str = "ALL") -> None:
        self._home = home
        self._serial = itertools.count()
        tokens = home / "tokens"
        tokens.mkdir(mode=0o700)
        configuration = home / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {tokens}\n"
            "objectstore.backend = file\n"
            "log.level = ERROR\n"
            f"slots.mechanisms = {mechanisms}\n"
        )
        self.environment = {"SOFTHSM2_CONF": str(configuration)}
        self.module = self.module_copy(home)
        self.pin = Secret("right-1234")

    def module_copy(self, folder: Path) -> Path:
        """Copy SoftHSM's module into a folder, under a new name each time."""
        installed = [path for path in discovery.discover() if path.name == "libsofthsm2.so"]
        if not installed:
            pytest.fail("the token tests need SoftHSM, from the Debian package softhsm2", pytrace=False)
        return Path(shutil.copy(installed[0], folder / f"libsofthsm2-{next(self._serial)}.so"))

    def add_token(self, label: str) -> None:
        """Initialise a token with SoftHSM's own tool, which lets several have one label."""
        tool = program("softhsm2-util", package="softhsm2")
        pins = ["--so-pin", "officer-1234", "--pin", self.pin.reveal()]
        run([tool, "--init-token", "--free", "--label", label, *pins], self.environment)

    def remove_token(self, label: str) -> None:
        """Remove a token and all it holds."""
        tool = program("softhsm2-util", package="softhsm2")
        run([tool, "--delete-token", "--token", label], self.environment)

    def labels(self) -> list[str]:
        """Return the labels of the initialised tokens, as a module that is initialised now sees them."""
        reports = inventory.list_tokens(self.module_copy(self._home))
        return [report.name.label for report in reports if report.initialized]

    def faulty_module(self, **faults: str | int) -> Path:
        """Build a module that stands in front of a copy of this one and has faults built in, as ``shim.c`` says."""
        return self._built(_SHIM, faults)

    def other_module(self, **traits: str | int) -> Path:
        """Build a module that stands in front of a copy of this one and is of another kind, as ``front.c`` says."""
        return self._built(_FRONT, traits)

    def _built(self, source: Path, options: Mapping[str, str | int]) -> Path:
        built = self._home / f"{source.stem}-{next(self._serial)}.so"
        macros = {"TARGET": f'"{self.module_copy(self._home)}"', **options}
        compiler = program("gcc", package="gcc")
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
        run([compiler, *flags, *(f"-D{name}={value}" for name, value in macros.items()), "-o", str(built), str(source)])
        return built

    def import_key(self, private_key_file: Path, key: KeyName) -> None:
        """Write both halves of a key of a PEM file into the token."""
        openssl = program("openssl", package="openssl")
        for half, options in (("privkey", []), ("pubkey", ["-pubout"])):
            der = self._home / f"{half}.der"
            run([openssl, "pkey", "-in", str(private_key_file), "-outform", "DER", "-out", str(der), *options])
            named = ["--label", key.label, "--id", key.id.hex()]
            self.pkcs11_tool("--write-object", str(der), "--type", half, "--usage-sign", *named)

    def forget_wrong_pins(self) -> None:
        """Do nothing: SoftHSM warns after the first wrong PIN, and neither counts them nor locks."""
