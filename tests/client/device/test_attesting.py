"""Attestation against a TPM and an API in memory: when a key's TPM proves where it is, and when it goes without."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_enroll.backend_api.attestation import Policy
from hsm_enroll.backend_api.client import Terms
from hsm_enroll.device import renewal
from hsm_enroll.device.enrollment import Outcome, enroll
from hsm_enroll.device.plan import Request
from hsm_enroll.device.renewal import renew
from hsm_enroll.errors import (
    BackendRefusedError,
    BackendUnreachableError,
    HsmEnrollError,
    KeyMissingError,
    TokenRefusedError,
    UsageError,
)
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from tests.support.power_cuts import cut_off
from tests.support.world import World
from tests.support.world_tpm import NO_TPM

_REQUEST = Request("gateway-17")
_REQUIRE = Terms("gateway-17", attestation=Policy.REQUIRE)
_PREFER = Terms("gateway-17", attestation=Policy.PREFER)
_STEPS = ["token", "invite", "key", "csr", "attestation", "certificate", "store", "message"]


@pytest.fixture
def world() -> World:
    """A token in a TPM that can attest its keys."""
    world = World()
    world.tpm.fault = None
    return world


def _names(outcome: Outcome) -> list[str]:
    return [step.name for step in outcome.steps]


@pytest.mark.parametrize("invite", [_REQUIRE, _PREFER], ids=["require", "prefer"])
def test_a_key_in_a_tpm_is_attested_where_the_invite_wants_it(world: World, tmp_path: Path, invite: Terms) -> None:
    """One challenge, one statement of the TPM with the token's own PIN, one request; the identity says so."""
    world.invite = invite
    outcome = enroll(Request(None), tmp_path, world.ports())
    assert _names(outcome) == _STEPS
    assert outcome.identity.attested
    assert Identity.load(tmp_path).attested
    assert (world.attestations.asked, len(world.requests)) == ([(b"ek", "gateway-17")], 1)
    assert (world.tpm.pins, world.tpm.running, world.logins) == ([Secret("1234")], 0, 1)
    assert world.open_at_request is False


def test_an_open_deployment_says_what_it_wants(world: World, tmp_path: Path) -> None:
    """Without an invite the deployment's own policy counts."""
    world.attestation = Policy.REQUIRE
    assert enroll(_REQUEST, tmp_path, world.ports()).identity.attested
    assert len(world.requests) == 1


def test_where_nobody_wants_it_the_tpm_is_left_alone(world: World, tmp_path: Path) -> None:
    """Nothing is started that the API has not asked for."""
    outcome = enroll(_REQUEST, tmp_path, world.ports())
    assert (world.tpm.starts, outcome.identity.attested) == (0, False)
    assert "attestation" not in _names(outcome)


@pytest.mark.parametrize("has_token", [True, False])
def test_what_cannot_be_attested_and_has_to_be_costs_no_key(world: World, tmp_path: Path, has_token: bool) -> None:
    """It is said before a login, and before a token is made, with what to do: exit status 31."""
    world.tpm.fault, world.invite, world.has_token = NO_TPM, _REQUIRE, has_token
    with pytest.raises(BackendRefusedError, match="requires proof that the key is in a TPM: ") as raised:
        enroll(Request(None), tmp_path, world.ports())
    assert (raised.value.exit_status, raised.value.problem_code) == (31, "attestation-required")
    assert raised.value.hint
    assert (world.logins, world.calls) == (0, ["find token"])
    assert Attempt.load(tmp_path) is None


def test_what_cannot_be_attested_and_need_not_be_goes_on(world: World, tmp_path: Path) -> None:
    """It is said in one line, with what to do."""
    world.tpm.fault, world.invite = NO_TPM, _PREFER
    assert not enroll(Request(None), tmp_path, world.ports()).identity.attested
    assert [line for line in world.said if "attested" in line] == [
        f"- the key is not attested: {NO_TPM.message}. {NO_TPM.hint}"
    ]


@pytest.mark.parametrize("where", ["challenge", "statement"])
def test_a_tpm_that_is_refused_or_fails_does_not_stop_a_device_that_need_not_have_one(
    world: World, tmp_path: Path, where: str
) -> None:
    """``prefer`` can be switched on before the operator trusts every vendor: it goes on, and warns of the reason."""
    world.invite = _PREFER
    if where == "challenge":
        world.attestations.refused = {b"ek": "ek-untrusted"}
    else:
        world.tpm.error = TokenRefusedError("the TPM refuses")
    outcome = enroll(Request(None), tmp_path, world.ports(), world.progress)
    assert not outcome.identity.attested
    # The TPM was asked to certify the key only if the API would have accepted that; that is not shown as done.
    assert ("begin attestation" in world.calls) == (where == "statement")
    assert "end attestation" not in world.calls
    assert "attestation" not in _names(outcome)
    [warning] = [line for line in world.said if line.startswith("warning: the key is not attested: ")]
    assert "ek-untrusted" in warning or "the TPM refuses" in warning


@pytest.mark.parametrize("where", ["challenge", "statement"])
def test_a_tpm_that_is_refused_or_fails_stops_a_device_that_has_to_have_one(
    world: World, tmp_path: Path, where: str
) -> None:
    """Without a proof no request is sent, and the next run goes on with the same key."""
    world.invite = _REQUIRE
    error: type[HsmEnrollError] = TokenRefusedError
    if where == "challenge":
        world.attestations.refused, error = {b"ek": "ek-untrusted"}, BackendRefusedError
    else:
        world.tpm.error = TokenRefusedError("the TPM refuses")
    with pytest.raises(error):
        enroll(Request(None), tmp_path, world.ports())
    assert (world.requests, world.tpm.running) == ([], 0)
    world.attestations.refused, world.tpm.error = {}, None
    assert enroll(Request(None), tmp_path, world.ports()).identity.attested
    assert len(world.keys) == 1


def test_a_network_that_fails_is_no_reason_to_go_without(world: World, tmp_path: Path) -> None:
    """What passes is told, also where a proof is only preferred: the next run gives it."""
    world.invite, world.tpm.error = _PREFER, BackendUnreachableError("no answer")
    with pytest.raises(BackendUnreachableError):
        enroll(Request(None), tmp_path, world.ports())
    assert world.requests == []


def test_another_endorsement_key_of_the_tpm_may_be_the_known_one(world: World, tmp_path: Path) -> None:
    """An operator may have listed the RSA key of a TPM that has both."""
    world.tpm.eks, world.attestations.listed = [b"p-384", b"rsa"], {b"rsa": "gateway-17"}
    assert enroll(Request(None), tmp_path, world.ports()).identity.thing_name == "gateway-17"
    assert world.attestations.asked == [(b"p-384", None), (b"rsa", None)]


def test_of_several_refused_endorsement_keys_the_preferred_one_is_told(world: World, tmp_path: Path) -> None:
    """That is the one which the operator has to trust first."""
    world.tpm.eks = [b"p-384", b"rsa"]
    world.invite, world.attestations.refused = _REQUIRE, {b"p-384": "ek-untrusted", b"rsa": "ek-unknown"}
    with pytest.raises(BackendRefusedError) as raised:
        enroll(Request(None), tmp_path, world.ports())
    assert raised.value.problem_code == "ek-untrusted"


@pytest.mark.parametrize("code", ["attestation-expired", "attestation-unknown", "attestation-used"])
def test_a_session_that_is_over_is_replaced_once(world: World, tmp_path: Path, code: str) -> None:
    """A person took long to enter a PIN, or the network was down: the same CSR is sent with new evidence."""
    world.invite, world.attestations.evidence = _REQUIRE, [code]
    assert enroll(Request(None), tmp_path, world.ports()).identity.attested
    assert (len(world.attestations.asked), len(world.requests), len({*world.requests})) == (2, 2, 1)
    world.attestations.evidence = [code, code]
    with pytest.raises(BackendRefusedError):
        enroll(Request("gateway-17", new_key=True), tmp_path, world.ports())


def test_other_evidence_that_is_refused_is_not_made_again(world: World, tmp_path: Path) -> None:
    """A TPM whose statement is wrong would make the same one again."""
    world.invite, world.attestations.evidence = _REQUIRE, ["attestation-signature-wrong"]
    with pytest.raises(BackendRefusedError):
        enroll(Request(None), tmp_path, world.ports())
    assert (len(world.attestations.asked), len(world.requests)) == (1, 1)


@pytest.mark.parametrize("code", ["attestation-required", "invite-required"])
def test_a_request_that_lacks_a_proof_is_sent_again_with_one(world: World, tmp_path: Path, code: str) -> None:
    """The deployment did not say so beforehand; and a TPM that the operator has listed stands in for an invite."""
    world.refusal = code
    assert enroll(_REQUEST, tmp_path, world.ports()).identity.attested
    assert (len(world.requests), len({*world.requests}), world.tpm.running) == (2, 1, 0)


@pytest.mark.parametrize(("code", "told"), [("attestation-required", "requires proof"), ("invite-required", "refused")])
def test_a_request_that_lacks_a_proof_and_cannot_have_one_is_refused(
    world: World, tmp_path: Path, code: str, told: str
) -> None:
    """The error says why this token cannot give it; one about an invite stays what it is."""
    world.refusal, world.tpm.fault = code, NO_TPM
    with pytest.raises(BackendRefusedError, match=told) as raised:
        enroll(_REQUEST, tmp_path, world.ports())
    assert raised.value.problem_code == code
    assert len(world.requests) == 1


def test_the_chip_is_the_invite(world: World, tmp_path: Path) -> None:
    """Without an invite and a name the TPM says which Thing it is, before there is a key; nothing else is asked for."""
    world.attestations.listed = {b"ek": "gateway-9"}
    outcome = enroll(Request(None), tmp_path, world.ports())
    assert (outcome.identity.thing_name, outcome.identity.attested) == ("gateway-9", True)
    assert _names(outcome) == ["token", "invite", "thing", *_STEPS[2:]]
    assert (len(world.requests), world.attestations.asked) == (1, [(b"ek", None)])


def test_a_chip_that_nobody_knows_costs_no_key(world: World, tmp_path: Path) -> None:
    """It is refused before a login, with the API's own reason."""
    with pytest.raises(BackendRefusedError, match="ek-unknown"):
        enroll(Request(None), tmp_path, world.ports())
    assert (world.logins, world.calls, Attempt.load(tmp_path)) == (0, ["find token"], None)


@pytest.mark.parametrize("name", ["x" * 65, "a b"])
def test_d31_a_thing_that_cannot_be_in_a_certificate_is_not_taken(world: World, tmp_path: Path, name: str) -> None:
    """D31: the API says which Thing a TPM is, and its name has to fit."""
    world.attestations.listed = {b"ek": name}
    with pytest.raises(UsageError, match="not a valid Thing name"):
        enroll(Request(None), tmp_path, world.ports())
    assert world.logins == 0


def test_without_a_tpm_something_has_to_name_the_thing(world: World, tmp_path: Path) -> None:
    """The error says what can, and why the token cannot."""
    world.tpm.fault = NO_TPM
    with pytest.raises(UsageError, match="no Thing name given") as raised:
        enroll(Request(None), tmp_path, world.ports())
    assert "--thing NAME" in raised.value.hint
    assert NO_TPM.message in raised.value.hint


@pytest.mark.parametrize("by_chip", [False, True])
@pytest.mark.parametrize("has_effect", [False, True], ids=["before", "after"])
def test_d10_power_may_go_at_any_call(tmp_path: Path, has_effect: bool, by_chip: bool) -> None:
    """D10: cut off anywhere, the next run starts a new session for the same key and the same request."""

    def new(_: Path) -> World:
        world = World()
        world.tpm.fault = None
        world.attestation, world.attestations.listed = Policy.REQUIRE, {b"ek": "gateway-17"}
        return world

    def run(world: World, folder: Path) -> Outcome:
        return enroll(Request(None) if by_chip else _REQUEST, folder, world.ports(), world.progress)

    for world, folder in cut_off(tmp_path, new, run, has_effect=has_effect, least=5):
        outcome = run(world, folder)
        assert outcome.identity.attested
        assert (len(world.keys), len({*world.requests}), world.tpm.running) == (1, 1, 0)


# --- renewals -------------------------------------------------------------------------------------------------------


@pytest.fixture
def attested(world: World, tmp_path: Path) -> World:
    """A device whose key is attested, in a deployment that does not ask for it any more."""
    world.attestation = Policy.REQUIRE
    enroll(_REQUEST, tmp_path, world.ports())
    world.attestation = Policy.OFF
    world.requests.clear()
    world.attestations.asked.clear()
    world.tpm.pins.clear()
    world.logins = 0
    return world


def test_the_renewal_of_an_attested_key_is_attested(attested: World, tmp_path: Path) -> None:
    """Whatever the deployment says: the proof does not get lost. One challenge, one login."""
    outcome = renew(tmp_path, attested.own_ports(), attested, None, attested.progress)
    assert outcome.identity.attested
    names = [step.name for step in outcome.steps]
    assert names[:6] == ["token", "challenge", "key", "csr", "attestation", "certificate"]
    assert (len(attested.requests), len(attested.attestations.asked), attested.logins) == (1, 1, 1)
    assert (attested.tpm.pins, attested.tpm.running) == ([Secret("1234")], 0)


@pytest.mark.parametrize("reason", ["refused", "impossible"])
def test_an_attested_key_is_not_renewed_without_a_proof(attested: World, tmp_path: Path, reason: str) -> None:
    """It is said before a key is made, and leaves nothing unfinished."""
    if reason == "refused":
        attested.attestations.refused = {b"ek": "ek-mismatch"}
    else:
        attested.tpm.fault = NO_TPM
    with pytest.raises(BackendRefusedError):
        renew(tmp_path, attested.own_ports(), attested)
    assert (len(attested.keys), attested.requests, attested.tpm.running) == (1, [], 0)
    assert Renewal.load(tmp_path) is None


@pytest.mark.parametrize("policy", [Policy.PREFER, Policy.REQUIRE])
def test_a_renewal_brings_the_proof_that_was_not_wanted_before(world: World, tmp_path: Path, policy: Policy) -> None:
    """A fleet becomes attested by its renewals."""
    enroll(_REQUEST, tmp_path, world.ports())
    world.attestation = policy
    assert renew(tmp_path, world.own_ports(), world).identity.attested


def test_a_token_outside_of_the_tpm_is_not_renewed_into_it(world: World, tmp_path: Path) -> None:
    """A renewal stays in its token, so the hint names the way that leads to another one."""
    enroll(_REQUEST, tmp_path, world.ports())
    world.attestation, world.tpm.fault = Policy.REQUIRE, NO_TPM
    with pytest.raises(BackendRefusedError, match="requires proof") as raised:
        renew(tmp_path, world.own_ports(), world)
    assert "fleet replace gateway-17" in raised.value.hint
    assert "init --new-key --token-label LABEL INVITE" in raised.value.hint


def test_a_renewal_that_need_not_be_attested_goes_on_without(world: World, tmp_path: Path) -> None:
    """As an enrollment does; the challenge is not shown as answered."""
    enroll(_REQUEST, tmp_path, world.ports())
    world.attestation, world.attestations.refused = Policy.PREFER, {b"ek": "ek-untrusted"}
    outcome = renew(tmp_path, world.own_ports(), world, None, world.progress)
    assert not outcome.identity.attested
    assert "challenge" not in [step.name for step in outcome.steps]
    assert "begin challenge" in world.calls
    assert "end challenge" not in world.calls
    assert any(line.startswith("warning: the key is not attested") for line in world.said)


def test_a_renewals_session_that_is_over_is_replaced_once(attested: World, tmp_path: Path) -> None:
    """As for an enrollment."""
    attested.attestations.evidence = ["attestation-expired"]
    assert renew(tmp_path, attested.own_ports(), attested).identity.attested
    assert (len(attested.attestations.asked), len({*attested.requests})) == (2, 1)


def test_a_key_that_is_gone_ends_an_attested_renewal(attested: World, tmp_path: Path) -> None:
    """Without the current key no challenge can be asked for: nothing is left unfinished."""
    attested.keys.clear()
    with pytest.raises(KeyMissingError):
        renew(tmp_path, attested.own_ports(), attested)
    assert Renewal.load(tmp_path) is None


@pytest.mark.parametrize("has_effect", [False, True], ids=["before", "after"])
def test_d10_power_may_go_at_any_call_of_an_attested_renewal(tmp_path: Path, has_effect: bool) -> None:
    """D10: cut off anywhere, the next run finishes the renewal, attested, with one key and one certificate."""

    def enrolled(folder: Path) -> World:
        world = World()
        world.tpm.fault, world.attestation = None, Policy.REQUIRE
        enroll(_REQUEST, folder, world.ports())
        return world

    def run(world: World, folder: Path) -> renewal.Outcome:
        return renewal.renew(folder, world.own_ports(), world, None, world.progress)

    for world, folder in cut_off(tmp_path, enrolled, run, has_effect=has_effect, least=10):
        assert run(world, folder).identity.attested
        [key] = world.keys.values()
        assert Identity.load(folder).certificate.public_key.dump() == key.public_key_info
        assert (world.ledger.active, world.tpm.running) == ({key.public_key_info}, 0)
