"""``invite list`` and ``fleet list``: what is asked of the backend, and what is shown of it."""

from __future__ import annotations

import csv

import pytest

from hsm_enroll.errors import UnexpectedResponseError
from hsm_enroll.operator.api import OperatorClient
from tests.operator.api.running import Run
from tests.operator.api.stand_in import Backend, json_reply
from tests.support.authority import Authority

pytestmark = pytest.mark.usefixtures("operator_credentials")


def queries(backend: Backend) -> list[dict[str, str]]:
    """Return the queries that the backend was sent."""
    return [request.query for request in backend.received]


@pytest.fixture
def fleet(backend: Backend) -> Backend:
    """A backend with twelve Things on two lines."""
    for number in range(12):
        backend.add_thing(f"line{number % 2}-{number}", ["claimed", "issued", "revoked"][number % 3])
    return backend


def test_the_backend_selects(run: Run, fleet: Backend) -> None:
    """Status and prefix are sent, so that what is not wanted does not come over the wire."""
    listed = run("fleet", "list", "--status", "issued", "--prefix", "line0-", "--json").document
    assert [thing["thing"] for thing in listed["things"]] == ["line0-4", "line0-10"]
    assert queries(fleet) == [{"status": "issued", "prefix": "line0-"}]
    assert run("fleet", "list", "--status", "open").status == 2
    assert run("invite", "list", "--status", "issued").status == 2


@pytest.mark.parametrize(
    ("limit", "shown", "more", "count"),
    [
        ("5", 5, True, "- the newest 5 Things; there are more"),
        ("12", 12, False, "- 12 Things"),
        ("1", 1, True, "newest 1 Thing;"),
    ],
)
def test_a_limit_is_sent_and_what_it_leaves_out_is_said(
    run: Run, fleet: Backend, limit: str, shown: int, more: bool, count: str
) -> None:
    """One more than the limit is asked for, in one page, to know whether there are more."""
    result = run("fleet", "list", "--limit", limit)
    assert len(result.out.splitlines()) == 1 + shown
    assert count in result.err
    assert queries(fleet) == [{"limit": str(int(limit) + 1)}]
    document = run("fleet", "list", "--limit", limit, "--json").document
    assert (len(document["things"]), document["more"]) == (shown, more)


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_is_a_number_from_one_on(run: Run, fleet: Backend, limit: str) -> None:
    """Anything else is wrong usage; nothing is asked."""
    assert run("fleet", "list", "--limit", limit).status == 2
    assert fleet.received == []


def test_pages_are_of_the_same_selection(backend: Backend, authority: Authority) -> None:
    """Each page is asked for with status, prefix and size, beside the token of the one before."""
    backend.page = 3
    for number in range(7):
        backend.add_thing(f"a{number}")
        backend.add_thing(f"b{number}")
    client = OperatorClient(backend.url, authority.certificate)
    assert [thing.thing for thing in client.list_things("issued", "a", 5000)] == [f"a{number}" for number in range(7)]
    assert [(query["status"], query["prefix"], query["limit"]) for query in queries(backend)] == [
        ("issued", "a", "1000")
    ] * 3
    assert ["next" in query for query in queries(backend)] == [False, True, True]


def test_a_list_can_be_a_table_in_csv(run: Run, fleet: Backend) -> None:
    """Every member in a column, named as in the tables of invites; the count goes to stderr."""
    result = run("fleet", "list", "--csv")
    rows = list(csv.DictReader(result.out.splitlines()))
    assert [row["thing"] for row in rows] == list(fleet.things)
    first = fleet.things["line0-0"]
    assert rows[0] == {
        "thing": "line0-0",
        "status": "claimed",
        "spki_sha256": first["spkiSha256"],
        "certificate_id": "",
        "claimed": first["claimed"],
        "enrolled": "",
        "revoked": "",
        "invite_id": first["inviteId"],
        "key_type": "",
        "renewed": "",
        "renewal_due": "false",
        "renewal_pending": "false",
        "renewal_undone": "",
        "renewal_undone_because": "",
        "attested": "false",
        "ek_sha256": "",
        "ek_certificate_sha256": "",
        "tpm_manufacturer": "",
        "tpm_firmware": "",
    }
    assert "12 Things" in result.err
    run("invite", "create", "--thing", "gateway-17", "--existing-thing")
    (invite,) = csv.DictReader(run("invite", "list", "--csv").out.splitlines())
    assert (invite["thing"], invite["uses_left"], invite["existing_thing"]) == ("gateway-17", "1", "true")


def test_an_empty_table_has_its_header(run: Run) -> None:
    """A program that reads it needs no special case."""
    assert run("fleet", "list", "--csv").out.startswith("thing,status,")


def test_csv_and_json_exclude_each_other(run: Run, fleet: Backend) -> None:
    """Only one of them can be on stdout."""
    result = run("fleet", "list", "--csv", "--json")
    assert (result.status, "--csv or --json" in result.document["error"]["message"]) == (2, True)
    assert fleet.received == []


def test_many_names_are_asked_for_in_few_requests(backend: Backend, authority: Authority) -> None:
    """At most a hundred names, and less than API Gateway's 10 kB, in each; the answer is in the order of the names."""
    names = [f"{'x' * (number % 120)}:{number}" for number in range(350)]
    for name in names[::2]:
        backend.add_thing(name)
    client = OperatorClient(backend.url, authority.certificate)
    assert [thing.thing for thing in client.find_things(names)] == names[::2]
    asked = [query["things"].split(",") for query in queries(backend)]
    assert [name for part in asked for name in part] == names
    assert max(map(len, asked)) <= 100
    assert max(len(query["things"]) + 2 * query["things"].count(":") for query in queries(backend)) < 4000
    assert len(asked) < 15


def test_other_things_than_the_named_ones_are_an_unexpected_answer(backend: Backend, authority: Authority) -> None:
    """A backend of an earlier version ignores the parameter and lists any Things."""
    backend.add_thing("other")
    backend.replies = {0: json_reply(200, {"things": [backend.things["other"]], "next": None})}
    with pytest.raises(UnexpectedResponseError):
        OperatorClient(backend.url, authority.certificate).find_things(["wanted"])


@pytest.mark.parametrize("prefix", ["", "line3-*", "ä", "a b", "x" * 129])
@pytest.mark.parametrize("command", ["fleet", "invite"])
def test_a_prefix_that_no_name_has_is_wrong_usage(run: Run, fleet: Backend, command: str, prefix: str) -> None:
    """Exit 2 and the hint that there is no * at its end; nothing is asked."""
    result = run(command, "list", "--prefix", prefix)
    assert (result.status, fleet.received) == (2, [])
    assert "Leave a * at the end out" in " ".join(result.err.split())


@pytest.mark.parametrize("invite_id", ["", "ä", "7K3QM-ABCDE-FGHJK-MNPQR-STVWX", "https://api.example/#7K3QM-ABCDE"])
def test_what_cannot_be_an_invites_id_is_wrong_usage(run: Run, backend: Backend, invite_id: str) -> None:
    """Exit 2, nothing is asked, and what may be an invite's code is neither sent nor repeated."""
    result = run("invite", "revoke", invite_id)
    assert (result.status, backend.received) == (2, [])
    assert "7K3QM" not in result.err
