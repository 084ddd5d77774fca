"""Free slots: in which of them ``token create`` makes a token, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsm_enroll.token.reports import TokenKind
from tests.support import documents
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tokens import listed
from tests.support.tpm2 import Tpm2


def _run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hsm_enroll", *arguments],
        env={**os.environ, "HSM_ENROLL_HOME": str(home)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("manufacturer", "kind", "said"),
    [
        (
            "SoftHSM project",
            "softhsm",
            "is free; to create a token: hsm-enroll token create --label LABEL --backend softhsm",
        ),
        ("Vendor", None, "has no token yet; it is initialised with the token's own tool"),
    ],
)
def test_tokens_offers_what_token_create_does(
    softhsm: SoftHsmUnderTest, tmp_path: Path, manufacturer: str, kind: str | None, said: str
) -> None:
    """``tokens`` says of a free slot that ``token create`` makes a token there, but only if it does."""
    module = str(softhsm.other_module(MANUFACTURER=f'"{manufacturer}"'))
    run = _run(tmp_path / "state", "tokens", "--module", module, "--json")
    [listed_module] = documents.read(["tokens"], run.stdout)["modules"]
    backends = {token["initialized"]: token["createBackend"] for token in listed_module["tokens"]}
    assert backends == {True: None, False: kind}
    assert said in _run(tmp_path / "state", "tokens", "--module", module).stdout


def test_another_makers_slot_is_left_alone(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """``token create`` in a slot of another make ends with 15 and what to do, and leaves no PIN behind."""
    state = tmp_path / "state"
    module = softhsm.other_module(MANUFACTURER='"Vendor"')
    arguments = ["token", "create", "--label", "new", "--module", str(module), "--json"]
    run = _run(state, *arguments)
    error = documents.read(arguments, run.stdout)["error"]
    assert (run.returncode, error["code"]) == (15, "token-refused")
    assert f"{module} has no free slot for a new token of kind softhsm" in error["message"]
    assert "with its own tool" in error["hint"]
    assert [path.name for path in state.iterdir()] == ["lock"]
    assert softhsm.labels() == ["gateway"]


def test_a_tpm_offers_its_own_backend(tpm: Tpm2, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free slot of tpm2-pkcs11 takes ``--backend tpm2``, unless it stores its tokens elsewhere."""
    [free] = [report for report in listed(tpm.module) if not report.initialized]
    assert free.creates is TokenKind.TPM2
    monkeypatch.setenv("TPM2_PKCS11_BACKEND", "fapi")
    assert free.creates is None
