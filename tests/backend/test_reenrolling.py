"""EST's simplereenroll: who asks is who has the key of the TLS connection's certificate; there is no commit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from enrollment_backend.claims import SETTLING_SECONDS
from tests.backend.fleet import Device, forget_turns, going_wrong, iot, item, killed, lost
from tests.backend.test_sweep import by_route, scheduled
from tests.support.csr_factory import THING, forged, request, tlv
from tests.support.deployment import POLICY, Death, Deployment, assert_problem, certificate_for, deployed, load_handler
from tests.support.est import EstClient, certificates_in

HOUR = 3600

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def client(backend: Deployment) -> EstClient:
    """An enrolled client; the calls of its enrollment are forgotten."""
    enrolled = EstClient(backend, THING)
    enrolled.take(enrolled.enroll())
    backend.calls.clear()
    return enrolled


def events(backend: Deployment, name: str) -> list[dict[str, Any]]:
    """Return the lines of the log about an event."""
    return [line for line in backend.log_lines() if line["event"] == name]


def renewed(client: EstClient) -> EstClient:
    """Have a certificate issued for a new key; both can connect then."""
    successor = client.successor()
    successor.take(client.reenroll(successor.key))
    assert (len(client.device.usable()), len(successor.device.usable())) == (1, 1)
    return successor


def test_the_same_key_gets_the_same_certificate(client: EstClient) -> None:
    """RFC 7030 §4.2.2: AWS IoT's certificates do not expire, so nothing is issued."""
    before = client.certificate
    assert client.take(client.reenroll()).certificate == before
    client.device.assert_alone()
    assert "CreateCertificateFromCsr" not in client.backend.calls


def test_a_new_keys_certificate_becomes_the_things_when_it_is_used(client: EstClient) -> None:
    """Both are valid until then; afterwards the old one is gone, and the new one renews like any other."""
    successor = renewed(client)
    assert item("thing", THING)["spki_sha256"] == client.device.spki_sha256
    successor.take(successor.reenroll())
    assert client.device.certificates() == []
    successor.device.assert_alone()
    third = renewed(successor)
    third.take(third.reenroll())
    third.device.assert_alone()


def test_a_new_certificate_that_is_used_for_the_next_renewal_is_committed_first(client: EstClient) -> None:
    """A client that only ever renews has two certificates at most."""
    successor = renewed(client)
    third = renewed(successor)
    assert client.device.certificates() == []
    third.take(third.reenroll())
    third.device.assert_alone()


def test_a_lost_response_is_given_again(client: EstClient) -> None:
    """The same CSR gets the same certificate: while both are valid, and after the new one has become the Thing's."""
    successor = client.successor()
    (first,) = certificates_in(client.reenroll(successor.key))
    assert certificates_in(client.reenroll(successor.key)) == [first]
    successor.take(client.reenroll(successor.key))
    successor.take(successor.reenroll())
    assert certificates_in(client.reenroll(successor.key)) == [first]
    successor.device.assert_alone()


def test_a_client_with_yet_another_key_has_not_got_the_response(client: EstClient) -> None:
    """A client that makes a key for each try: the certificate that nobody has goes, and the next one is issued."""
    missed = renewed(client)
    successor = renewed(client)
    assert missed.device.usable() == []
    assert_problem(missed.reenroll(), 409, "key-not-current")
    successor.take(successor.reenroll())
    successor.device.assert_alone()


def test_a_client_that_goes_on_with_its_old_key_has_not_got_the_response(client: EstClient) -> None:
    """The pending renewal would cut it off; so it is undone."""
    missed = renewed(client)
    client.take(client.reenroll())
    assert missed.device.certificates() == []
    client.device.assert_alone()
    client.backend.clock.ahead += SETTLING_SECONDS + HOUR
    scheduled(client.backend)
    client.device.assert_alone()


@pytest.mark.parametrize("way", ["est", "est with another key", "a renewal of our own"])
def test_s19_the_operator_sees_that_an_old_key_was_used_again(client: EstClient, way: str) -> None:
    """S19: a restored disk, a response that never arrived, or a copy of the key; the next renewal ends the matter."""
    missed, successor = renewed(client), client.successor()
    if way == "est":
        client.take(client.reenroll())
    elif way == "est with another key":
        successor.take(client.reenroll(successor.key))
    else:
        assert client.device.renew(successor.device).status == 201
    (told,) = events(client.backend, "renewal-undone")
    assert (told["level"], told["thing"], told["because"]) == ("ERROR", THING, "old-key-used")
    assert told["spkiSha256"] == missed.device.spki_sha256
    assert undone(client.backend) == (item("thing", THING)["renewal_undone"], "old-key-used")
    if way == "est":
        successor.take(client.reenroll(successor.key))
    assert successor.device.commit().status == 204
    assert undone(client.backend) == (None, None)


def undone(backend: Deployment) -> tuple[str | None, str | None]:
    """Return when the Thing's renewal was undone, and why, as its operator is shown it, alone and in the list."""
    shown = backend.operate("GET", "fleet", thing=THING).json["thing"]
    assert backend.operate("GET", "fleet").json["things"] == [shown]
    moment = shown["renewalUndone"]
    seconds = moment and str(int(datetime.fromisoformat(moment).timestamp()))
    return seconds, shown["renewalUndoneBecause"]


@pytest.mark.parametrize("same_key", [True, False])
def test_what_no_device_can_have_is_undone_without_a_word(client: EstClient, same_key: bool) -> None:
    """The function died before it attached the certificate, or the operator had the key replaced."""
    missed, successor = client.successor(), client.successor()
    with going_wrong(client.device, killed("after", "TransactWriteItems 2")), pytest.raises(Death):
        client.reenroll(missed.key)
    if same_key:
        client.take(client.reenroll())
    else:
        successor.take(client.reenroll(successor.key))
        client = successor.take(successor.reenroll())
    assert missed.device.certificates() == []
    client.device.assert_alone()
    assert undone(client.backend) == (None, None)
    renewed(client)
    hardware = client.successor()
    hardware.take(hardware.enroll(client.backend.replacement(THING)))
    hardware.device.assert_alone()
    assert (events(client.backend, "renewal-undone"), undone(client.backend)) == ([], (None, None))


def test_the_same_next_key_once_more_is_no_renewal_that_failed(client: EstClient) -> None:
    """The response was lost, and the device asks again only after the time in which a renewal has to be committed."""
    successor = renewed(client)
    client.backend.clock.ahead += SETTLING_SECONDS + HOUR
    successor.take(client.reenroll(successor.key))
    assert (events(client.backend, "renewal-undone"), undone(client.backend)) == ([], (None, None))


def test_s19_an_old_key_that_comes_too_late_to_undo_gets_no_certificate_of_the_past(client: EstClient) -> None:
    """S19: the new certificate commits the renewal in that very moment; both are told, and nothing was undone."""
    successor = renewed(client)
    committed: list[int] = []

    def commit(phase: str, operation: str) -> None:
        if (phase, operation) == ("before", "TransactWriteItems") and not committed:
            committed.append(0)
            committed.append(successor.reenroll().status)

    client.backend.interrupt = commit
    assert_problem(client.reenroll(), 409, "key-not-current")
    client.backend.interrupt = lambda _phase, _operation: None
    assert committed == [0, 200]
    successor.device.assert_alone()
    assert len(events(client.backend, "renewal-contended")) == 1
    assert (events(client.backend, "renewal-undone"), undone(client.backend)) == ([], (None, None))


def test_a_renewal_that_the_device_makes_itself_is_not_undone(client: EstClient) -> None:
    """That one has a commit, which is still to come: EST with the old key meanwhile changes nothing."""
    successor = client.device.successor()
    assert client.device.renew(successor).status == 201
    client.take(client.reenroll())
    assert successor.commit().status == 204
    successor.assert_alone()


def test_a_renewal_becomes_the_things_by_itself(client: EstClient) -> None:
    """Never two certificates for good: after seven days and not before, by the hourly run, which is no alarm.

    A client that comes back later with the old one is: it, or somebody with a copy of its key, is locked out.
    """
    successor = renewed(client)
    client.backend.clock.ahead += SETTLING_SECONDS - HOUR
    scheduled(client.backend)
    assert (len(client.device.usable()), len(successor.device.usable())) == (1, 1)
    client.backend.clock.ahead += HOUR + 1
    scheduled(client.backend)
    assert client.device.certificates() == []
    successor.device.assert_alone()
    assert [line["level"] for line in events(client.backend, "renewal-settled")] == ["INFO"]
    for key in (client.key, client.successor().key):
        assert_problem(client.reenroll(key), 409, "key-not-current")
    assert [line["thing"] for line in events(client.backend, "renewal-contended")] == [THING] * 2


def test_an_old_renewal_is_still_committed_by_its_certificate(client: EstClient) -> None:
    """Before the hourly run gets to it."""
    successor = renewed(client)
    client.backend.clock.ahead += SETTLING_SECONDS + HOUR
    successor.take(successor.reenroll())
    successor.device.assert_alone()


def test_s23_a_renewal_whose_certificate_is_gone_is_undone(client: EstClient) -> None:
    """S23: a restored ledger may have one that was undone since; the Thing keeps the certificate that it has."""
    missed = renewed(client)
    (certificate,) = missed.device.certificates()
    certificate.status = "INACTIVE"
    client.backend.clock.ahead += SETTLING_SECONDS + HOUR
    scheduled(client.backend)
    client.device.assert_alone()


def test_a_renewal_that_was_never_issued_is_undone_after_an_hour(client: EstClient) -> None:
    """There is nothing that anybody could use."""
    forget_turns()
    successor = client.successor()
    with going_wrong(client.device, killed("before", "CreateCertificateFromCsr 1")), pytest.raises(Death):
        client.reenroll(successor.key)
    client.backend.clock.ahead += HOUR + 60
    scheduled(client.backend)
    client.device.assert_alone()


@pytest.mark.parametrize("step", ["TransactWriteItems 2", "AttachPolicy 1", "AttachThingPrincipal 1"])
def test_s15_a_certificate_that_was_never_sent_is_undone(client: EstClient, step: str) -> None:
    """S15: the function died before it could respond; a client that never asks again keeps the one that it has."""
    successor = client.successor()
    with going_wrong(client.device, killed("after", step)), pytest.raises(Death):
        client.reenroll(successor.key)
    client.backend.clock.ahead += HOUR + 60
    scheduled(client.backend)
    assert successor.device.certificates() == []
    client.device.assert_alone()


@pytest.mark.parametrize("step", ["TransactWriteItems 1", "TransactWriteItems 2", "AttachPolicy 1"])
def test_s15_a_lost_answer_of_aws_leaves_one_certificate(client: EstClient, step: str) -> None:
    """S15: the request again, as RFC 7030 §4.2.3 has it, ends with the new certificate alone."""
    successor = client.successor()
    with going_wrong(client.device, lost(step)):
        assert client.reenroll(successor.key).status in {200, 202, 503}
    client.backend.clock.ahead += 60
    successor.take(client.reenroll(successor.key))
    successor.take(successor.reenroll())
    successor.device.assert_alone()


def test_the_subject_is_the_things_name_or_that_of_the_certificate(client: EstClient) -> None:
    """RFC 7030 §4.2.2: it must be the certificate's; a CSR as for an enrollment is accepted as well."""
    assert client.reenroll(subject="AWS IoT Certificate").status == 200
    assert client.reenroll(subject=THING).status == 200
    assert_problem(client.reenroll(subject="press-18"), 400, "csr-common-name-mismatch")


def test_without_a_client_certificate_nothing_is_renewed(client: EstClient) -> None:
    """S19: the other address of the API does not ask for one; nothing in a header stands in for it."""
    client.certificate = None
    client.backend.log.truncate(client.backend.log.seek(0))
    answer = client.reenroll()
    assert client.backend.refused(answer, 403, "client-certificate-required")


def foreign(client: EstClient) -> str:
    """Return a certificate of the same CA, key and subject, which was not issued by AWS IoT."""
    return certificate_for(request(client.key))


@pytest.mark.parametrize("certificate", [foreign, lambda _: "junk", lambda _: "\ud800"], ids=["foreign", "junk", "bad"])
def test_s19_a_certificate_that_was_not_issued_here_is_refused(
    client: EstClient, certificate: Callable[[EstClient], str]
) -> None:
    """S19: whatever the truststore lets through, the ledger has to have exactly this certificate."""
    client.certificate = certificate(client)
    assert_problem(client.reenroll(), 403, "client-certificate-unknown")


def test_s19_a_certificate_of_the_sweep_is_not_one_of_a_device(client: EstClient) -> None:
    """S19, S21: the ledger has it as revoked, without a Thing."""
    orphan = certificate_for(request(ec.generate_private_key(ec.SECP256R1())))
    iot().attach_policy(POLICY, iot().register_certificate_without_ca(orphan, "ACTIVE").arn)
    client.backend.clock.ahead += 2 * HOUR
    assert len(by_route(client.backend)) == 1
    client.certificate = orphan
    assert_problem(client.reenroll(), 403, "client-certificate-unknown")


def test_s19_a_revoked_thing_renews_nothing(client: EstClient) -> None:
    """S19: neither with its certificate, nor with that of a renewal that was pending; both stay off."""
    successor = renewed(client)
    assert client.backend.operate("DELETE", "fleet", thing=THING).status == 204
    for who in (client, successor):
        for key in (client.key, successor.key, ec.generate_private_key(ec.SECP256R1())):
            assert who.reenroll(key).status == 409
    assert (client.device.usable(), successor.device.usable()) == ([], [])


def test_s19_a_revoked_thing_gives_its_certificate_to_nobody_again(client: EstClient) -> None:
    """S19: also not to who repeats the request that it was issued for; it is not attached again either."""
    successor = renewed(client)
    successor.take(successor.reenroll())
    assert client.backend.operate("DELETE", "fleet", thing=THING).status == 204
    client.backend.calls.clear()
    assert_problem(client.reenroll(successor.key), 409, "key-not-current")
    assert "AttachPolicy" not in client.backend.calls


def test_s19_the_key_of_new_hardware_ends_the_old_one(client: EstClient) -> None:
    """S19: who has the replaced hardware is refused, also with a CSR of the new one's key."""
    code = client.backend.replacement(THING)
    successor = client.successor()
    successor.take(successor.enroll(code))
    assert_problem(client.reenroll(), 409, "key-not-current")
    assert_problem(client.reenroll(successor.key), 409, "key-not-current")
    assert events(client.backend, "renewal-contended") == []
    successor.device.assert_alone()


def test_s14_the_key_of_another_thing_is_refused(client: EstClient) -> None:
    """S14: 409, and nothing is begun."""
    other = EstClient(client.backend, "press-18")
    other.take(other.enroll())
    assert_problem(client.reenroll(other.key), 409, "key-enrolled")
    client.device.assert_alone()


def test_a_shared_key_says_not_who_asks(backend: Deployment) -> None:
    """The original article's client may give one key to several Things; none of them is renewed by it."""
    client = EstClient(backend, THING)
    device = Device(backend, THING, key=client.key, article=True)
    client.certificate = device.enroll().body
    Device(backend, "press-18", key=client.key, article=True).enroll()
    assert_problem(client.reenroll(), 403, "client-certificate-unknown")


def test_a_required_tpm_is_required_of_a_new_key_only() -> None:
    """EST has no evidence; the key that the Thing has needs none."""
    with deployed() as backend:
        client = EstClient(backend, THING)
        client.take(client.enroll())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ATTESTATION", "require")
            backend.handler = load_handler()
            client.take(client.reenroll())
            assert_problem(client.reenroll(ec.generate_private_key(ec.SECP256R1())), 403, "attestation-required")
        client.device.assert_alone()


def test_our_own_renewal_and_est_do_not_get_in_each_others_way(client: EstClient) -> None:
    """A renewal with a proof is committed with one, and ends one by EST that nobody uses; EST does not end it."""
    missed = renewed(client)
    successor = client.device.successor()
    assert client.device.renew(successor).status == 201
    assert missed.device.usable() == []
    assert_problem(client.reenroll(missed.key), 409, "renewal-in-progress")
    assert successor.commit().status == 204
    successor.assert_alone()


def test_the_log_and_the_metrics_tell_renewals(client: EstClient) -> None:
    """As for our own clients: what was issued and committed, and whose request was refused."""
    successor = renewed(client)
    successor.take(successor.reenroll())
    client.reenroll()
    lines = events(client.backend, "request")[1:]
    assert [line["renewal"] for line in lines] == ["issued", "committed", "refused"]
    assert [line["thing"] for line in lines] == [THING] * 3
    assert [sorted(line.keys() & {"Renewals", "RenewalFailures"}) for line in lines] == [
        [], ["Renewals"], ["RenewalFailures"],
    ]  # fmt: skip


def test_the_subject_is_compared_whole(client: EstClient) -> None:
    """A CSR with the certificate's common name and more is not the certificate's subject."""
    names = [("AWS IoT Certificate", x509.NameOID.COMMON_NAME), ("Acme", x509.NameOID.ORGANIZATION_NAME)]
    subject = x509.Name([x509.NameAttribute(oid, text) for text, oid in names])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(client.key, hashes.SHA256())
    assert_problem(client.send(csr), 400, "csr-common-name-mismatch")


def test_s10_a_subject_that_no_certificate_has_is_another_one(client: EstClient) -> None:
    """S10: what `cryptography` cannot even read, a T61String in Latin-1, is no failure of the backend's."""
    subject = tlv(0x30, tlv(0x31, tlv(0x30, bytes.fromhex("060355040a") + tlv(0x14, b"\xff"))))
    csr = x509.load_der_x509_csr(forged(subject=subject))
    assert_problem(client.send(csr), 400, "csr-common-name-mismatch")
