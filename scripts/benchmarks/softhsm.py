"""A SoftHSM with one token, of which every run gets a copy that no run before it has touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

COMMAND = [str(Path(sys.executable).with_name("hsm-enroll"))]


class SoftHsm:
    """A SoftHSM whose one token is labelled ``gateway``.

    Args:
        folder: an empty one.

    Attributes:
        home: the state folder that the token was made with.
        module: the module's file.
        pin: the token's PIN.
        environment: what a command, ours or another, is told of it.
    """

    def __init__(self, folder: Path) -> None:
        self._tokens, self._kept = folder / "tokens", folder / "kept"
        self._tokens.mkdir()
        self.home = folder / "gateway"
        configuration = folder / "softhsm2.conf"
        configuration.write_text(f"directories.tokendir = {self._tokens}\nobjectstore.backend = file\n")
        self.environment = {"SOFTHSM2_CONF": str(configuration), "HSM_ENROLL_HOME": str(self.home)}
        create = [*COMMAND, "token", "create", "--label", "gateway", "--json"]
        made = subprocess.run(
            create, env={**os.environ, **self.environment}, stdout=subprocess.PIPE, text=True, check=True
        )
        token = json.loads(made.stdout)
        self.module = Path(token["module"])
        # Without the end of the line, which the engine takes for a part of it.
        self.pin = Path(token["pinFile"]).read_text().strip()
        pin_file = folder / "pin"
        pin_file.touch(mode=0o600)
        pin_file.write_text(self.pin)
        self.environment |= {
            "MODULE": str(self.module),
            "PKCS11_MODULE_PATH": str(self.module),
            "PIN_FILE": str(pin_file),
            "PIN": self.pin,
        }
        self.keep()

    def keep(self) -> None:
        """Have every later run begin with the token as it is now."""
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(self._tokens, self._kept)

    def restore(self) -> None:
        """Put the token back to how it was kept."""
        shutil.rmtree(self._tokens)
        shutil.copytree(self._kept, self._tokens)
