"""Enrollment against a token, an API and a broker in memory: what it does, and what a power cut cannot break."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.backend_api.client import Issued, Terms
from hsm_enroll.device.enrollment import Outcome, enroll
from hsm_enroll.device.pending import What, pending
from hsm_enroll.device.plan import Request, Said
from hsm_enroll.errors import (
    BackendRefusedError,
    BackendUnreachableError,
    BusyError,
    ClockError,
    ForeignCertificateError,
    HsmEnrollError,
    KeyMissingError,
    MqttError,
    MqttRefusedError,
    MqttUnreachableError,
    PinWrongError,
    TokenNotFoundError,
    TokenRefusedError,
    UnexpectedResponseError,
    UsageError,
)
from hsm_enroll.key import KeyType
from hsm_enroll.store import files
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from tests.support.power_cuts import cut_off
from tests.support.world import PowerCut, World, report

_REQUEST = Request("gateway-17")
_NEW_KEY = Request("gateway-17", new_key=True)
_P384 = Said(key_type=KeyType.EC_P384)
_STEPS = ["token", "invite", "key", "csr", "certificate", "store", "message"]


@pytest.fixture
def world() -> World:
    """A token without keys, an API that issues, a broker that listens."""
    return World()


def _skipped(outcome: Outcome) -> list[str]:
    """The steps that an earlier run had done, or that were not wanted; these devices have no invite."""
    return [step.name for step in outcome.steps if step.skipped and step.name != "invite"]


def test_a_new_device_is_enrolled_in_six_steps(world: World, tmp_path: Path) -> None:
    """One key, one request, one login, one message; the identity names them, and nothing is under way afterwards."""
    outcome = enroll(_REQUEST, tmp_path, world.ports())
    assert [step.name for step in outcome.steps] == _STEPS
    assert _skipped(outcome) == []
    [key] = world.keys.values()
    [csr] = world.requests
    assert x509.load_pem_x509_csr(csr.encode()).subject.rfc4514_string() == "CN=gateway-17"
    assert outcome.identity == Identity.load(tmp_path)
    assert outcome.identity.certificate.public_key.dump() == key.public_key_info
    assert (world.logins, world.messages) == (1, ["gateway-17"])
    assert Attempt.load(tmp_path) is None


def test_the_token_is_closed_while_the_api_may_be_busy(world: World, tmp_path: Path) -> None:
    """D16: the request may wait for its turn for hours; a TPM's session and a login are not held that long."""
    enroll(_REQUEST, tmp_path, world.ports())
    assert world.open_at_request is False


def test_an_enrolled_device_contacts_nobody(world: World, tmp_path: Path) -> None:
    """Run again it asks the token for the public key, without a login, and does nothing else."""
    first = enroll(_REQUEST, tmp_path, world.ports())
    again = enroll(Request(None), tmp_path, world.ports())
    assert (again.already_enrolled, again.steps, again.identity) == (True, (), first.identity)
    assert (world.logins, world.contacts, len(world.requests), len(world.messages)) == (1, 1, 1, 1)
    assert world.calls == []


def test_no_message_is_sent_where_none_is_wanted(world: World, tmp_path: Path) -> None:
    """Without a publisher the message's step is skipped, and the device is enrolled all the same."""
    outcome = enroll(_REQUEST, tmp_path, world.ports(publishes=False))
    assert _skipped(outcome) == ["message"]
    assert Attempt.load(tmp_path) is None


def test_a_key_that_is_gone_is_said(world: World, tmp_path: Path) -> None:
    """D8: an identity whose key the token has lost, or has another key for, is not called enrolled."""
    enroll(_REQUEST, tmp_path, world.ports())
    [name] = world.keys
    del world.keys[name]
    with pytest.raises(KeyMissingError):
        enroll(_REQUEST, tmp_path, world.ports())
    world.generate(KeyType.EC_P256, label=name[0], key_id=name[1])
    with pytest.raises(KeyMissingError, match="does not match the certificate"):
        enroll(_REQUEST, tmp_path, world.ports())


def test_a_key_type_that_the_token_lacks_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    """What the token says beforehand that it cannot do costs no login and no journal."""
    world.token = report((KeyType.EC_P384,))
    with pytest.raises(TokenRefusedError, match="ec-p256"):
        enroll(_REQUEST, tmp_path, world.ports())
    assert (world.logins, world.calls) == (0, ["find token"])
    assert Attempt.load(tmp_path) is None


def test_wrong_usage_is_said_before_anything_is_asked(world: World, tmp_path: Path) -> None:
    """With a Thing name that is not valid neither token nor API is asked."""
    with pytest.raises(UsageError):
        enroll(Request("../x"), tmp_path, world.ports())
    assert (world.contacts, world.calls) == (0, [])


def test_the_invite_names_the_thing(world: World, tmp_path: Path) -> None:
    """A technician who has an invite need not type a name."""
    world.invite = Terms("gateway-17")
    assert enroll(Request(None), tmp_path, world.ports()).identity.thing_name == "gateway-17"


def test_d10_a_request_that_may_have_been_carried_out_outlives_its_invite(world: World, tmp_path: Path) -> None:
    """D10, D16: power went before the answer came, and the invite has expired since: the same request is sent again."""
    world.invite, world.dies_at = Terms("gateway-17"), (5, True)
    with pytest.raises(PowerCut, match="enroll"):
        enroll(Request(None), tmp_path, world.ports())
    world.invite, world.dies_at = BackendRefusedError("refused", problem_code="invite-invalid"), None
    assert enroll(Request(None), tmp_path, world.ports()).identity.thing_name == "gateway-17"
    assert len({*world.requests}) == len(world.keys) == 1


def test_a_broker_that_refuses_the_new_key_does_not_keep_it_for_ever(world: World, tmp_path: Path) -> None:
    """D19: plain runs repeat the first message; ``new_key`` gets another certificate, for this one may be revoked."""
    enroll(_REQUEST, tmp_path, world.ports())
    world.broker = [MqttRefusedError("refused")]
    for request in (_NEW_KEY, _REQUEST):
        with pytest.raises(MqttRefusedError):
            enroll(request, tmp_path, world.ports())
    assert len(world.keys) == len({*world.requests}) == 2
    world.broker = [None]
    enroll(_NEW_KEY, tmp_path, world.ports())
    assert len({*world.requests}) == 3


@pytest.mark.parametrize(
    "invite",
    [
        None,
        Terms("gateway-*"),
        BackendRefusedError("refused", problem_code="invite-invalid"),
        BackendUnreachableError("no answer"),
        UnexpectedResponseError("a portal"),
    ],
)
def test_an_invite_that_will_not_do_costs_no_key(
    world: World, tmp_path: Path, invite: Terms | HsmEnrollError | None
) -> None:
    """S12, D17: an invite that is refused or names no Thing, and an API that cannot be had, are said before a login."""
    world.invite = invite
    with pytest.raises(HsmEnrollError) as caught:
        enroll(Request(None), tmp_path, world.ports())
    assert caught.value is invite or isinstance(caught.value, UsageError)
    assert (world.logins, world.calls) == (0, ["find token"])
    assert Attempt.load(tmp_path) is None


def test_d13_a_second_run_does_not_wait(world: World, tmp_path: Path) -> None:
    """D13: while another run holds the folder, nothing is asked."""
    with files.locked(tmp_path), pytest.raises(BusyError):
        enroll(_REQUEST, tmp_path, world.ports())
    assert (world.contacts, world.calls) == (0, [])


@pytest.mark.parametrize("flaw", ["another key", "expired"])
def test_d18_a_certificate_that_is_not_for_this_device_is_not_stored(world: World, tmp_path: Path, flaw: str) -> None:
    """D18: a certificate for another key, or an expired one, is refused, and the next run asks again."""
    if flaw == "expired":
        world.lifetime = timedelta(seconds=-1)
        with pytest.raises(ForeignCertificateError, match="expired"):
            enroll(_REQUEST, tmp_path, world.ports())
    else:
        other = World()
        stranger = enroll(_REQUEST, tmp_path / "other", other.ports()).identity
        world.answer = Issued(stranger.certificate_pem, "0b" * 32, "gateway-17", "localhost", 8883, attested=False)
        with pytest.raises(ForeignCertificateError, match="another key"):
            enroll(_REQUEST, tmp_path, world.ports())
    assert not (tmp_path / "identity.json").exists()
    attempt = Attempt.load(tmp_path)
    assert attempt is not None
    assert attempt.csr == world.requests[0]


@pytest.mark.parametrize("code", ["thing-enrolled", "invite-required"])
def test_a_refused_request_is_repeated_as_it_was(world: World, tmp_path: Path, code: str) -> None:
    """A refusal that another invite can lift keeps key and request, also with ``new_key``."""
    world.refusal = code
    for request in (_REQUEST, _NEW_KEY):
        with pytest.raises(BackendRefusedError):
            enroll(request, tmp_path, world.ports())
    world.refusal = ""
    outcome = enroll(_REQUEST, tmp_path, world.ports())
    assert _skipped(outcome) == ["key", "csr"]
    assert len({*world.requests}) == len(world.keys) == 1


@pytest.mark.parametrize("code", ["key-enrolled", "thing-revoked"])
def test_a_spent_key_is_replaced_on_request(world: World, tmp_path: Path, code: str) -> None:
    """A key that the API never takes again is kept by plain runs, and replaced in its place by ``new_key``."""
    world.refusal = code
    for _ in range(2):
        with pytest.raises(BackendRefusedError):
            enroll(_REQUEST, tmp_path, world.ports())
    assert len({*world.requests}) == 1
    world.refusal = ""
    enroll(_NEW_KEY, tmp_path, world.ports())
    assert len({*world.requests}) == 2
    assert len(world.keys) == 1


def test_another_thing_takes_the_same_key(world: World, tmp_path: Path) -> None:
    """A mistyped Thing name that was refused costs no second key: the request is built anew."""
    world.refusal = "invite-invalid"
    with pytest.raises(BackendRefusedError):
        enroll(Request("gatewya-17"), tmp_path, world.ports())
    world.refusal = ""
    outcome = enroll(_REQUEST, tmp_path, world.ports())
    assert _skipped(outcome) == ["key"]
    assert len(world.keys) == 1


@pytest.mark.parametrize("code", ["thing-enrolled", "thing-revoked", "invite-required"])
def test_a_refused_replacement_leaves_the_identity_as_it_was(world: World, tmp_path: Path, code: str) -> None:
    """D10: after a refused ``new_key`` plain runs are enrolled with the old key, and ``new_key`` goes on."""
    first = enroll(_REQUEST, tmp_path, world.ports()).identity
    world.refusal = code
    with pytest.raises(BackendRefusedError):
        enroll(_NEW_KEY, tmp_path, world.ports())
    asked = len(world.requests)
    plain = enroll(_REQUEST, tmp_path, world.ports())
    assert (plain.identity, plain.already_enrolled) == (first, True)
    unfinished = pending(tmp_path, first)
    assert unfinished is not None
    assert unfinished.what is What.REPLACEMENT
    assert len(world.requests) == asked
    world.refusal = ""
    second = enroll(_NEW_KEY, tmp_path, world.ports()).identity
    assert {key_id for _, key_id in world.keys} == {first.key_id, second.key_id}
    enroll(_REQUEST, tmp_path, world.ports())
    assert pending(tmp_path, second) is None


def test_an_attempt_of_another_key_type_is_given_up_with_its_key(world: World, tmp_path: Path) -> None:
    """Another key type while one is under way is refused; ``new_key`` destroys the key and makes the other one."""
    world.dies_at = (5, False)
    with pytest.raises(PowerCut, match="enroll"):
        enroll(_REQUEST, tmp_path, world.ports())
    world.dies_at = None
    with pytest.raises(UsageError, match="an unfinished enrollment"):
        enroll(Request("gateway-17", said=_P384), tmp_path, world.ports())
    enroll(Request("gateway-17", new_key=True, said=_P384), tmp_path, world.ports())
    [key] = world.keys.values()
    assert key.key_type is KeyType.EC_P384


def test_a_run_without_a_key_type_takes_the_journals_and_says_so(world: World, tmp_path: Path) -> None:
    """After Ctrl-C on another key type, plain ``init`` goes on with that type; asking for another one is refused."""
    world.dies_at = (5, False)
    with pytest.raises(PowerCut, match="enroll"):
        enroll(Request("gateway-17", said=_P384), tmp_path, world.ports())
    world.dies_at = None
    with pytest.raises(UsageError, match="uses a key of type ec-p384, not ec-p256"):
        enroll(Request("gateway-17", said=Said(key_type=KeyType.EC_P256)), tmp_path, world.ports())
    assert world.calls == []
    assert enroll(_REQUEST, tmp_path, world.ports()).identity.key_type is KeyType.EC_P384
    assert "- resuming an unfinished enrollment, whose key is of type ec-p384" in world.said


def test_what_contradicts_an_enrollment_contacts_nobody(world: World, tmp_path: Path) -> None:
    """Another API, key type or token is wrong usage, before token, API or PIN is needed; the same is not."""
    identity = enroll(_REQUEST, tmp_path, world.ports()).identity
    asked = world.contacts
    link = tmp_path / "module.so"
    link.symlink_to(identity.token.module)
    for said in (Said(api="https://other.example"), _P384, Said(module=tmp_path)):
        with pytest.raises(UsageError, match="this device"):
            enroll(Request(None, said=said), tmp_path, world.ports())
    same = Said(world.base_url, KeyType.EC_P256, identity.token.uri, link)
    assert enroll(Request(None, said=same), tmp_path, world.ports()).already_enrolled
    assert (world.contacts, world.calls) == (asked, [])


def test_an_invite_is_not_needed_where_the_device_is_enrolled(world: World, tmp_path: Path) -> None:
    """The same command again, with the invite in it, finds the device enrolled and contacts no server."""
    enroll(_REQUEST, tmp_path, world.ports())
    asked = world.contacts
    assert enroll(Request(None, said=Said(has_invite=True)), tmp_path, world.ports()).already_enrolled
    assert (world.contacts, world.calls) == (asked, [])


@pytest.mark.parametrize(
    "invite", [BackendRefusedError("refused", problem_code="invite-invalid"), Terms("gateway-17", is_used_up=True)]
)
def test_a_refused_invite_leaves_no_token_behind(world: World, tmp_path: Path, invite: Terms | HsmEnrollError) -> None:
    """``--create-token`` waits for what the invite says; with a good one, the token is a step of its own."""
    world.has_token, world.invite = False, invite
    with pytest.raises(BackendRefusedError):
        enroll(Request(None), tmp_path, world.ports())
    assert world.calls == ["find token"]
    world.invite = Terms("gateway-17")
    outcome = enroll(Request(None), tmp_path, world.ports())
    assert [step.name for step in outcome.steps] == [*_STEPS[:2], "create-token", *_STEPS[2:]]


def test_no_token_is_created_for_an_enrollment_that_has_one(world: World, tmp_path: Path) -> None:
    """An unfinished enrollment whose token is not there is not resumed with a new one, unless it is given up."""
    world.dies_at = (5, False)
    with pytest.raises(PowerCut, match="enroll"):
        enroll(_REQUEST, tmp_path, world.ports())
    world.dies_at, world.has_token = None, False
    with pytest.raises(TokenNotFoundError):
        enroll(_REQUEST, tmp_path, world.ports())
    assert world.calls == ["find token"]
    enroll(_NEW_KEY, tmp_path, world.ports())
    assert "create token" in world.calls


def test_d14_a_clock_past_the_certificates_end_makes_no_key(world: World, tmp_path: Path) -> None:
    """D14: the API's clock decides whether a certificate has ended; without an answer nothing is made."""
    first = enroll(_REQUEST, tmp_path, world.ports()).identity
    world.time.shift = timedelta(days=3651)
    world.api_time = datetime.now(UTC)
    with pytest.raises(ClockError, match="this machine's clock is wrong"):
        enroll(_REQUEST, tmp_path, world.ports())
    assert (len(world.keys), world.logins, world.calls) == (1, 1, [])
    world.time.shift = timedelta(days=10_000)
    contacts = world.contacts
    with pytest.raises(ClockError, match="this machine's clock is wrong"):
        enroll(_REQUEST, tmp_path, world.ports())
    assert world.contacts == contacts
    world.time.shift, world.api_time = timedelta(days=3651), datetime.now(UTC) + timedelta(days=3651)
    world.lifetime *= 2
    assert enroll(_REQUEST, tmp_path, world.ports()).identity.key_id != first.key_id


def test_another_thing_leaves_the_old_one_active_and_says_so(world: World, tmp_path: Path) -> None:
    """Who enrolls a device as another Thing learns that the old one goes on, and what the operator has to run."""
    enroll(_REQUEST, tmp_path, world.ports())
    enroll(_NEW_KEY, tmp_path, world.ports())
    assert not [text for text in world.said if text.startswith("warning")]
    enroll(Request("gateway-18", new_key=True), tmp_path, world.ports())
    [warning] = [text for text in world.said if text.startswith("warning")]
    assert "the Thing gateway-17 stays active" in warning
    assert "hsm-enroll fleet revoke gateway-17" in warning


@pytest.mark.parametrize("error", [MqttUnreachableError("no broker"), PinWrongError("refused the PIN")])
def test_a_first_message_that_fails_is_not_a_failed_enrollment(
    world: World, tmp_path: Path, error: HsmEnrollError
) -> None:
    """The error is the message's own and says that the device is enrolled; the next run only sends the message."""
    told = f"this device is enrolled as gateway-17; only the first message was not sent: {error.message}"
    world.broker = [error]
    with pytest.raises(type(error)) as raised:
        enroll(_REQUEST, tmp_path, world.ports())
    assert (raised.value.message, str(raised.value)) == (told, told)
    assert raised.value.hint.endswith(" The next hsm-enroll init only sends the message.")
    unfinished = pending(tmp_path, Identity.load(tmp_path))
    assert unfinished is not None
    assert unfinished.what is What.MESSAGE
    world.broker = [None]
    outcome = enroll(_REQUEST, tmp_path, world.ports())
    assert ([step.name for step in outcome.steps], world.messages) == (["message"], ["gateway-17"])
    assert pending(tmp_path, outcome.identity) is None


def test_d19_a_new_certificates_rights_are_waited_for(world: World, tmp_path: Path) -> None:
    """D19: attachments take AWS IoT some seconds: the first connection is tried again, with jitter, and it is said."""
    world.broker = [MqttRefusedError("refused"), MqttRefusedError("refused"), None]
    enroll(_REQUEST, tmp_path, world.ports())
    assert world.messages == ["gateway-17"]
    assert len(set(world.time.waits)) == 2
    assert len([text for text in world.said if "trying again for up to 30 s" in text]) == 1
    assert len([text for text in world.said if "trying again for up to" in text]) == 2


def test_d19_a_broker_that_goes_on_refusing_is_given_up_after_half_a_minute(world: World, tmp_path: Path) -> None:
    """D19: it is tried for 30 s and no longer; a later run, whose certificate is not new, tries once."""
    world.broker = [MqttRefusedError("refused")]
    with pytest.raises(MqttRefusedError):
        enroll(_REQUEST, tmp_path, world.ports())
    assert sum(world.time.waits) == pytest.approx(30)
    assert len(world.time.waits) < 40
    waits = len(world.time.waits)
    with pytest.raises(MqttRefusedError):
        enroll(_REQUEST, tmp_path, world.ports())
    assert len(world.time.waits) == waits


@pytest.mark.parametrize(
    "error", [MqttRefusedError("rejected", of_certificate=True), MqttUnreachableError("no broker"), MqttError("lost")]
)
def test_d19_what_waiting_does_not_help_is_told_at_once(world: World, tmp_path: Path, error: HsmEnrollError) -> None:
    """D19: a certificate that is told to be inactive, and a network that is not there, are not tried again."""
    world.broker = [error]
    with pytest.raises(MqttError):
        enroll(_REQUEST, tmp_path, world.ports())
    assert world.time.waits == []


def test_what_is_waited_for_is_told(world: World, tmp_path: Path) -> None:
    """Both waits for the API say what for and how long."""
    world.invite = Terms("gateway-17")
    enroll(Request(None), tmp_path, world.ports())
    assert world.said == ["waiting for the API at https://api.example, up to 45 s"] * 2


_RUNS = st.tuples(
    st.builds(
        Request,
        st.sampled_from(["gateway-17", "gateway-18", None]),
        st.sampled_from([KeyType.EC_P256, KeyType.EC_P384]),
        new_key=st.booleans(),
        said=st.builds(Said, key_type=st.sampled_from([None, KeyType.EC_P256, KeyType.EC_P384])),
    ),
    st.sampled_from(["", "", "", "thing-enrolled", "key-enrolled"]),
    st.none() | st.tuples(st.integers(1, 7), st.booleans()),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(_RUNS, max_size=6))
def test_d10_whatever_happened_one_more_run_enrolls(runs: list[tuple[Request, str, tuple[int, bool] | None]]) -> None:
    """D10: after any runs, refused or cut short, one run enrolls; one key more than the identities' is never there."""
    world = World()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        identities = set[bytes]()
        for request, refusal, dies_at in runs:
            world.refusal, world.dies_at = refusal, dies_at
            before = _identity(folder)
            with suppress(PowerCut, UsageError, BackendRefusedError):
                enroll(request, folder, world.ports())
            after = _identity(folder)
            identities |= {one.key_id for one in (before, after) if one}
            # Nothing but a stored certificate takes the place of an identity.
            assert before is None or after is not None
            assert before is None or after == before or request.new_key
            assert len({key_id for _, key_id in world.keys} - identities) <= 1
        world.refusal, world.dies_at = "", None
        outcome = enroll(Request("gateway-17", new_key=True), folder, world.ports())
        key = world.keys[outcome.identity.key_label, outcome.identity.key_id]
        assert outcome.identity.certificate.public_key.dump() == key.public_key_info
        assert enroll(Request(None), folder, world.ports()).already_enrolled


@pytest.mark.parametrize("has_effect", [False, True], ids=["before", "after"])
def test_d10_power_may_go_at_any_call(tmp_path: Path, has_effect: bool) -> None:
    """D10: cut off at each call in turn, before or after its effect, the next run ends with one key and one request."""

    def run(world: World, folder: Path) -> Outcome:
        return enroll(_REQUEST, folder, world.ports())

    for world, folder in cut_off(tmp_path, lambda _: World(), run, has_effect=has_effect, least=5):
        outcome = run(world, folder)
        [key] = world.keys.values()
        assert outcome.identity.certificate.public_key.dump() == key.public_key_info
        assert len({*world.requests}) == 1
        assert outcome == replace(outcome, already_enrolled=False)
        assert set(world.messages) == {"gateway-17"}


def _identity(folder: Path) -> Identity | None:
    return Identity.load(folder) if (folder / "identity.json").exists() else None
