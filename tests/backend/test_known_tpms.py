"""The manifest says which TPM is which Thing, and the operator says which CAs of EK certificates are trusted."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.backend.fleet import item
from tests.support.deployment import OPERATOR, Deployment, aws_answer
from tests.support.ek_authority import EkAuthority, pem

EKS, AUTHORITIES = "eks", "ek-authorities"


def fingerprint(number: int) -> str:
    """Return an EK's fingerprint."""
    return f"{number:064x}"


def entries(*numbers: int, thing: str = "gateway") -> dict[str, Any]:
    """Return the body that lists EKs, each for a Thing of its own."""
    return {"keys": [{"ekSha256": fingerprint(number), "thing": f"{thing}-{number}"} for number in numbers]}


def listed(backend: Deployment, **query: str) -> dict[str, str]:
    """Return the manifest: Things by the numbers of their EKs; from all pages."""
    found: dict[str, str] = {}
    marker: dict[str, str] = {}
    while True:
        page = backend.operate("GET", EKS, **query, **marker).json
        found |= {one["ekSha256"]: one["thing"] for one in page["keys"]}
        if page["next"] is None:
            return found
        marker = {"next": page["next"]}


@cache
def authority() -> EkAuthority:
    """Return one vendor's CA."""
    return EkAuthority()


def root_body() -> dict[str, str]:
    """Return the body that adds the vendor's root."""
    der = authority().root.public_bytes(Encoding.DER)
    return {"certificate": pem(authority().root), "sha256": hashlib.sha256(der).hexdigest()}


def test_an_import_can_be_repeated(backend: Deployment) -> None:
    """What is listed stays as it is, with the time of the first import; what is missing is added."""
    assert backend.operate("POST", EKS, entries(1, 2)).json == {"added": 2, "unchanged": 0, "conflicts": []}
    before = item("ek", fingerprint(1))
    assert before["created_by"] == OPERATOR
    backend.clock.ahead = 60
    assert backend.operate("POST", EKS, entries(1, 2, 3)).json == {"added": 1, "unchanged": 2, "conflicts": []}
    assert item("ek", fingerprint(1)) == before
    assert int(item("ek", fingerprint(3))["created"]) >= int(before["created"]) + 60


def test_an_ek_of_another_thing_is_a_conflict(backend: Deployment) -> None:
    """It is named with the Thing that it is listed for, and left; the other entries of the request are added."""
    backend.operate("POST", EKS, entries(1))
    answer = backend.operate("POST", EKS, entries(1, 2, thing="other"))
    conflict = {"ekSha256": fingerprint(1), "thing": "gateway-1"}
    assert (answer.status, answer.json) == (200, {"added": 1, "unchanged": 0, "conflicts": [conflict]})
    assert listed(backend) == {fingerprint(1): "gateway-1", fingerprint(2): "other-2"}


def test_a_thing_may_have_several_eks(backend: Deployment) -> None:
    """A TPM usually has an RSA and an ECC one."""
    keys = [{"ekSha256": fingerprint(number), "thing": "gateway"} for number in (1, 2)]
    assert backend.operate("POST", EKS, {"keys": keys}).json["added"] == 2


def test_a_hundred_entries_take_two_calls(backend: Deployment) -> None:
    """They are read and written together; if none is missing, nothing is written."""
    for added, calls in ((100, ["BatchGetItem", "TransactWriteItems"]), (0, ["BatchGetItem"])):
        backend.calls.clear()
        assert backend.operate("POST", EKS, entries(*range(100))).json["added"] == added
        assert backend.calls == calls


def test_two_imports_of_the_same_entries_at_once(backend: Deployment) -> None:
    """The one that comes second looks again, and overwrites nothing."""
    backend.operate("POST", EKS, entries(1, thing="first"))

    def other_import(phase: str, operation: str) -> None:
        if (phase, operation) == ("before", "TransactWriteItems"):
            backend.interrupt = lambda _phase, _operation: None
            assert backend.operate("POST", EKS, entries(2, thing="first")).status == 200

    backend.interrupt = other_import
    answer = backend.operate("POST", EKS, entries(1, 2, 3, thing="first"))
    assert answer.json == {"added": 1, "unchanged": 2, "conflicts": []}
    assert set(listed(backend)) == {fingerprint(1), fingerprint(2), fingerprint(3)}


def test_an_import_that_aws_refuses_lists_nothing(backend: Deployment) -> None:
    """All entries of a request are written, or none; the operator is told to come back."""
    throttled = '{"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException"}'
    backend.inject("TransactWriteItems", lambda _: aws_answer(400, throttled))
    assert backend.operate("POST", EKS, entries(1, 2)).status == 429
    assert listed(backend) == {}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "keys"),
        ({"keys": []}, "keys"),
        ({"keys": {}}, "keys"),
        ({**entries(1), "more": 1}, "keys"),
        (entries(*range(101)), "keys"),
        ({"keys": [*entries(1)["keys"], *entries(1)["keys"]]}, "keys"),
        ({"keys": [*entries(1)["keys"], *entries(1, thing="other")["keys"]]}, "keys"),
        ({"keys": ["x"]}, "keys"),
        ({"keys": [{"ekSha256": fingerprint(1)}]}, "keys"),
        ({"keys": [{"ekSha256": fingerprint(1), "thing": "x", "more": 1}]}, "keys"),
        ({"keys": [{"ekSha256": "AB" * 32, "thing": "x"}]}, "ekSha256"),
        ({"keys": [{"ekSha256": "ab" * 31, "thing": "x"}]}, "ekSha256"),
        ({"keys": [{"ekSha256": 1, "thing": "x"}]}, "ekSha256"),
        ({"keys": [{"ekSha256": fingerprint(1), "thing": "x*"}]}, "thing"),
        ({"keys": [{"ekSha256": fingerprint(1), "thing": ""}]}, "thing"),
    ],
)
def test_what_is_not_a_list_of_eks_is_refused(backend: Deployment, body: object, field: str) -> None:
    """One to a hundred entries of an EK, each once, and a Thing's name; nothing is sent to AWS otherwise."""
    answer = backend.operate("POST", EKS, body)
    assert backend.refused(answer, 400, "field-invalid")
    assert field in answer.json["detail"]


def test_the_list_has_pages_and_is_selected_by_name(backend: Deployment) -> None:
    """The newest come first."""
    for number in range(5):
        backend.clock.ahead = number
        backend.operate("POST", EKS, entries(number, thing="odd" if number % 2 else "even"))
    (first,) = backend.operate("GET", EKS, limit="1").json["keys"]
    assert (first["ekSha256"], first["thing"], first["createdBy"]) == (fingerprint(4), "even-4", OPERATOR)
    assert len(listed(backend, limit="2")) == 5
    assert list(listed(backend, prefix="odd-").values()) == ["odd-3", "odd-1"]


def test_an_ek_is_forgotten(backend: Deployment) -> None:
    """It is off the list, and can be listed anew; one that is not listed is told apart."""
    backend.operate("POST", EKS, entries(1))
    assert backend.operate("DELETE", EKS, ekSha256=fingerprint(1)).status == 204
    assert listed(backend) == {}
    answer = backend.operate("DELETE", EKS, ekSha256=fingerprint(1))
    assert (answer.status, answer.json["code"]) == (404, "ek-not-listed")
    assert backend.operate("POST", EKS, entries(1, thing="other")).json["added"] == 1


def test_an_authority_is_added_listed_and_removed(backend: Deployment) -> None:
    """It is shown with its subject, whether it is a root, and its end; adding it again changes nothing."""
    body = root_body()
    added = backend.operate("POST", AUTHORITIES, body)
    shown = {
        "sha256": body["sha256"],
        "subject": "CN=Example TPM vendor root",
        "root": True,
        "notAfter": "2049-12-31T00:00:00Z",
        "created": added.json["created"],
        "createdBy": OPERATOR,
    }
    assert (added.status, added.json) == (201, shown)
    backend.clock.ahead = 60
    assert backend.operate("POST", AUTHORITIES, body).json == shown
    assert backend.operate("GET", AUTHORITIES).json == {"authorities": [shown]}
    assert backend.operate("DELETE", AUTHORITIES, sha256=body["sha256"]).status == 204
    assert backend.operate("GET", AUTHORITIES).json == {"authorities": []}
    answer = backend.operate("DELETE", AUTHORITIES, sha256=body["sha256"])
    assert (answer.status, answer.json["code"]) == (404, "ek-ca-unknown")


def test_an_intermediate_is_no_root(backend: Deployment) -> None:
    """It may be added, for EK certificates that come without it, and the list says what it is."""
    der = authority().intermediate.public_bytes(Encoding.DER)
    body = {"certificate": pem(authority().intermediate), "sha256": hashlib.sha256(der).hexdigest()}
    assert backend.operate("POST", AUTHORITIES, body).json["root"] is False


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sha256": "0" * 64}, "ek-ca-invalid"),
        ({"certificate": "x"}, "ek-ca-invalid"),
        ({"certificate": "\ud83d\ude00"}, "ek-ca-invalid"),
        ({"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "ek-ca-invalid"),
        ({"certificate": 1}, "field-invalid"),
        ({"sha256": "AB" * 32}, "field-invalid"),
        ({"more": 1}, "field-invalid"),
    ],
)
def test_what_is_no_authority_is_refused(backend: Deployment, changes: dict[str, object], code: str) -> None:
    """Nothing is trusted that cannot be read, or is not what the operator expected."""
    assert backend.refused(backend.operate("POST", AUTHORITIES, {**root_body(), **changes}), 400, code)


def test_a_certificate_that_is_not_a_cas_is_refused(backend: Deployment) -> None:
    """An EK certificate itself is no CA; an invite or the manifest may name it."""
    leaf = authority().issue(ec.generate_private_key(ec.SECP384R1()).public_key())
    sha256 = hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest()
    answer = backend.operate("POST", AUTHORITIES, {"certificate": pem(leaf), "sha256": sha256})
    assert backend.refused(answer, 400, "ek-ca-invalid")


@pytest.mark.parametrize(("path", "name"), [(EKS, "ekSha256"), (AUTHORITIES, "sha256")])
@pytest.mark.parametrize("value", [None, "", "0", "AB" * 32])
def test_what_is_not_a_fingerprint_is_not_looked_for(
    backend: Deployment, path: str, name: str, value: str | None
) -> None:
    """A parameter that is missing or malformed is refused before anything is read."""
    query = {} if value is None else {name: value}
    assert backend.refused(backend.operate("DELETE", path, **query), 400, "field-invalid")
