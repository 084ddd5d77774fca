"""A device with a TPM: an emulated one behind a resource manager of its own, and nothing of SoftHSM's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.devices import Device
from tests.support.tpm2 import Tpm2


@dataclass
class TpmDevice(Device):
    """One gateway whose token is in a TPM.

    Attributes:
        tpm: its TPM; the token that is there already is not the device's, and lies in another store.
    """

    tpm: Tpm2 = field(kw_only=True)

    @property
    def environment(self) -> dict[str, str]:
        """As any device's, with the way to the TPM; its store is where tpm2-pkcs11 puts it by itself."""
        return {**self.tpm.connection, **super().environment}

    @property
    def store(self) -> Path:
        """Where tpm2-pkcs11 keeps this device's tokens."""
        return self.folder / ".tpm2_pkcs11"

    def create_token(self, label: str = "gateway") -> dict[str, Any]:
        """Make a token."""
        return self.json("token", "create", "--label", label, "--backend", "tpm2")
