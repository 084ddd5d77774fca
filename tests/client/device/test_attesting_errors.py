"""Attestation where the API or the TPM says several things at once: the error that helps is the one that is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_enroll.backend_api.attestation import Policy
from hsm_enroll.backend_api.client import Terms
from hsm_enroll.device import wiring
from hsm_enroll.device.enrollment import enroll
from hsm_enroll.device.plan import Request
from hsm_enroll.errors import BackendRefusedError, ModuleUnusableError, PinWrongError, TokenRefusedError
from hsm_enroll.token.tpm2.attestation.attestor import Attestor
from hsm_enroll.token.tpm2.attestation.values import Timing
from tests.support.world import World
from tests.support.world_tpm import FakeTpm, Shown

_REQUIRE = Terms("gateway-17", attestation=Policy.REQUIRE)


@pytest.fixture
def world() -> World:
    """A token in a TPM that can attest its keys, and that has two endorsement keys."""
    world = World()
    world.tpm.fault, world.tpm.eks, world.invite = None, [b"p-384", b"rsa"], _REQUIRE
    return world


def test_a_refusal_of_the_other_endorsement_key_for_its_own_reason_is_told(world: World, tmp_path: Path) -> None:
    """That the TPM is another Thing already says more than that its preferred key is not known."""
    world.attestations.refused = {b"p-384": "ek-unknown", b"rsa": "tpm-enrolled"}
    with pytest.raises(BackendRefusedError) as raised:
        enroll(Request(None), tmp_path, world.ports())
    assert raised.value.problem_code == "tpm-enrolled"
    assert world.requests == []


def test_a_tpm_that_cannot_derive_its_other_endorsement_key_does_not_hide_the_refusal(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API's refusal of the preferred key is what the operator can act on."""
    present = FakeTpm.endorsement

    def endorsement(tpm: FakeTpm, rank: int) -> Shown:
        if rank:
            raise TokenRefusedError("the TPM refused TPM2_CreatePrimary")
        return present(tpm, rank)

    monkeypatch.setattr(FakeTpm, "endorsement", endorsement)
    world.attestations.refused = {b"p-384": "ek-unknown"}
    with pytest.raises(BackendRefusedError) as raised:
        enroll(Request(None), tmp_path, world.ports())
    assert raised.value.problem_code == "ek-unknown"


def test_how_long_each_tpm_command_took_is_a_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once the proof is no longer needed."""
    monkeypatch.setattr(Attestor, "start", lambda _: None)
    world = World()
    with wiring.OwnTpm(audience=world).attestor() as attestor:
        attestor.timings.append(Timing("Certify", 0.0123))
    assert world.said == ["detail:   TPM2_Certify                12.3 ms"]


@pytest.mark.parametrize("error", [PinWrongError("the PIN"), ModuleUnusableError("the TPM hangs")], ids=["pin", "tpm"])
def test_d1_a_statement_that_failed_is_not_tried_again(
    world: World, tmp_path: Path, error: PinWrongError | ModuleUnusableError
) -> None:
    """D1: whatever went wrong, the TPM is given the PIN once in a run, also where a proof is only preferred."""
    world.tpm.error = error
    with pytest.raises(type(error)):
        enroll(Request(None), tmp_path / "required", world.ports())
    assert (len(world.tpm.pins), world.requests, world.tpm.running) == (1, [], 0)
    world.invite = Terms("gateway-17", attestation=Policy.PREFER)
    assert not enroll(Request(None), tmp_path / "preferred", world.ports()).identity.attested
    assert (len(world.tpm.pins), world.tpm.running) == (2, 0)


def test_a_proof_that_is_required_after_all_is_not_skipped_as_a_preferred_one(world: World, tmp_path: Path) -> None:
    """A deployment that changed to ``require`` meanwhile: the TPM's failure is told, not the lack of a proof."""
    world.invite = Terms("gateway-17", attestation=Policy.PREFER)
    world.attestation, world.tpm.error = Policy.REQUIRE, TokenRefusedError("the TPM is broken")
    with pytest.raises(TokenRefusedError, match="the TPM is broken"):
        enroll(Request(None), tmp_path, world.ports())
    assert (len(world.requests), world.tpm.running) == (1, 0)
