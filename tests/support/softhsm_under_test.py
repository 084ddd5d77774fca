"""SoftHSM for the token tests: each instance is a machine of its own, with its own folder, configuration and module."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path

from hsm_enroll.token import inventory
from tests.support.processes import program, run
from tests.support.softhsm import MODULE, SoftHsm
from tests.support.under_test import KeyName, OwnToken

_SHIM = Path(__file__).with_name("shim.c")
_FRONT = Path(__file__).with_name("front.c")


class SoftHsmUnderTest(SoftHsm, OwnToken):
    """A SoftHSM without tokens; its module is a copy of the installed one.

    SoftHSM reads its configuration once, when it is initialised, and a file that is loaded twice is one module. A
    copy is a second module: so the tests can stay in one process and each can still have a SoftHSM of its own, and
    none meets a SoftHSM that other tests of the same process have loaded.

    Args:
        folder, mechanisms: as for `SoftHsm`.
    """

    def __init__(self, folder: Path, *, mechanisms: str = "ALL") -> None:
        super().__init__(folder, mechanisms=mechanisms)
        self._serial = itertools.count()
        self.module = self.module_copy(folder)

    def module_copy(self, folder: Path) -> Path:
        """Copy SoftHSM's module into a folder, under a new name each time."""
        return Path(shutil.copy(MODULE, folder / f"libsofthsm2-{next(self._serial)}.so"))

    def labels(self) -> list[str]:
        """Return the labels of the initialised tokens, as a module that is initialised now sees them."""
        reports = inventory.list_tokens(self.module_copy(self.folder))
        return [report.name.label for report in reports if report.initialized]

    def faulty_module(self, **faults: str | int) -> Path:
        """Build a module that stands in front of a copy of this one and has faults built in, as ``shim.c`` says."""
        return self._built(_SHIM, faults)

    def other_module(self, **traits: str | int) -> Path:
        """Build a module that stands in front of a copy of this one and is of another kind, as ``front.c`` says."""
        return self._built(_FRONT, traits)

    def _built(self, source: Path, options: Mapping[str, str | int]) -> Path:
        built = self.folder / f"{source.stem}-{next(self._serial)}.so"
        macros = {"TARGET": f'"{self.module_copy(self.folder)}"', **options}
        compiler = program("gcc", package="gcc")
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
        run([compiler, *flags, *(f"-D{name}={value}" for name, value in macros.items()), "-o", str(built), str(source)])
        return built

    def import_key(self, private_key_file: Path, key: KeyName) -> None:
        """Write both halves of a key of a PEM file into the token."""
        openssl = program("openssl", package="openssl")
        for half, options in (("privkey", []), ("pubkey", ["-pubout"])):
            der = self.folder / f"{half}.der"
            run([openssl, "pkey", "-in", str(private_key_file), "-outform", "DER", "-out", str(der), *options])
            named = ["--label", key.label, "--id", key.id.hex()]
            self.pkcs11_tool("--write-object", str(der), "--type", half, "--usage-sign", *named)

    def forget_wrong_pins(self) -> None:
        """Do nothing: SoftHSM warns after the first wrong PIN, and neither counts them nor locks."""
