"""The operator's lists: the newest first, page by page, and of a large ledger no more than was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends

from tests.backend.fleet import Device
from tests.support.deployment import REGION, TABLE, Deployment

BEGIN = 1_790_000_000
CERTIFICATE: dict[str, object] = {"certificate_id": "0b" * 32, "certificate_pem": "PEM" * 400, "certificate_arn": "arn"}
REVOKED: dict[str, object] = {"revoked": BEGIN + 9}


def put(**values: object) -> None:
    """Put an item into the ledger's table itself: moto's API would take most of the tests' time."""
    typed: dict[str, Any] = {
        name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in values.items()
    }
    held = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE]
    held.put_item(typed)


def put_thing(name: str, created: int, **more: object) -> None:
    """Put a Thing, claimed at a time; with a certificate, or revoked, if so given."""
    claim = {"claim_id": "0", "spki_sha256": "0a" * 32, "lease": "x", "lease_ends": 0}
    put(kind="thing", id=name, thing=name, created=created, **claim, **more)


def put_invite(identifier: str, thing: str, created: int, *, expires: int = 2**32, left: int = 1) -> None:
    """Put an invite."""
    more = {"code_sha256": identifier.ljust(64, "0"), "created_by": "arn"}
    put(kind="invite", id=identifier, thing=thing, created=created, uses=1, uses_left=left, expires=expires, **more)


def pages(backend: Deployment, path: str, **query: str) -> Iterator[dict[str, Any]]:
    """Follow a list's pages."""
    marker: dict[str, str] = {}
    while True:
        answer = backend.operate("GET", path, **query, **marker)
        assert answer.status == 200, answer.body
        yield answer.json
        if answer.json["next"] is None:
            return
        marker = {"next": answer.json["next"]}


def listed(backend: Deployment, path: str, **query: str) -> list[str]:
    """Return the names of a list's Things, from all its pages."""
    member = "things" if path == "fleet" else "invites"
    return [entry["thing"] for page in pages(backend, path, **query) for entry in page[member]]


@pytest.fixture
def short_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a query read 8 kB, a few items, where DynamoDB reads a megabyte, some thousand."""
    monkeypatch.setattr("moto.dynamodb.models.table.RESULT_SIZE_LIMIT", 8_000)


def test_the_newest_comes_first(backend: Deployment) -> None:
    """Things by the time of their claim, invites by that of their creation; of one second each comes once."""
    for number in range(30):
        put_thing(f"thing-{number}", BEGIN + number // 3)
        put_invite(f"{number:016x}", f"invite-{number}", BEGIN + number // 3)
    for path, kind in (("fleet", "thing"), ("invites", "invite")):
        names = listed(backend, path, limit="4")
        assert sorted(names) == sorted(f"{kind}-{number}" for number in range(30))
        seconds = [int(name.rpartition("-")[2]) // 3 for name in names]
        assert seconds == sorted(seconds, reverse=True)


def test_a_real_enrollment_is_in_the_list(backend: Deployment) -> None:
    """What the backend itself writes has what the index needs; keys and certificates are in no list."""
    Device(backend, "gateway-17", backend.invite("gateway-17")).enroll()
    assert listed(backend, "fleet") == listed(backend, "invites") == ["gateway-17"]
    assert listed(backend, "fleet", status="issued", prefix="gateway-") == ["gateway-17"]
    assert listed(backend, "invites", status="used", prefix="gateway-17") == ["gateway-17"]


def test_a_page_has_as_many_as_asked_for(backend: Deployment) -> None:
    """By default a thousand: 1,200 Things take two requests, and few queries of DynamoDB's index."""
    for number in range(1200):
        put_thing(f"thing-{number}", BEGIN + number)
    assert [len(page["things"]) for page in pages(backend, "fleet")] == [1000, 200]
    assert set(backend.calls) == {"Query"}
    assert len(backend.calls) < 10
    first = next(pages(backend, "fleet", limit="7"))
    assert [thing["thing"] for thing in first["things"]] == [f"thing-{number}" for number in range(1199, 1192, -1)]


@pytest.mark.usefixtures("short_queries")
@pytest.mark.parametrize("limit", ["1", "3", "1000"])
@pytest.mark.parametrize("status", ["claimed", "issued", "revoked"])
def test_things_are_selected_by_status_and_prefix(backend: Deployment, status: str, limit: str) -> None:
    """Each selected Thing comes once and no other does, in pages of any size, however little a query reads."""
    facts: list[dict[str, object]] = [{}, CERTIFICATE, {**CERTIFICATE, **REVOKED}, REVOKED]
    for number in range(40):
        site = "north" if number % 5 else "south"
        put_thing(f"{site}-{number}", BEGIN + number, **facts[number % 4])
    wanted = {"claimed": {0}, "issued": {1}, "revoked": {2, 3}}[status]
    expected = [f"north-{number}" for number in range(39, -1, -1) if number % 5 and number % 4 in wanted]
    assert listed(backend, "fleet", status=status, prefix="north-", limit=limit) == expected


@pytest.mark.usefixtures("short_queries")
@pytest.mark.parametrize(("attested", "wanted"), [("yes", {1, 3}), ("no", {0, 2})])
def test_things_are_selected_by_their_proof_of_a_tpm(backend: Deployment, attested: str, wanted: set[int]) -> None:
    """Also together with a status; what is known of the TPM comes along, as far as it is known."""
    tpm: dict[str, object] = {"ek_sha256": "0e" * 32, "ek_certificate_sha256": "0f" * 32, "tpm_manufacturer": "IFX"}
    facts: list[dict[str, object]] = [{}, {**tpm, "tpm_firmware": "7.85.4555.0"}, {}, {"ek_sha256": "0e" * 32}]
    for number in range(20):
        put_thing(f"thing-{number}", BEGIN + number, **facts[number % 4], **(CERTIFICATE if number < 12 else {}))
    expected = [f"thing-{number}" for number in range(11, -1, -1) if number % 4 in wanted]
    assert listed(backend, "fleet", attested=attested, status="issued") == expected
    shown = {one["thing"]: one for page in pages(backend, "fleet", attested=attested) for one in page["things"]}
    assert {one["attested"] for one in shown.values()} == {attested == "yes"}
    members = ("ekSha256", "ekCertificateSha256", "tpmManufacturer", "tpmFirmware")
    known: dict[str, list[tuple[str | None, ...]]] = {
        "yes": [("0e" * 32, "0f" * 32, "IFX", "7.85.4555.0"), ("0e" * 32, None, None, None)],
        "no": [(None,) * 4, (None,) * 4],
    }
    for remainder, values in zip(sorted(wanted), known[attested], strict=True):
        assert tuple(shown[f"thing-{remainder}"][member] for member in members) == values
    assert backend.operate("GET", "fleet", attested="maybe").json["code"] == "field-invalid"


@pytest.mark.parametrize("status", ["open", "used", "expired", "revoked"])
def test_invites_are_selected_by_status_and_prefix(backend: Deployment, status: str) -> None:
    """As they are shown: one that is revoked is nothing else, and one that is used does not expire."""
    now = int(backend.clock.time())
    for prefix in ("a", "b"):
        for number, (expires, left) in enumerate([(now + 60, 1), (now + 60, 0), (now - 1, 0), (now - 1, 1), (now, 2)]):
            put_invite(f"{prefix}{number:015x}", f"{prefix}-{number}", BEGIN + number, expires=expires, left=left)
            put_invite(f"{prefix}f{number:014x}", f"{prefix}-r{number}", BEGIN, expires=expires, left=left)
    for identifier in [name for name in backend.items("invite") if name[1] == "f"]:
        assert backend.operate("DELETE", "invites", id=identifier).status == 204
    expected = {"open": ["a-0"], "used": ["a-2", "a-1"], "expired": ["a-4", "a-3"]}
    expected["revoked"] = [f"a-r{number}" for number in range(4, -1, -1)]
    assert listed(backend, "invites", status=status, prefix="a-") == expected[status]
    shown = [invite["status"] for page in pages(backend, "invites", status=status) for invite in page["invites"]]
    assert set(shown) == {status}


@pytest.mark.usefixtures("short_queries")
def test_a_search_that_finds_little_ends_its_page_and_goes_on(backend: Deployment) -> None:
    """A request makes a limited number of queries: it may find nothing, and say where to continue."""
    for number in range(200):
        put_thing(f"thing-{number}", BEGIN + number, **CERTIFICATE)
    put_thing("wanted", BEGIN - 1)
    found = [[thing["thing"] for thing in page["things"]] for page in pages(backend, "fleet", status="claimed")]
    assert found[0] == []
    assert [name for page in found for name in page] == ["wanted"]
    assert len(backend.calls) <= 8 * len(found) + 1  # and a look at the renewals, where there is a Thing to show


def test_several_things_are_shown_by_their_names(backend: Deployment) -> None:
    """In the order of the names, each once; those that the ledger does not have are left out."""
    for name in ("a", "b", "c"):
        put_thing(name, BEGIN, **(CERTIFICATE if name == "c" else {}))
    answer = backend.operate("GET", "fleet", things="c,nobody,a,c").json
    assert [(thing["thing"], thing["status"]) for thing in answer["things"]] == [("c", "issued"), ("a", "claimed")]
    assert answer["next"] is None


def test_a_new_invite_says_what_its_thing_is(backend: Deployment) -> None:
    """So that whoever invites an enrolled Thing is told; null for one that is new, and for a prefix of names."""
    put_thing("a", BEGIN)
    put_thing("b", BEGIN, **CERTIFICATE)
    put_thing("c", BEGIN, **CERTIFICATE, **REVOKED)
    names = ["a", "b", "c", "d", "b*"]
    made = backend.operate("POST", "invites", {"invites": [{"thing": name} for name in names]}).json["invites"]
    assert [invite["thingStatus"] for invite in made] == ["claimed", "issued", "revoked", None, None]


def put_earlier_thing(name: str, claimed: int, **more: object) -> None:
    """Put a Thing as the versions before there were lists by time did."""
    claim = {"claim_id": "0", "spki_sha256": "0a" * 32, "lease": "x", "lease_ends": 0}
    put(kind="thing", id=name, claimed=claimed, **claim, **more)


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_sweep_adds_things_of_an_earlier_version_to_the_lists(backend: Deployment, scheduled: bool) -> None:
    """The index misses them, as they lack its key; the next sweeps that do not only look complete them, by hundreds."""
    put_thing("new", BEGIN + 1000)
    names = [f"earlier-{number:03}" for number in range(230)]
    for number, name in enumerate(names):
        put_earlier_thing(name, BEGIN + number, **CERTIFICATE)
    assert listed(backend, "fleet") == ["new"]
    shown = backend.operate("GET", "fleet", thing=names[7]).json["thing"]
    backend.operate("POST", "sweep", {"lookOnly": True})
    assert listed(backend, "fleet") == ["new"]
    for expected in (100, 200, 230):
        if scheduled:
            context = SimpleNamespace(aws_request_id="0", get_remaining_time_in_millis=lambda: 900_000)
            backend.handler.sweep_handler({}, context)
        else:
            assert backend.operate("POST", "sweep", {}).status == 200
        assert listed(backend, "fleet", prefix="earlier-", status="issued") == names[:expected][::-1]
    assert backend.operate("GET", "fleet", thing=names[7]).json["thing"] == shown
    del backend.calls[:]
    backend.operate("POST", "sweep", {})
    assert "Query" not in backend.calls
