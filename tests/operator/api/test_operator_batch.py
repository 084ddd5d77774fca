"""Tables of invites: what is accepted, what is refused and how, and that what comes out can go in again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from hsm_enroll.errors import BackendUnreachableError, UsageError
from hsm_enroll.operator import batch
from hsm_enroll.operator.invites import NewInvite, ttl_seconds
from hsm_enroll.operator.records import CreatedInvite
from hsm_enroll.secret import Secret

_API = "https://api.example"
_CODE = "7K3QM-ABCDE-FGHJK-MNPQR-STVWX"
_MADE = f"{_API}/#{_CODE},0123456789abcdef,2026-11-24T10:00:00Z"


def _create(invites: Sequence[NewInvite]) -> list[CreatedInvite]:
    expires = datetime(2026, 11, 24, 10, tzinfo=UTC)
    return [
        CreatedInvite(f"{number:016x}", Secret(_CODE), one.thing, one.uses, expires)
        for number, one in enumerate(invites)
    ]


def test_a_table_asks_for_what_its_columns_say() -> None:
    """Every column is read, an empty cell is the default, and blank lines do not count."""
    table = batch.read(
        b"thing,uses,ttl,ek_sha256,existing_thing\n"
        b"gateway-1,,,,\n"
        b"\n"
        b"line3-*,20,7d," + b"Ab" * 32 + b",true\n"
        b" gateway-2 ,1,30m,,No\n"
    )
    assert [row.requested for row in table.rows] == [
        NewInvite("gateway-1"),
        NewInvite("line3-*", 20, 7 * 86400, "Ab" * 32, existing_thing=True),
        NewInvite("gateway-2", 1, 1800),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"thing\r\ngateway-1\r\ngateway-2\r\n",
        b"\xef\xbb\xbfthing\ngateway-1\ngateway-2",
        b'\xef\xbb\xbf"Thing"\r\n"gateway-1"\r\n"gateway-2"\r\n\r\n',
        b"uses,thing\n1,gateway-1\n1,gateway-2\n",
    ],
)
def test_a_table_may_come_from_a_spreadsheet(content: bytes) -> None:
    """A byte order mark, CRLF, quotation marks and another order of columns are accepted."""
    assert [row.requested.thing for row in batch.read(content).rows] == ["gateway-1", "gateway-2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: the header has no column 'thing'"),
        (b"\n", "line 1: the header has no column 'thing'"),
        (b"gateway-1\ngateway-2\n", "line 1: the header has no column 'thing'"),
        (b"thing;ttl\ngateway-1;7d\n", "line 1: the header has no column 'thing'"),
        (b"thing,tll\ngateway-1,7d\n", "line 1: the header has an unknown column"),
        (b"thing,ttl,ttl\ngateway-1,7d,8d\n", "line 1: the header has the same column twice"),
        (b"thing\n", "the table has no rows"),
        (b"thing\ngateway 1\n", "line 2: thing is not a valid Thing name"),
        (b"thing,uses\n,1\n", "line 2: thing is not a valid Thing name"),
        (b"thing\ngateway-1\n" + b"x" * 65 + b"\n", "line 3: thing is not a valid Thing name"),
        (b"thing\ngateway-*-1\n", "line 2: thing is not a valid Thing name"),
        (b"thing\ng\xc3\xa4teway\n", "line 2: thing is not a valid Thing name"),
        (b'thing\n"gate\nway"\n', "line 3: thing is not a valid Thing name"),
        (b"thing\n=cmd()\n", "line 2: thing is not a valid Thing name"),
        (b"thing,uses\ng-*,0\n", "line 2: uses must be a number, 1 or more"),
        (b"thing,uses\ng-*,-1\n", "line 2: uses must be a number, 1 or more"),
        (b"thing,uses\ng-*,1.5\n", "line 2: uses must be a number, 1 or more"),
        (b"thing,uses\ng-*,1e3\n", "line 2: uses must be a number, 1 or more"),
        (b"thing,uses\ng-*,1000001\n", "line 2: uses must be a number, 1 or more"),
        (b"thing,uses\ng-*," + b"9" * 5000 + b"\n", "line 2: uses must be a number, 1 or more"),
        (b"thing,uses\ngateway-1,2\n", "line 2: more than one use needs a prefix of names"),
        (b"thing,ttl\ngateway-1,7\n", "line 2: ttl is not a valid time"),
        (b"thing,ttl\ngateway-1,1w\n", "line 2: ttl is not a valid time"),
        (b"thing,ttl\ngateway-1,-1h\n", "line 2: ttl is not a valid time"),
        (b"thing,ttl\ngateway-1,0m\n", "line 2: ttl must be between 1m and 365d"),
        (b"thing,ttl\ngateway-1,366d\n", "line 2: ttl must be between 1m and 365d"),
        (b"thing,ek_sha256\ngateway-1,abc\n", "line 2: ek_sha256 is not a SHA-256"),
        (b"thing,existing_thing\ngateway-1,maybe\n", "line 2: existing_thing must be true or false"),
        (b"thing,uses\ngateway-1\n", "line 2: 1 cells, but 2 columns"),
        (b"thing,uses\ngateway-1,1,7d\n", "line 2: 3 cells, but 2 columns"),
        (b"thing\ngateway-1\ngateway-2\ngateway-1\n", "line 4: line 2 has the same thing"),
        (b'thing\n"gateway-1\n', "line 2: not valid CSV"),
        (b'thing\n"gateway-1"x\n', "line 2: not valid CSV"),
        (b"thing\ngateway-1\0\n", "line 2: "),
        (b"thing\n" + b"x" * 200_000 + b"\n", "line 2: not valid CSV"),
        ("thing\ngateway-1\n".encode("utf-16"), "the table is not UTF-8"),
        (b"PK\x03\x04\xff\xfe", "the table is not UTF-8"),
        (b"thing,invite,id,expires\ngateway-1," + _MADE.encode().replace(b"https", b"http"), "line 2: invite, id or"),
        (b"thing,invite,id\ngateway-1," + _MADE.rpartition(",")[0].encode(), "line 2: invite, id or"),
        (b"thing,ttl,invite,id,expires\ngateway-1," + _MADE.encode() + b",", "line 2: invite, id or"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(content: bytes, said: str) -> None:
    """A bad row ends the whole with its line's number; no cell is repeated, since a shifted one may hold a code."""
    with pytest.raises(UsageError) as caught:
        batch.read(content)
    assert caught.value.message.startswith(said)
    assert caught.value.hint
    assert _CODE not in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("1m", 60), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("365d", 31536000)]
)
def test_a_time_has_a_unit(text: str, seconds: int) -> None:
    """Minutes, hours and days are read."""
    assert ttl_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "24", "24H", "24 h", "1h30m", "+1h", "\u0661h", "24h\n"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Nothing is guessed about a time's unit."""
    with pytest.raises(UsageError, match="ttl is not a valid time"):
        ttl_seconds(text)


def test_the_table_comes_out_as_it_went_in_and_more() -> None:
    """The rows keep order and cells and get three columns; read again, nothing is left to do."""
    table = batch.read(b"ttl,thing\n7d,gateway-1\n,gateway-2\n")
    (done,) = batch.create(table, _create, _API)
    assert done.to_csv() == (
        "ttl,thing,invite,id,expires\n"
        f"7d,gateway-1,{_API}/#{_CODE},0000000000000000,2026-11-24T10:00:00Z\n"
        f",gateway-2,{_API}/#{_CODE},0000000000000001,2026-11-24T10:00:00Z\n"
    )
    again = batch.read(done.to_csv().encode())
    assert (again.left, again.to_csv(), again.to_json()) == (0, done.to_csv(), done.to_json())
    assert list(batch.create(again, _create, _API)) == []


def test_a_broken_batch_goes_on_where_it_stopped() -> None:
    """After a failure half-way the table so far goes in again, and only the rows without an invite are asked for."""
    table = batch.read(b"thing\n" + b"".join(b"gateway-%d\n" % number for number in range(250)))
    asked: list[str] = []

    def once(invites: Sequence[NewInvite]) -> list[CreatedInvite]:
        if asked:
            raise BackendUnreachableError("gone")
        asked.extend(one.thing for one in invites)
        return _create(invites)

    parts = batch.create(table, once, _API)
    so_far = next(parts)
    with pytest.raises(BackendUnreachableError):
        next(parts)
    rest = batch.read(so_far.to_csv().encode())
    assert (len(asked), rest.left) == (100, 150)

    sizes: list[int] = []

    def counted(invites: Sequence[NewInvite]) -> list[CreatedInvite]:
        sizes.append(len(invites))
        asked.extend(one.thing for one in invites)
        return _create(invites)

    *_, done = batch.create(rest, counted, _API)
    assert asked == [row.requested.thing for row in table.rows] == [one["thing"] for one in done.to_json()]
    assert (sizes, done.left) == ([100, 50], 0)


def test_a_batch_does_not_show_its_codes() -> None:
    """The repr of a table, of its rows and of its invites holds no code."""
    (done,) = batch.create(batch.read(b"thing\ngateway-1\n"), _create, _API)
    assert _CODE in done.to_csv()
    assert _CODE not in f"{done!r} {done.rows[0].made!r}"
