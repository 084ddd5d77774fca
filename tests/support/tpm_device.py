"""A device with a TPM: an emulated one behind a resource manager of its own, and nothing of SoftHSM's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import tpm2
from tests.support.devices import Cloud, Device, Operator
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


def trust_the_vendor(operator: Operator, tpm: Tpm2) -> None:
    """Have the operator add the CA that certified the TPM's endorsement keys."""
    for authority in tpm.ek_authorities:
        operator.json("fleet", "ek-ca", "add", str(authority), "--sha256", tpm2.certificate_sha256(authority))


@contextmanager
def trusted_tpm_device(operator: Operator, cloud: Cloud, folder: Path) -> Iterator[TpmDevice]:
    """Make a device with a token in a TPM of its own, whose vendor the operator trusts; the cloud wants invites."""
    home = folder / "tpm"
    home.mkdir()
    tpm2.manufacture(home)
    with tpm2.powered(home) as tpm:
        trust_the_vendor(operator, tpm)
        device = TpmDevice(folder / "device", cloud.gateway_environment, tpm=tpm)
        device.create_token()
        yield device
