"""S4 to S10: the requests of tools that people use, as they lie in `requests`, through the real handler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asn1crypto import csr
from asn1crypto import pem as armour
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from enrollment_backend.csr_policy import accept
from tests.support import csr_factory as make
from tests.support.deployment import Deployment

REQUESTS = Path(make.__file__).with_name("requests")
THING = "gw-1"  # whose common name is in every request but those of `ANOTHER_SUBJECT`

TAKEN = [
    "certtool-ec.csr",
    "go-step-san.csr",
    "keytool-ec.csr",
    "keytool-ext.csr",
    "mbed-ec.csr",
    "nss-a.csr",
    "ossl-attributes.csr",
    "ossl-text.csr",
    "tpm2openssl-ec.csr",
]

# Taken on /getCertificate with a Thing's name beside them; what /v1/certificates says, and a CSR alone is told.
ANOTHER_SUBJECT = {
    "ossl-article.csr": ("csr-common-name-mismatch", "csr-names-no-thing"),
    "ossl-bmp.csr": ("csr-subject-invalid", "csr-subject-invalid"),
    "ossl-no-subject.csr": ("csr-common-name-mismatch", "csr-names-no-thing"),
}

REFUSED = {
    "certtool-ca.csr": ("csr-attributes-not-allowed", "ask to be a CA"),
    "certtool-rsa-pss-key.csr": ("csr-key-not-allowed", "an RSASSA-PSS key"),
    "forge-defaultmd.csr": ("csr-signature-algorithm-not-allowed", "sha1WithRSAEncryption (SHA-1)"),
    "keytool-pss.csr": ("csr-signature-algorithm-not-allowed", "RSASSA-PSS"),
    "ossl-ca.csr": ("csr-attributes-not-allowed", "ask to be a CA"),
    "ossl-ed25519.csr": ("csr-key-not-allowed", "an Ed25519 key"),
    "ossl-p521.csr": ("csr-key-not-allowed", "an EC key on P-521 (secp521r1)"),
    "ossl-secp256k1.csr": ("csr-key-not-allowed", "an EC key on secp256k1"),
    "ossl-unknown-critical.csr": ("csr-attributes-not-allowed", "a critical extension that is unknown"),
}


def read(name: str) -> bytes:
    """Return a request as its tool wrote it."""
    return (REQUESTS / name).read_bytes()


def text_of(name: str) -> str:
    """Return a request as text, its line ends kept."""
    return read(name).decode("utf-8")


def key_of(name: str) -> object:
    """Return a request's key as another library finds it, which minds no parameters of signatures."""
    _, _, der = armour.unarmor(read(name)[read(name).index(b"-----BEGIN") :])
    information = csr.CertificationRequest.load(der)["certification_request_info"]
    return load_der_public_key(information["subject_pk_info"].dump())


def test_every_request_has_its_verdict_and_its_row() -> None:
    """A request that is added has to get a verdict here, and README.md says what made it."""
    names = {file.name for file in REQUESTS.glob("*.csr")}
    assert names == {*TAKEN, *ANOTHER_SUBJECT, *REFUSED}
    rows = (REQUESTS / "README.md").read_text("utf-8").splitlines()
    assert sorted(names) == [row.split("`")[1] for row in rows if row.startswith("| `")]


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("path", ["/v1/certificates", "/getCertificate"])
def test_a_tools_request_gets_its_certificate(backend: Deployment, name: str, path: str) -> None:
    """S4, S9: on either route, in JSON and with the Thing's name."""
    answer = backend.post(path, {"thingName": THING, "csr": text_of(name)})
    assert answer.status == {"/v1/certificates": 201, "/getCertificate": 200}[path], answer.body
    pem = answer.json["certificatePem"] if path == "/v1/certificates" else answer.body
    assert x509.load_pem_x509_certificate(pem.encode()).public_key() == key_of(name)


@pytest.mark.parametrize("name", TAKEN)
def test_a_tools_request_is_taken_as_the_bare_file_it_is(backend: Deployment, name: str) -> None:
    """S4: as ``curl --data-binary @FILE`` sends it to /getCertificate; its common name is the Thing's."""
    answer = backend.post_bytes("/getCertificate", read(name))
    assert answer.status == 200, answer.body
    assert x509.load_pem_x509_certificate(answer.body.encode()).public_key() == key_of(name)


@pytest.mark.parametrize("name", TAKEN)
def test_a_tools_request_that_curl_took_the_line_ends_from_is_told_so(backend: Deployment, name: str) -> None:
    """S4: ``curl -d @FILE`` leaves out CR and LF, text before the block runs into it."""
    body = read(name).replace(b"\r", b"").replace(b"\n", b"")
    assert backend.refused(backend.post_bytes("/getCertificate", body), 400, "csr-line-ends-missing")


@pytest.mark.parametrize("name", [*TAKEN, *ANOTHER_SUBJECT])
def test_what_goes_to_aws_iot_is_the_one_canonical_form(name: str) -> None:
    """S4: what was verified, encoded as `cryptography` encodes it, and the same when it is read once more."""
    accepted = accept(text_of(name), THING, any_subject=True)
    sent = x509.load_pem_x509_csr(accepted.pem.encode("ascii"))
    assert sent.is_signature_valid
    assert sent.public_bytes(Encoding.PEM).decode("ascii") == accepted.pem + "\n"
    assert accept(accepted.pem, THING, any_subject=True) == accepted
    assert sent.public_key() == key_of(name)


@pytest.mark.parametrize("name", ANOTHER_SUBJECT)
def test_any_subject_is_right_on_the_articles_route(backend: Deployment, name: str) -> None:
    """S10: with a Thing's name beside it, a request gets its certificate whatever its subject says."""
    answer = backend.post("/getCertificate", {"thingName": "line3-press", "csr": text_of(name)})
    assert answer.status == 200, answer.body
    assert x509.load_pem_x509_certificate(answer.body.encode()).public_key() == key_of(name)
    assert len(backend.iot.list_thing_principals(thingName="line3-press")["principals"]) == 1


@pytest.mark.parametrize("name", ANOTHER_SUBJECT)
def test_another_subject_is_refused_on_the_other_route(backend: Deployment, name: str) -> None:
    """S10: /v1/certificates wants the Thing's name in the common name."""
    answer = backend.post("/v1/certificates", {"thingName": THING, "csr": text_of(name)})
    assert backend.refused(answer, 400, ANOTHER_SUBJECT[name][0])


@pytest.mark.parametrize("name", ANOTHER_SUBJECT)
def test_a_bare_request_that_names_no_thing_is_shown_the_json(backend: Deployment, name: str) -> None:
    """S10: the article's own request, sent without its JSON, is told how to name the Thing."""
    answer = backend.post_bytes("/getCertificate", read(name))
    assert backend.refused(answer, 400, ANOTHER_SUBJECT[name][1])
    if ANOTHER_SUBJECT[name][1] == "csr-names-no-thing":
        assert r'{"thingName": "NAME", "csr": "-----BEGIN CERTIFICATE REQUEST-----\n..."}' in answer.json["detail"]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("path", ["/v1/certificates", "/getCertificate"])
def test_a_tools_request_that_is_refused_is_told_why(backend: Deployment, name: str, path: str) -> None:
    """S5, S7, S9: the sentence names what it is that is not taken; the subject is not what counts."""
    code, said = REFUSED[name]
    answer = backend.post(path, {"thingName": THING, "csr": text_of(name)})
    assert backend.refused(answer, 400, code, text_of(name).partition("-----BEGIN")[2])
    assert said in answer.json["detail"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"Ger\xe4t 1, Stra\xdfe 3\n%b", id="text that is not UTF-8"),
        pytest.param("\ufeff".encode() + b"%b", id="a byte order mark"),
        pytest.param(b"[request]\n%b", id="a bracket"),
        pytest.param(b"\r\n \t%b", id="white space"),
        pytest.param(b"x" * 8192 + b"\n%b{}\n", id="braces behind"),
    ],
)
def test_a_bare_request_may_have_text_of_any_kind_around_it(backend: Deployment, body: bytes) -> None:
    """S4: /getCertificate takes a body for a CSR that has a block in it and is no JSON object."""
    answer = backend.post_bytes("/getCertificate", body % read("mbed-ec.csr"))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("before", [b"", b" \r\n\t"])
def test_json_is_json_whatever_is_in_it(backend: Deployment, before: bytes) -> None:
    """S1: what begins with a brace is held to JSON's rules, though there is a block in it."""
    document = json.dumps({"thingName": THING, "csr": text_of("ossl-article.csr")}).encode("ascii")
    assert backend.post_bytes("/getCertificate", before + document).status == 200


def test_json_that_is_none_is_told_so_though_there_is_a_block_in_it(backend: Deployment) -> None:
    """S1: a CSR put into JSON with its line ends as they are is no JSON, and no bare CSR either."""
    body = b'{"thingName": "gw-1", "csr": "%b"}' % read("mbed-ec.csr")
    assert backend.refused(backend.post_bytes("/getCertificate", body), 400, "json-malformed")
    marked = "\ufeff".encode() + body
    assert backend.post_bytes("/getCertificate", marked).json["code"] == "json-malformed"


def test_json_may_have_lost_its_line_ends(backend: Deployment) -> None:
    """S4: ``curl -d @FILE`` harms no JSON, whose line ends are between its members."""
    document = json.dumps({"thingName": THING, "csr": text_of("ossl-article.csr")}, indent=2)
    answer = backend.post_bytes("/getCertificate", document.replace("\n", "").encode("ascii"))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("body", [b"[%b]", b'"%b"', b"csr=%b"])
def test_a_block_in_something_else_is_no_bare_csr(backend: Deployment, body: bytes) -> None:
    """S1, S4: a JSON array, a JSON string, a form: the block begins no line there."""
    answer = backend.post_bytes("/getCertificate", body % read("mbed-ec.csr").strip())
    assert backend.refused(answer, 400, "csr-pem-invalid")
