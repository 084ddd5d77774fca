"""S20: whoever lies about a TPM over HTTPS is refused, each lie with its own code, and AWS IoT is not called."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hsm_enroll.local import tls
from hsm_enroll.local.authority import Authority
from hsm_enroll.local.faults import Faults
from hsm_enroll.local.gateway import Gateway
from hsm_enroll.local.home import Home
from hsm_enroll.local.server import KeepAliveHandler, LoopbackServer, listen, log_file
from tests.support.csr_factory import pem_of, request
from tests.support.deployment import Deployment, deployed
from tests.support.ek_authority import EkAuthority, pem
from tests.support.proofs import header, sign
from tests.support.software_tpm import EVIDENCE_LIES, REQUEST_LIES, EkType, EvidenceLie, RequestLie, SoftwareTpm

_SESSIONS, _CERTIFICATES, _RENEWALS, _ARTICLE = (
    "/v1/attestations",
    "/v1/certificates",
    "/v1/renewals",
    "/getCertificate",
)
_TABLE = {"GetItem", "PutItem", "UpdateItem", "Query", "BatchGetItem", "TransactGetItems", "TransactWriteItems"}
_FIVE_MINUTES = 300  # how long a session lives, in seconds

_MALFORMED = "attestation-malformed"


@dataclass
class Api:
    """The real handler behind HTTPS, in a deployment that requires attestation and trusts one vendor of TPMs."""

    deployment: Deployment
    vendor: EkAuthority
    url: str
    ca_file: Path

    def post(self, path: str, body: object, code: str | None = None) -> requests.Response:
        """POST a JSON document."""
        headers = {} if code is None else {"Authorization": f"Bearer {code}"}
        return requests.post(f"{self.url}{path}", json=body, headers=headers, verify=str(self.ca_file), timeout=60)

    def post_proof(self, path: str, payload: object, key: ec.EllipticCurvePrivateKey) -> requests.Response:
        """POST a JSON document that a Thing's key has signed."""
        url = f"{self.url}{path}"
        proof = sign(key, header(key, url, self.deployment.clock.time()), json.dumps(payload).encode())
        return requests.post(
            url, data=proof, headers={"Content-Type": "application/jose"}, verify=str(self.ca_file), timeout=60
        )


@dataclass
class Device:
    """A device that has an invite for its Thing, and a software key that it says is its TPM's."""

    api: Api
    tpm: SoftwareTpm
    thing: str
    code: str

    def __post_init__(self) -> None:
        self.key = self.tpm.make_key()
        self.csr = self.request_of(self.key)

    def request_of(self, key: ec.EllipticCurvePrivateKey) -> str:
        """Make a request for the Thing."""
        return pem_of(request(key, self.thing))

    def session(self) -> dict[str, Any]:
        """Start a session honestly."""
        answer = self.api.post(_SESSIONS, self.tpm.request(thing_name=self.thing), self.code)
        assert answer.status_code == 201, answer.text
        started: dict[str, Any] = answer.json()
        return started

    def enroll(self, evidence: object, csr: str | None = None) -> requests.Response:
        """Ask for a certificate."""
        body = {"csr": csr or self.csr, "thingName": self.thing, "evidence": evidence}
        return self.api.post(_CERTIFICATES, body, self.code)

    def enroll_honestly(self) -> None:
        """Get a certificate for the key."""
        answer = self.enroll(self.tpm.evidence(self.session(), self.csr, self.key))
        assert answer.status_code == 201, answer.text
        self.api.deployment.calls.clear()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One of them for all tests here."""
    vendor = EkAuthority()
    home = Home(tmp_path_factory.mktemp("liars") / "home")
    home.prepare()
    home.write_pair(home.server_certificate, home.server_key, Authority.of(home).issue_server())
    with deployed({"AUTH_MODE": "invite", "ATTESTATION": "require"}) as deployment, ExitStack() as stack:
        _trust(deployment, vendor)
        log = log_file(stack, home.logs / "gateway.log")
        listener = stack.enter_context(listen(0, "--port"))
        routes = {f"POST {path}": "NONE" for path in (_SESSIONS, _CERTIFICATES, _RENEWALS, _ARTICLE)}
        gateway = Gateway(routes, deployment.handler.lambda_handler, Faults(), log)
        stack.enter_context(LoopbackServer(gateway, listener, log, tls.for_api(home), KeepAliveHandler))
        yield Api(deployment, vendor, f"https://localhost:{listener.getsockname()[1]}", home.ca_certificate)


@pytest.fixture
def device(api: Api, thing: str) -> Device:
    """A device with a TPM of the trusted vendor."""
    return _device(api, thing)


def _trust(deployment: Deployment, vendor: EkAuthority) -> None:
    sha256 = vendor.root.fingerprint(hashes.SHA256()).hex()
    answer = deployment.operate("POST", "ek-authorities", {"certificate": pem(vendor.root), "sha256": sha256})
    assert answer.status == 201, answer.body


def _device(api: Api, thing: str, tpm: SoftwareTpm | None = None, **terms: object) -> Device:
    made = Device(api, tpm or SoftwareTpm("ec-p384", api.vendor), thing, api.deployment.invite(thing, **terms))
    api.deployment.calls.clear()
    return made


def _is_refused(api: Api, answer: requests.Response, code: str, status: int = 403) -> bool:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(api.deployment.calls) <= _TABLE
    return True


@pytest.mark.parametrize("ek", get_args(EkType))
def test_an_honest_device_gets_its_certificate(api: Api, thing: str, ek: EkType) -> None:
    """The devices below are refused for their lies alone: one without a lie is attested, with each type of EK."""
    device = _device(api, thing, SoftwareTpm(ek, api.vendor))
    issued = device.enroll(device.tpm.evidence(device.session(), device.csr, device.key))
    assert (issued.status_code, issued.json()["attested"]) == (201, True), issued.text
    assert "CreateCertificateFromCsr" in api.deployment.calls


@pytest.mark.parametrize("path", [_CERTIFICATES, _ARTICLE])
def test_no_evidence_is_refused(api: Api, device: Device, path: str) -> None:
    """S20: a request that proves nothing is told that it has to, also where no client could prove anything."""
    answer = api.post(path, {"csr": device.csr, "thingName": device.thing}, device.code)
    assert _is_refused(api, answer, "attestation-required")


@pytest.mark.parametrize("lie", sorted(REQUEST_LIES))
def test_a_lie_about_the_tpm_starts_no_session(api: Api, device: Device, lie: RequestLie) -> None:
    """S20: bad attestation keys, and endorsement keys that nobody vouches for any more, or for another one."""
    answer = api.post(_SESSIONS, device.tpm.request(lie, thing_name=device.thing), device.code)
    assert _is_refused(api, answer, REQUEST_LIES[lie])


@pytest.mark.parametrize("lie", sorted(EVIDENCE_LIES))
def test_a_lie_in_the_evidence_gets_no_certificate(api: Api, device: Device, lie: EvidenceLie) -> None:
    """S20: forged, about another key or request, or about a key that may exist outside the TPM."""
    evidence = device.tpm.evidence(device.session(), device.csr, device.key, lie)
    code = EVIDENCE_LIES[lie]
    assert _is_refused(api, device.enroll(evidence), code, 400 if code == _MALFORMED else 403)


def test_a_session_is_for_one_request(api: Api, device: Device) -> None:
    """S20: what was used for one request is not used for another, even with the same TPM's true word about it."""
    session = device.session()
    forged = device.tpm.evidence(session, device.csr, device.key, "forged")
    assert _is_refused(api, device.enroll(forged), "attestation-signature-wrong")
    key = device.tpm.make_key()
    csr = device.request_of(key)
    assert _is_refused(api, device.enroll(device.tpm.evidence(session, csr, key), csr), "attestation-used")


def test_a_session_ends(api: Api, device: Device) -> None:
    """S20: five minutes after its start a session is of no use."""
    evidence = device.tpm.evidence(device.session(), device.csr, device.key)
    api.deployment.clock.ahead += _FIVE_MINUTES + 1
    assert _is_refused(api, device.enroll(evidence), "attestation-expired")


def test_a_session_that_nobody_started_is_none(api: Api, device: Device) -> None:
    """S20: an id that was made up."""
    session = {**device.session(), "sessionId": "A" * 22}
    evidence = device.tpm.evidence(session, device.csr, device.key)
    assert _is_refused(api, device.enroll(evidence), "attestation-unknown")


def test_sessions_are_not_swapped_between_devices(api: Api, device: Device, thing: str) -> None:
    """S20: another device's session is another Thing's, and another TPM's statement is of no use in one's own."""
    other = _device(api, f"{thing}-2")
    evidence = other.tpm.evidence(other.session(), device.csr, device.key)
    assert _is_refused(api, device.enroll(evidence), "attestation-other-thing")
    own = device.tpm.evidence(device.session(), device.csr, device.key)
    statement = other.tpm.evidence(other.session(), device.csr, device.key)
    mixed = {**statement, "sessionId": own["sessionId"], "secret": own["secret"]}
    assert _is_refused(api, device.enroll(mixed), "attestation-signature-wrong")


def test_the_endorsement_key_of_another_tpm_is_of_no_use(api: Api, device: Device) -> None:
    """S20: its certificate does not fit the liar's own key; with its key too, nobody decrypts a secret for a liar."""
    other = SoftwareTpm("ec-p384", api.vendor)
    own, others = (tpm.request(thing_name=device.thing) for tpm in (device.tpm, other))
    mixed = {**own, "ekCertificate": others["ekCertificate"]}
    assert _is_refused(api, api.post(_SESSIONS, mixed, device.code), "ek-key-mismatch")
    session = api.post(_SESSIONS, {**others, "akPublic": own["akPublic"]}, device.code).json()
    challenge = [base64.b64decode(session[member]) for member in ("credentialBlob", "encryptedSecret")]
    for tpm in (device.tpm, other):
        with pytest.raises(ValueError, match="TPM_RC_INTEGRITY"):
            tpm.activate(*challenge)
    guessed = device.tpm.evidence(session, device.csr, device.key, "secret-guessed")
    assert _is_refused(api, device.enroll(guessed), "attestation-secret-wrong")


def test_a_tpm_that_an_invite_does_not_name_is_refused(api: Api, thing: str) -> None:
    """S20: the invite is for one TPM; another one of the same vendor is another."""
    device = _device(api, thing, ekSha256="ab" * 32)
    answer = api.post(_SESSIONS, device.tpm.request(thing_name=device.thing), device.code)
    assert _is_refused(api, answer, "ek-mismatch")


def test_a_chip_that_nobody_knows_is_no_invite(api: Api, device: Device) -> None:
    """S20: without an invite a TPM has to be in the manifest; that its vendor is trusted is not enough."""
    answer = api.post(_SESSIONS, device.tpm.request(thing_name=device.thing))
    assert _is_refused(api, answer, "ek-unknown")


def test_a_tpm_that_is_another_thing_is_refused(api: Api, device: Device, thing: str) -> None:
    """S20: with an invite for another Thing and its true word, one TPM is still not two Things."""
    device.enroll_honestly()
    second = _device(api, f"{thing}-2", device.tpm)
    evidence = second.tpm.evidence(second.session(), second.csr, second.key)
    assert _is_refused(api, second.enroll(evidence), "tpm-enrolled", 409)


def test_an_attested_thing_is_not_renewed_without_its_tpm(api: Api, device: Device) -> None:
    """S20: whoever got hold of the key can renew it neither without proof nor with that of another TPM."""
    device.enroll_honestly()
    csr = device.request_of(device.tpm.make_key())
    assert _is_refused(api, api.post_proof(_RENEWALS, {"csr": csr}, device.key), "attestation-required")
    other = SoftwareTpm("ec-p384", api.vendor)
    assert _is_refused(api, api.post_proof(_SESSIONS, other.request(), device.key), "ek-mismatch")
