"""S1 to S12 by the thousand: whatever is sent, the answer is a 4xx with a code, and AWS hears nothing of it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core, csr, x509
from asn1crypto import pem as armour
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import CertificateSigningRequest, load_pem_x509_csr
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enrollment_backend import algorithms, invites
from enrollment_backend.csr_errors import CsrRefusedError
from enrollment_backend.csr_policy import accept
from tests.support import csr_factory as make
from tests.support.csr_cases import ACCEPTED, P256, with_attributes
from tests.support.csr_factory import THING, der_of, pem, pem_of, request, rsa_key
from tests.support.deployment import Answer, Deployment, deployed, event

FOREIGN = Path(make.__file__).with_name("requests")
PATHS = st.sampled_from(["/v1/certificates", "/getCertificate"])
CSRS = [der_of(request()), der_of(request(rsa_key()))]
CSR = pem(CSRS[0])
FUZZ = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMELESS = pem_of(request(None, "no such name"))
SIGNATURE_OIDS = sorted({*algorithms.SIGNATURES, *algorithms.REFUSED_SIGNATURES})
KEY_OIDS = sorted({*algorithms.KEYS, *algorithms.REFUSED_KEYS})

OIDS = st.sampled_from(["2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.37", "2.5.29.30", "1.2.3.4"])
DER_VALUES = st.recursive(
    st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 12, 0x80, 0x82, 0x87]), st.binary(max_size=4)).map(
        lambda one: make.tlv(*one)
    ),
    lambda inner: st.tuples(st.sampled_from([0x30, 0x31, 0xA0, 0xA4]), st.lists(inner, max_size=3).map(b"".join)).map(
        lambda one: make.tlv(*one)
    ),
    max_leaves=4,
)
TEXT_OCTETS = st.sampled_from(["utf-8", "utf-16-be", "utf-32-be"]).flatmap(
    lambda codec: st.text(max_size=8).map(lambda text: text.encode(codec))
)
LIKELY_VALUES = st.sampled_from(
    [bytes.fromhex(one) for one in (
        "3000", "30030101ff", "3003010100", "30060101ff020100", "03020780", "03020204", "03020102", "03020106",
        "0303078000", "030100", "300a06082b06010505070302", "0402abcd", "3006820467772d31",
    )]
)  # fmt: skip
EXTENSIONS = st.builds(
    make.extension,
    OIDS,
    LIKELY_VALUES | DER_VALUES | st.binary(max_size=6),
    st.sampled_from([b"", b"\x01\x01\xff", b"\x01\x01\x00"]),
)
DER_STRINGS = st.builds(
    make.tlv, st.sampled_from([0x0C, 0x12, 0x13, 0x14, 0x16, 0x1A, 0x1C, 0x1E]), st.binary(max_size=8) | TEXT_OCTETS
)
OTHER_ATTRIBUTES = st.builds(
    lambda oid, values: make.attribute(oid, *values),
    st.sampled_from(["1.2.840.113549.1.9.2", "1.2.840.113549.1.9.7", "1.2.840.113549.1.9.14", "1.2.840.113549.1.9.20"]),
    st.lists(DER_STRINGS, min_size=1, max_size=1) | st.lists(DER_VALUES, max_size=2),
)
# What is signed in requests that are taken, for the test's own key to sign once it was changed.
INFORMATION = [
    csr.CertificationRequest.load(one)["certification_request_info"].dump() for one in (CSRS[0], with_attributes())
]
# Requests in every form that is taken, and those of foreign tools, of which some are not.
FORMS = [
    *(der_of_form() for der_of_form in ACCEPTED.values()),
    *(armour.unarmor(file.read_bytes().lstrip())[2] for file in sorted(FOREIGN.glob("*.csr"))),
]
# Texts in every form that is taken.
TEXTS = [
    *(pem(der_of_form()) for der_of_form in ACCEPTED.values()),
    CSR.replace("\n", "\r\n"),
    CSR.replace("\n", " \t\n\n"),
    pem(CSRS[1], "NEW CERTIFICATE REQUEST"),
    "\ufeffCertificate Request:\n\tVersion: 1\n\n" + pem(with_attributes(), "NEW CERTIFICATE REQUEST") + "Grüße\n",
]
PEM_PIECES = st.text(max_size=3) | st.sampled_from(
    ["\n", "\r", " ", "\t", "=", "-----", "NEW ", "-----BEGIN ", "-----END ", "\\n", "\ufeff", "\x00", "\u2028"]
)

POINTS = st.binary(max_size=70) | st.binary(min_size=64, max_size=64).map(lambda octets: b"\x04" + octets)

SYMBOLS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ- "
NO_CODES = st.text(SYMBOLS).filter(lambda text: invites.code_sha256(text) is None)  # 25 zeros, for one, are a code
READ_AS = str.maketrans({"I": "1", "L": "1", "O": "0", "-": None, " ": None})
OPERATOR_ROUTES = st.sampled_from(
    [
        *[(method, "/v1/operator/invites") for method in ("GET", "POST", "DELETE")],
        *[(method, "/v1/operator/fleet") for method in ("GET", "DELETE")],
        ("POST", "/v1/operator/replacements"),
        ("POST", "/v1/operator/sweep"),
        ("POST", "/v1/operator/rebuild"),
    ]
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(CSR) | st.just(THING),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def backend() -> Iterator[Deployment]:
    """One open deployment for all examples."""
    with deployed() as deployment:
        yield deployment


def assert_refused(backend: Deployment, answer: Answer) -> None:
    """Assert a 4xx problem with a code, and no AWS call since the deployment began."""
    assert 400 <= answer.status < 500, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] not in {"", "internal"}
    assert backend.calls == []


@FUZZ
@given(path=PATHS, body=st.binary(max_size=400))
@example(path="/v1/certificates", body=b"\x00")
def test_s1_arbitrary_bytes_are_refused(backend: Deployment, path: str, body: bytes) -> None:
    """S1: no sequence of bytes brings the handler down."""
    assert_refused(backend, backend.post_bytes(path, body))


@FUZZ
@given(path=PATHS, body=st.text(st.characters(exclude_categories=())), encoded=st.booleans())
def test_s2_arbitrary_text_is_refused(backend: Deployment, path: str, body: str, encoded: bool) -> None:
    """S2: nor does any text, lone surrogates included, be it declared as base64 or not."""
    assert_refused(backend, backend.send(event("POST", path, body, encoded=encoded)))


@FUZZ
@given(path=PATHS, document=JSON_VALUES)
def test_s1_arbitrary_json_is_refused(backend: Deployment, path: str, document: Any) -> None:
    """S1: nor does any JSON document, in Python's reading of JSON, which has NaN and lone surrogates."""
    assert_refused(backend, backend.post(path, document))


@FUZZ
@given(path=PATHS, csr=JSON_VALUES, thing_name=JSON_VALUES, surplus=st.none() | JSON_VALUES)
def test_s1_s11_arbitrary_fields_are_refused(
    backend: Deployment, path: str, csr: Any, thing_name: Any, surplus: Any
) -> None:
    """S1, S11: the right names of fields with anything in them; only the good pairs would be another matter."""
    if csr == CSR and isinstance(thing_name, str) and re.fullmatch(r"[a-zA-Z0-9:_-]{1,128}", thing_name):
        csr = ""  # with the name beside it, /getCertificate takes that CSR for any Thing
    document = {"csr": csr, "thingName": thing_name} | ({} if surplus is None else {"evidence": surplus})
    assert_refused(backend, backend.post(path, document))


@FUZZ
@given(data=st.data())
def test_s1_a_good_body_changed_at_any_byte_is_refused(backend: Deployment, data: st.DataObject) -> None:
    """S1, S4: cut, doubled or overwritten somewhere; the name stays another than the CSR's, so nothing can pass."""
    body = bytearray(json.dumps({"csr": CSR, "thingName": "no-such-device"}).encode("ascii"))
    at = data.draw(st.integers(0, len(body) - 1))
    until = data.draw(st.integers(at, min(at + 8, len(body))))
    body[at:until] = data.draw(st.binary(max_size=8))
    assert_refused(backend, backend.post_bytes("/v1/certificates", bytes(body)))


@settings(FUZZ, max_examples=800)
@given(data=st.data(), original=st.sampled_from(FORMS))
def test_s4_s5_a_changed_csr_is_refused_or_the_same_request(
    backend: Deployment, data: st.DataObject, original: bytes
) -> None:
    """S4, S5: octets flipped, cut out or put in anywhere in the DER of requests in every form that is taken."""
    der = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(der) - 1))
        until = data.draw(st.integers(at, min(at + 3, len(der))))
        der[at:until] = data.draw(st.binary(max_size=3))
    text = pem(bytes(der))
    try:
        sent = assert_canonical(text, any_subject=True)
    except CsrRefusedError:
        assert_refused(backend, backend.post("/getCertificate", {"csr": text, "thingName": THING}))
    else:
        assert sent == accept(pem(original), THING, any_subject=True).pem


def spoilt(der: bytes, random_: random.Random) -> bytes:
    """Return the bytes with a run of them flipped, cut out, doubled, moved, or put in from another request."""
    at = random_.randrange(len(der))
    until = min(len(der), at + random_.choice((1, 1, 1, 2, 4, 16, 64)))
    other = random_.choice(CSRS)
    to = random_.randrange(len(other))
    replacement = random_.choice(
        (
            bytes((der[at] ^ 1 << random_.randrange(8),)) + der[at + 1 : until],
            random_.randbytes(until - at),
            b"",
            der[at:until] * 2,
            other[to : to + until - at],
            der[at:until][::-1],
        )
    )
    return der[:at] + replacement + der[until:]


def test_s4_s5_five_thousand_spoilt_csrs_are_refused(backend: Deployment) -> None:
    """S4, S5: the same five thousand each time, spoilt once to three times over."""
    random_ = random.Random(10)
    for _ in range(5_000):
        der = random_.choice(CSRS)
        for _ in range(random_.randint(1, 3)):
            der = spoilt(der, random_) or b"\x00"
        if der not in CSRS:
            assert_refused(backend, backend.enroll(pem(der), THING))


def signed_again(information: bytes) -> str:
    """Return a request with a good signature over whatever it asks."""
    signature = core.OctetBitString(make.ecdsa_sha256(information)).dump()
    return pem(make.tlv(0x30, information + bytes.fromhex("300a06082a8648ce3d040302") + signature))


def assert_canonical(text: str, *, any_subject: bool = False) -> str:
    """Refuse a CSR, or return the block that goes to AWS IoT, once it is what it has to be.

    That is: `cryptography` finds its signature valid and writes it the same way; read again, it is itself; it is for
    the key that signed it; and neither a CA's powers nor anything unknown and critical is asked for.
    """
    accepted = accept(text, THING, any_subject=any_subject)
    sent = load_pem_x509_csr(accepted.pem.encode("ascii"))
    assert sent.is_signature_valid
    assert pem_of(sent) == accepted.pem + "\n"
    assert len(accepted.pem) <= 4096
    assert accept(accepted.pem, THING, any_subject=any_subject) == accepted
    assert sent.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == accepted.spki
    assert_harmless(sent)
    if not any_subject:
        assert accepted.common_name == THING
        assert [name.value for name in sent.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [THING]
    return accepted.pem


def assert_harmless(sent: CertificateSigningRequest) -> None:
    """Assert by asn1crypto's reading that nothing is asked for that no device gets."""
    information = csr.CertificationRequest.load(der_of(sent))["certification_request_info"]
    kinds = [one["type"].dotted for one in information["attributes"]]
    assert set(kinds) <= {"1.2.840.113549.1.9.2", "1.2.840.113549.1.9.7", "1.2.840.113549.1.9.14"}
    assert len(set(kinds)) == len(kinds)
    for one in information["attributes"]:
        if one["type"].native == "extension_request":
            (extensions,) = one["values"]
            oids = [extension["extn_id"].dotted for extension in extensions]
            assert len(set(oids)) == len(oids)
            for extension in extensions:
                assert_no_powers(extension)


def assert_no_powers(extension: x509.Extension) -> None:
    """Assert the same of one extension."""
    kind = extension["extn_id"].native
    if kind == "basic_constraints":
        assert extension["extn_value"].parsed["ca"].native is False
    elif kind == "key_usage":
        assert not {"key_cert_sign", "crl_sign"} & extension["extn_value"].parsed.native
    elif kind not in {"subject_alt_name", "key_identifier", "extended_key_usage"}:
        assert extension["critical"].native is False


@settings(FUZZ, max_examples=400)
@given(data=st.data(), original=st.sampled_from(INFORMATION), any_subject=st.booleans())
def test_s4_s9_s10_a_changed_and_signed_again_csr_says_what_it_said(
    data: st.DataObject, original: bytes, any_subject: bool
) -> None:
    """S4, S9, S10: with the signature out of the way, what passes still is the Thing's, the key's, and harmless."""
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        until = data.draw(st.integers(at, min(at + 2, len(changed))))
        size = until - at
        changed[at:until] = data.draw(st.binary(min_size=size, max_size=size) | st.binary(max_size=2))
    try:
        assert_canonical(signed_again(bytes(changed)), any_subject=any_subject)
    except CsrRefusedError:
        return


@settings(FUZZ, max_examples=400)
@given(extensions=st.lists(EXTENSIONS, max_size=3), attributes=st.lists(OTHER_ATTRIBUTES, max_size=2))
def test_s9_no_attributes_give_a_device_a_cas_powers(extensions: list[bytes], attributes: list[bytes]) -> None:
    """S9: of extensions and attributes that nearly are in order, whatever is taken is harmless to another reader."""
    asked = [make.extension_request(*extensions)] if extensions else []
    try:
        assert_canonical(pem(make.forged(attributes=b"".join(sorted(asked + attributes)))))
    except CsrRefusedError:
        return


@FUZZ
@given(modulus=st.integers() | st.integers(1 << 2047, (1 << 2048) - 1), exponent=st.just(65537) | st.integers())
def test_s6_arbitrary_rsa_numbers_are_refused(backend: Deployment, modulus: int, exponent: int) -> None:
    """S6: no numbers bring the arithmetic down, and none get a certificate without their signature."""
    assert_refused(backend, backend.enroll(pem(make.forged(spki=make.rsa_spki(modulus, exponent))), THING))


@FUZZ
@given(parameters=st.just(P256) | st.binary(max_size=12), point=POINTS)
def test_s7_arbitrary_points_are_refused(backend: Deployment, parameters: bytes, point: bytes) -> None:
    """S7: nor do any octets in the place of a curve and a point."""
    assert_refused(backend, backend.enroll(pem(make.forged(spki=make.ec_spki(parameters, point))), THING))


@FUZZ
@given(numbers=st.lists(st.integers() | st.integers(1, 1 << 256), max_size=3), rest=st.binary(max_size=2))
def test_s8_arbitrary_signature_numbers_are_refused(backend: Deployment, numbers: list[int], rest: bytes) -> None:
    """S8: nor do any numbers, of any sign, size and count, in the place of a signature's two."""
    signature = make.tlv(0x30, b"".join(core.Integer(number).dump() for number in numbers)) + rest
    assert_refused(backend, backend.enroll(pem(make.forged(sign=lambda _: signature)), THING))


@FUZZ
@given(attributes=st.binary(min_size=1, max_size=40), oid=st.none() | st.just("1.2.840.113549.1.9.14"))
def test_s9_arbitrary_attributes_are_refused_or_harmless(attributes: bytes, oid: str | None) -> None:
    """S9: nor do any octets where a request for extensions goes, correctly signed."""
    content = attributes if oid is None else make.attribute(oid, attributes)
    try:
        assert_canonical(pem(make.forged(attributes=content)))
    except CsrRefusedError:
        return


@FUZZ
@given(value=DER_STRINGS | st.binary(max_size=30), octets=st.none() | st.binary(max_size=60))
@example(value=b"", octets=b"")
def test_s10_arbitrary_subjects_are_refused_or_go_on_as_they_are(value: bytes, octets: bytes | None) -> None:
    """S10: nor do any octets in the place of a subject or of a common name, where any subject is right."""
    common_name = make.tlv(0x31, make.tlv(0x30, core.ObjectIdentifier("2.5.4.3").dump() + value))
    subject = make.tlv(0x30, common_name if octets is None else octets)
    try:
        assert_canonical(pem(make.forged(subject=subject)), any_subject=True)
    except CsrRefusedError:
        return


@FUZZ
@given(
    algorithm=st.sampled_from([b"", b"\x05\x00"]) | st.binary(max_size=24),
    known=st.none() | st.sampled_from(SIGNATURE_OIDS) | st.sampled_from([*algorithms.SIGNATURES]),
)
def test_s5_arbitrary_algorithms_are_refused_or_put_right(algorithm: bytes, known: str | None) -> None:
    """S5: nor do any octets in the place of the signature's algorithm, which no signature covers."""
    content = algorithm if known is None else core.ObjectIdentifier(known).dump() + algorithm
    for original in CSRS:
        try:
            assert assert_canonical(pem(make.with_identifier(original, make.tlv(0x30, content)))) + "\n" == pem(
                original
            )
        except CsrRefusedError:
            continue


@FUZZ
@given(
    kind=st.none() | st.sampled_from(KEY_OIDS),
    parameters=st.just(P256) | st.binary(max_size=12),
    key=st.binary(max_size=70),
)
def test_s7_arbitrary_keys_are_refused(backend: Deployment, kind: str | None, parameters: bytes, key: bytes) -> None:
    """S7: nor do any octets in the place of a key of any kind."""
    spki = make.tlv(0x30, key) if kind is None else make.spki(kind, parameters, key)
    assert_refused(backend, backend.enroll(pem(make.forged(spki=spki)), THING))


@FUZZ
@given(name=st.text(max_size=80).filter(lambda name: name != THING))
def test_s10_arbitrary_names_are_refused(backend: Deployment, name: str) -> None:
    """S10: no text but the Thing's name is the Thing's name."""
    assert_refused(backend, backend.enroll(pem(make.forged(common_name=core.UTF8String(name))), THING))


@settings(FUZZ, max_examples=400)
@given(data=st.data(), original=st.sampled_from(TEXTS))
def test_s4_a_changed_pem_is_refused_or_the_same_request(
    backend: Deployment, data: st.DataObject, original: str
) -> None:
    """S4: characters changed, cut out or put in anywhere: in the text around, at line ends, in labels and base64."""
    changed = original
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        until = data.draw(st.integers(at, min(at + 3, len(changed))))
        changed = changed[:at] + data.draw(PEM_PIECES) + changed[until:]
    try:
        assert assert_canonical(changed) == accept(original, THING).pem
    except CsrRefusedError as refusal:
        code = refusal.code
    else:
        return
    if not any("\ud800" <= letter <= "\udfff" for letter in changed):  # these are refused as JSON
        answer = backend.enroll(changed, THING)
        assert_refused(backend, answer)
        assert answer.json["code"] == code


@FUZZ
@given(
    before=st.text(),
    after=st.text(),
    ends=st.lists(st.sampled_from(["\n", "\r\n", "\r", " \n", "\n\n", "\t\r\n"]), min_size=9, max_size=9),
)
def test_s4_any_text_may_stand_around_a_csr(before: str, after: str, ends: list[str]) -> None:
    """S4: but for what begins or ends a block, in lines of its own, whatever the line ends of the block are."""
    lines = CSR.splitlines()
    block = "".join(line + end for line, end in zip(lines, ends, strict=False))
    if "-----BEGIN " not in before + after and "-----END " not in before + after:
        assert accept(f"{before}\n{block}{after}", THING).pem == CSR.removesuffix("\n")


@FUZZ
@given(body=st.binary(max_size=200), at=st.integers(0, 200))
def test_s4_arbitrary_bytes_around_a_bare_csr_are_text(backend: Deployment, body: bytes, at: int) -> None:
    """S4: no bytes before and after a CSR that names no Thing bring the handler down, UTF-8 or not."""
    assert_refused(backend, backend.post_bytes("/getCertificate", body[:at] + b"\n" + NAMELESS.encode() + body[at:]))


@FUZZ
@given(path=st.text(), method=st.text(), content_type=st.none() | st.text())
def test_s2_arbitrary_paths_methods_and_types_are_refused(
    backend: Deployment, path: str, method: str, content_type: str | None
) -> None:
    """S2: what is not a route is 404, whatever it looks like."""
    assert_refused(backend, backend.send(event(method, path, "{}", content_type=content_type)))


def miswritten(code: str, random_: random.Random) -> str:
    """Return a code with one character put in, left out, exchanged, or changed in place with its neighbour."""
    at = random_.randrange(len(code) - 1)
    other = random_.choice(SYMBOLS)
    return random_.choice(
        (
            code[:at] + other + code[at:],
            code[:at] + code[at + 1 :],
            code[:at] + other + code[at + 1 :],
            code[:at] + code[at + 1] + code[at] + code[at + 2 :],
        )
    )


def test_s12_ten_thousand_miswritten_codes_are_refused(backend: Deployment) -> None:
    """S12: no slip of the pen makes another code, so that none of them is looked up."""
    random_ = random.Random(12)
    for _ in range(10_000):
        code = invites.create_code()
        wrong = miswritten(code.replace("-", ""), random_)
        if wrong.upper().translate(READ_AS) != code.replace("-", ""):
            answer = backend.enroll(CSR, THING, wrong)
            assert (answer.status, answer.json["code"]) == (401, "invite-invalid")
            assert backend.calls == []


@FUZZ
@given(path=PATHS, value=st.text() | NO_CODES.map(lambda text: f"Bearer {text}"))
def test_s12_arbitrary_authorization_is_refused(backend: Deployment, path: str, value: str) -> None:
    """S12: a header that is no code is refused even where none is needed."""
    made = event("POST", path, json.dumps({"csr": CSR, "thingName": THING}))
    made["headers"]["authorization"] = value
    answer = backend.send(made)
    assert_refused(backend, answer)
    assert answer.json["code"] == "invite-invalid"


@FUZZ
@given(route=OPERATOR_ROUTES, body=JSON_VALUES, authorizer=JSON_VALUES)
def test_arbitrary_requests_of_no_operator_are_refused(
    backend: Deployment, route: tuple[str, str], body: Any, authorizer: Any
) -> None:
    """Nothing in the place of an identity that API Gateway has verified is one."""
    made = event(*route, json.dumps(body))
    made["requestContext"]["authorizer"] = authorizer
    assert_refused(backend, backend.send(made))


@FUZZ
@given(
    thing=st.just(THING) | JSON_VALUES,
    uses=st.just(1) | JSON_VALUES,
    ttl=st.just(60) | JSON_VALUES,
    existing=st.booleans() | JSON_VALUES,
    surplus=st.none() | JSON_VALUES,
)
def test_arbitrary_invites_are_refused(
    backend: Deployment, thing: Any, uses: Any, ttl: Any, existing: Any, surplus: Any
) -> None:
    """No value of an invite's fields brings an operator's route down; the text "?" is no fingerprint in any case."""
    invite = {"thing": thing, "uses": uses, "ttlSeconds": ttl, "existingThing": existing, "ekSha256": "?"}
    body = {"invites": [invite]} | ({} if surplus is None else {"more": surplus})
    assert_refused(backend, backend.operate("POST", "invites", body))
