"""The chip of a reader who follows docs/attestation.md: an emulated TPM, and what its vendor publishes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import tpm2

PAGE = "docs/attestation.md"


@contextmanager
def chip(folder: Path, home: Path) -> Iterator[dict[str, str]]:
    """Power a TPM, and give the environment that leads to it.

    Args:
        folder: an empty one for the TPM.
        home: the reader's home folder; ``vendor`` in it gets the CA's certificates, each with its SHA-256.
    """
    tpm2.manufacture(folder)
    vendor = home / "vendor"
    vendor.mkdir(parents=True)
    with tpm2.powered(folder) as tpm:
        for name, authority in zip(("root", "intermediate"), tpm.ek_authorities, strict=True):
            shutil.copy(authority, vendor / f"{name}.pem")
            (vendor / f"{name}.sha256").write_text(tpm2.certificate_sha256(authority) + "\n")
        yield tpm.connection
