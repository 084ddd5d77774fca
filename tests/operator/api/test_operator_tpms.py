"""``fleet import-ek``, ``list-ek``, ``forget-ek`` and ``ek-ca``: which chip is which Thing, and whom to trust."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_enroll.errors import BackendUnreachableError, UsageError
from hsm_enroll.operator import manifest
from hsm_enroll.operator.manifest import ListedChip
from hsm_enroll.operator.tpms import TpmClient
from tests.operator.api.running import Run
from tests.operator.api.stand_in import Backend, json_reply, problem
from tests.support.ek_authority import EkAuthority, pem

EK, OTHER = "0a" * 32, "0b" * 32


def table(folder: Path, rows: int, *, thing: str = "gateway") -> Path:
    """Write a manifest with EKs from 0 on, each for a Thing of its own."""
    path = folder / "manifest.csv"
    path.write_text("thing,ek_sha256\n" + "".join(f"{thing}-{number},{number:064x}\n" for number in range(rows)))
    return path


def colons(digits: str) -> str:
    """Return a fingerprint as openssl writes it."""
    return ":".join(digits[place : place + 2] for place in range(0, len(digits), 2)).upper()


@pytest.mark.parametrize(
    "content",
    [
        f"thing,ek_sha256\na,{EK}\nb,{OTHER}\n",
        f"\ufeffThing,EK_SHA256\r\na,{EK.upper()}\r\n\r\nb,{OTHER}",
        f'serial,ek_sha256,thing\n17,"{EK}",a\n18, {colons(OTHER)} , b \n',
    ],
)
def test_a_manifest_may_come_from_a_supplier(content: str) -> None:
    """A byte order mark, CRLF, quotation marks, further columns, capitals and colons are accepted."""
    entries = manifest.read(content.encode())
    assert list(entries) == [ListedChip(EK, "a"), ListedChip(OTHER, "b")]


def test_a_thing_may_have_several_eks() -> None:
    """A TPM usually has an RSA and an ECC one; each has a line of its own."""
    entries = manifest.read(f"thing,ek_sha256\na,{EK}\n\na,{OTHER}\n".encode())
    assert entries == {ListedChip(EK, "a"): 2, ListedChip(OTHER, "a"): 4}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: the header needs one column 'thing'"),
        (b"thing\na\n", "line 1: the header needs one column 'ek_sha256'"),
        (b"thing,ek_sha256,thing\n", "line 1: the header needs one column 'thing'"),
        (f"a,{EK}\n".encode(), "line 1: the header needs one column 'thing'"),
        (b"thing,ek_sha256\n", "the table has no rows"),
        (b"thing,ek_sha256\na,0a\n", "line 2: ek_sha256 is not a SHA-256"),
        (f"thing,ek_sha256\na b,{EK}\n".encode(), "line 2: thing is not a valid Thing name"),
        (f"thing,ek_sha256\n{'x' * 65},{EK}\n".encode(), "line 2: thing is not a valid Thing name"),
        (f"thing,ek_sha256\nline*,{EK}\n".encode(), "line 2: thing is not a valid Thing name"),
        (f"thing,ek_sha256\na,{EK},x\n".encode(), "line 2: 3 cells, but 2 columns"),
        (f"thing,ek_sha256\na,{EK}\na,{EK}\n".encode(), "line 3: the same EK as line 2"),
        (f"thing,ek_sha256\na,{EK}\nb,{colons(EK)}\n".encode(), "line 3: the same EK as line 2"),
        (f'thing,ek_sha256\n"a,{EK}\n'.encode(), "line 2: not valid CSV"),
        ("thing,ek_sha256\n".encode("utf-16"), "the table is not UTF-8"),
        (
            b"thing,ek_sha256\n" + b"a,x\n" * 7,
            "; ".join(f"line {number}: ek_sha256 is not a SHA-256" for number in range(2, 7)) + "; and 2 more",
        ),
    ],
)
def test_a_bad_manifest_is_refused_with_its_lines(content: bytes, said: str) -> None:
    """All bad rows are counted, and the first ones named: nobody wants to learn of them one by one."""
    with pytest.raises(UsageError) as caught:
        manifest.read(content)
    assert caught.value.message == said
    assert caught.value.hint


def test_the_output_of_tpm_info_in_a_tables_place_is_recognized() -> None:
    """Whoever forgets ``--thing`` is told that it is missing; a table of another form is told its form."""
    with pytest.raises(UsageError) as of_document:
        manifest.read(b'{\n  "endorsementKeys": []\n}\n')
    with pytest.raises(UsageError) as of_table:
        manifest.read(f"thing;ek_sha256\na;{EK}\n".encode())
    assert "--thing NAME" in (of_document.value.hint or "")
    assert "separated by commas" in (of_table.value.hint or "")


def test_nothing_of_a_bad_manifest_is_sent(run: Run, backend: Backend, tmp_path: Path) -> None:
    """A mistake in the last line is found before the first request."""
    path = table(tmp_path, 300)
    path.write_text(path.read_text() + "gateway-300,0a\n")
    result = run("fleet", "import-ek", path)
    assert (result.status, backend.received) == (2, [])
    assert "line 302: ek_sha256 is not a SHA-256" in result.err


def test_ten_thousand_rows_are_imported_and_can_be_again(run: Run, backend: Backend, tmp_path: Path) -> None:
    """A hundred in a request; the second run finds them all listed."""
    path = table(tmp_path, 10_000)
    assert run("fleet", "import-ek", path).out == "10,000 endorsement keys added, 0 listed already\n"
    assert {key: one["thing"] for key, one in backend.eks.items()} == {
        f"{number:064x}": f"gateway-{number}" for number in range(10_000)
    }
    assert [len(request.body["keys"]) for request in backend.received] == [100] * 100
    again = run("fleet", "import-ek", path, "--json")
    assert again.document == {"added": 0, "unchanged": 10_000, "conflicts": []}


def test_the_longest_names_fit_into_a_request(run: Run, backend: Backend, tmp_path: Path) -> None:
    """The API accepts bodies of 16 KiB; the stand-in refuses larger ones."""
    assert run("fleet", "import-ek", table(tmp_path, 100, thing="x" * 61)).status == 0
    assert len(backend.received) == 1


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), BackendUnreachableError("no route", hint="Check it.")])
def test_a_run_that_stopped_is_finished_by_the_same_command(
    run: Run, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: BaseException
) -> None:
    """D20: it says how far it got; what was imported stays, and is not changed by the next run."""
    send = TpmClient.import_eks

    def stopping(self: TpmClient, chips: Any) -> Any:
        if len(backend.eks) == 200:
            raise ending
        return send(self, chips)

    path = table(tmp_path, 250)
    with monkeypatch.context() as patched:
        patched.setattr(TpmClient, "import_eks", stopping)
        stopped = run("fleet", "import-ek", path)
    assert stopped.status == (130 if isinstance(ending, KeyboardInterrupt) else BackendUnreachableError.exit_status)
    assert "200 of 250 rows" in stopped.err
    assert "Run the same command again" in stopped.err
    assert run("fleet", "import-ek", path).out == "50 endorsement keys added, 200 listed already\n"


def test_an_answer_that_got_lost_is_asked_for_again(run: Run, backend: Backend, tmp_path: Path) -> None:
    """An import may be repeated, so that a busy or broken API in the middle does not end it."""
    backend.replies = {1: problem(429, "throttled", Retry_After="0"), 2: (502, {}, b"")}
    assert run("fleet", "import-ek", table(tmp_path, 250)).status == 0
    assert (len(backend.eks), len(backend.received)) == (250, 5)


def test_an_ek_of_another_thing_is_told_by_line(run: Run, backend: Backend, tmp_path: Path) -> None:
    """The others are imported; the exit status is that of a refusal, and the hint says how to move a TPM."""
    assert run("fleet", "import-ek", table(tmp_path, 1, thing="old")).status == 0
    path = table(tmp_path, 3)
    result = run("fleet", "import-ek", path)
    assert (result.status, result.out) == (31, "2 endorsement keys added, 0 listed already\n")
    assert f"{0:064x}"[:16] + "… is old-0 (line 2)" in " ".join(result.err.split())
    assert f"hsm-enroll fleet forget-ek {0:064x}" in " ".join(result.err.split())
    again = run("fleet", "import-ek", path, "--json")
    conflict = {"line": 2, "thing": "gateway-0", "ekSha256": f"{0:064x}", "listedFor": "old-0"}
    assert (again.status, again.document) == (31, {"added": 0, "unchanged": 2, "conflicts": [conflict]})
    run("fleet", "forget-ek", f"{0:064x}")
    assert run("fleet", "import-ek", path).status == 0
    assert backend.eks[f"{0:064x}"]["thing"] == "gateway-0"


def info(*fingerprints: str) -> str:
    """Return what ``tpm info --json`` prints, as far as it matters."""
    return json.dumps({"manufacturer": "IFX", "endorsementKeys": [{"publicSha256": one} for one in fingerprints]})


def test_what_a_tpm_says_of_itself_is_imported(run: Run, backend: Backend, tmp_path: Path) -> None:
    """All its EKs are the named Thing; as with a table, those of another Thing are a conflict, without a line."""
    path = tmp_path / "gateway-17.json"
    path.write_text(info(EK, OTHER))
    result = run("fleet", "import-ek", path, "--thing", "gateway-17")
    assert result.out == "2 endorsement keys added, 0 listed already\n"
    assert {one["thing"] for one in backend.eks.values()} == {"gateway-17"}
    again = run("fleet", "import-ek", path, "--thing", "gateway-18", "--json")
    assert (again.status, {one["line"] for one in again.document["conflicts"]}) == (31, {None})
    assert "(line" not in run("fleet", "import-ek", path, "--thing", "gateway-18").err


def test_a_wrong_name_for_a_tpm_whose_other_key_is_listed_can_be_taken_back(
    run: Run, backend: Backend, tmp_path: Path
) -> None:
    """The key that was not listed yet is now, for the wrong Thing: that is said, with the command that undoes it."""
    (tmp_path / "one.json").write_text(info(EK))
    (tmp_path / "both.json").write_text(info(EK, OTHER))
    assert run("fleet", "import-ek", tmp_path / "one.json", "--thing", "gateway-17").status == 0
    wrong = run("fleet", "import-ek", tmp_path / "both.json", "--thing", "gateway-18")
    told = " ".join(wrong.err.split())
    assert wrong.status == 31
    assert f"the TPM has is listed for gateway-18 now. If that is wrong: hsm-enroll fleet forget-ek {OTHER}" in told
    run("fleet", "forget-ek", OTHER)
    assert run("fleet", "import-ek", tmp_path / "both.json", "--thing", "gateway-17").status == 0
    assert {one["thing"] for one in backend.eks.values()} == {"gateway-17"}


@pytest.mark.parametrize(
    ("content", "thing"),
    [
        (info(), "a"),
        (info("0a"), "a"),
        (info(EK), "a b"),
        ("{}", "a"),
        ("[]", "a"),
        ('{"endorsementKeys": [1]}', "a"),
        ('{"endorsementKeys": [{"publicSha256": 1}]}', "a"),
        (f"thing,ek_sha256\na,{EK}\n", "a"),
        ("\ud83d", "a"),
    ],
)
def test_what_is_not_the_output_of_tpm_info_is_refused(
    run: Run, backend: Backend, tmp_path: Path, content: str, thing: str
) -> None:
    """Nothing is sent."""
    path = tmp_path / "file"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert (run("fleet", "import-ek", path, "--thing", thing).status, backend.received) == (2, [])


def test_an_answer_about_other_entries_is_unexpected(run: Run, backend: Backend, tmp_path: Path) -> None:
    """The numbers have to add up to what was sent."""
    backend.replies = {0: json_reply(200, {"added": 1, "unchanged": 0, "conflicts": []})}
    result = run("fleet", "import-ek", table(tmp_path, 2), "--json")
    assert result.document["error"]["code"] == "unexpected-response"


def test_the_manifest_is_listed(run: Run, backend: Backend, tmp_path: Path) -> None:
    """By prefix and number, for people, as CSV, and as JSON; the CSV can be imported again."""
    assert run("fleet", "list-ek").out == "no endorsement key is listed\n"
    run("fleet", "import-ek", table(tmp_path, 3))
    header, *lines = run("fleet", "list-ek").out.splitlines()
    assert header.split() == ["EK", "SHA-256", "LISTED", "(UTC)", "THING"]
    assert [(line.split()[0], line.split()[-1]) for line in lines] == [
        (f"{number:064x}", f"gateway-{number}") for number in range(3)
    ]
    found = run("fleet", "list-ek", "--prefix", "gateway-2", "--json").document
    (listed,) = found["keys"]
    assert (listed["thing"], listed["ekSha256"], found["more"]) == ("gateway-2", f"{2:064x}", False)
    written = run("fleet", "list-ek", "--csv").out
    assert [row["thing"] for row in csv.DictReader(written.splitlines())] == ["gateway-0", "gateway-1", "gateway-2"]
    assert len(manifest.read(written.encode())) == 3
    assert run("fleet", "list-ek", "--status", "open").status == 2
    assert backend.received[-1].query == {}


@pytest.mark.parametrize("written", [EK, EK.upper(), colons(EK)])
def test_an_ek_is_forgotten(run: Run, backend: Backend, written: str) -> None:
    """However its fingerprint is written; one that is not listed is an error."""
    backend.eks[EK] = {"ekSha256": EK, "thing": "a", "created": "2026-11-24T10:00:00Z", "createdBy": "arn:aws"}
    assert run("fleet", "forget-ek", written, "--json").document == {"ekSha256": EK, "listed": False}
    assert backend.eks == {}
    unknown = run("fleet", "forget-ek", written)
    assert (unknown.status, "fleet list-ek" in unknown.err) == (31, True)
    assert run("fleet", "forget-ek", "0a").status == 2


def vendor(folder: Path, *, der: bool) -> tuple[Path, str]:
    """Write a vendor's root as it is published, and return it with its SHA-256."""
    root = EkAuthority().root
    content = root.public_bytes(Encoding.DER)
    path = folder / "root.crt"
    path.write_bytes(content if der else b"Subject: CN=Vendor\n" + pem(root).encode())
    return path, hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("der", [True, False])
def test_a_ca_is_trusted_listed_and_removed(run: Run, backend: Backend, tmp_path: Path, der: bool) -> None:
    """Its file may be PEM with text around it, or DER, and its SHA-256 written as openssl does."""
    path, sha256 = vendor(tmp_path, der=der)
    assert "CN=Vendor root, until 2049-12-31" in run("fleet", "ek-ca", "add", path, "--sha256", colons(sha256)).out
    assert "BEGIN CERTIFICATE" in backend.received[0].body["certificate"]
    assert backend.received[0].body["sha256"] == sha256
    added = run("fleet", "ek-ca", "add", path, "--sha256", sha256, "--json").document
    assert run("fleet", "ek-ca", "list", "--json").document == {"authorities": [added]}
    shown = run("fleet", "ek-ca", "list").out
    assert shown == f"{sha256}  2049-12-31  root\n  CN=Vendor root\n"
    removed = run("fleet", "ek-ca", "remove", sha256, "--json").document
    assert removed == {"sha256": sha256, "trusted": False}
    assert run("fleet", "ek-ca", "list").out == "no CA is trusted\n"
    unknown = run("fleet", "ek-ca", "remove", sha256)
    assert (unknown.status, "fleet ek-ca list" in unknown.err) == (31, True)


def test_a_ca_with_another_sha256_is_not_trusted(run: Run, backend: Backend, tmp_path: Path) -> None:
    """Nothing is sent; both fingerprints are for a person to compare with what the vendor states."""
    path, sha256 = vendor(tmp_path, der=False)
    result = run("fleet", "ek-ca", "add", path, "--sha256", OTHER)
    assert (result.status, backend.received, backend.authorities) == (2, [], {})
    assert sha256 in result.err
    assert "Do not trust this file" in " ".join(result.err.split())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n" * 2,
    ],
)
def test_what_is_not_one_certificate_is_refused(run: Run, backend: Backend, tmp_path: Path, content: bytes) -> None:
    """A bundle has to be added one by one, each with its own SHA-256."""
    path = tmp_path / "file"
    path.write_bytes(content)
    assert run("fleet", "ek-ca", "add", path, "--sha256", EK).status == 2
    assert backend.received == []


def test_a_ca_that_has_expired_is_warned_of(run: Run, backend: Backend, tmp_path: Path) -> None:
    """It is added all the same, but no chain is accepted because of it."""
    backend.ca_ends = "2020-01-01T00:00:00Z"
    path, sha256 = vendor(tmp_path, der=True)
    result = run("fleet", "ek-ca", "add", path, "--sha256", sha256)
    assert (result.status, "expired" in result.err) == (0, True)


def test_what_the_backend_does_not_take_for_a_ca_is_refused(run: Run, backend: Backend, tmp_path: Path) -> None:
    """Whether it is the certificate of a CA is the backend's decision, and told with what to give instead."""
    backend.replies = {0: problem(400, "ek-ca-invalid")}
    path, sha256 = vendor(tmp_path, der=True)
    result = run("fleet", "ek-ca", "add", path, "--sha256", sha256)
    assert (result.status, "vendor's root" in " ".join(result.err.split())) == (31, True)


def test_an_invite_may_require_a_tpm(run: Run, backend: Backend) -> None:
    """Any TPM, one TPM, and one that is another Thing's already; the list says so."""
    run("invite", "create", "--thing", "any", "--require-tpm")
    run("invite", "create", "--thing", "one", "--ek-sha256", colons(EK), "--reuse-tpm")
    asked = [request.body["invites"][0] for request in backend.received]
    common = {"uses": 1, "ttlSeconds": 86400}
    assert asked == [
        {"thing": "any", **common, "requireTpm": True},
        {"thing": "one", **common, "ekSha256": EK, "reuseTpm": True},
    ]
    lines = run("invite", "list").out.splitlines()
    assert [line.partition("  (")[2] for line in lines[1:]] == ["needs a TPM)", "one TPM)"]
    listed = run("invite", "list", "--json").document["invites"]
    assert [(one["requireTpm"], one["reuseTpm"]) for one in listed] == [(True, False), (True, True)]


def test_a_replacement_may_require_a_tpm(run: Run, backend: Backend) -> None:
    """As an invite may: the new board of a Thing that was attested is a known one, too."""
    backend.add_thing("gateway-17")
    run("fleet", "replace", "gateway-17", "--ek-sha256", EK, "--require-tpm", "--reuse-tpm")
    asked = {"thing": "gateway-17", "ttlSeconds": 86400, "ekSha256": EK, "requireTpm": True, "reuseTpm": True}
    assert backend.received[0].body == asked
    assert run("fleet", "replace", "gateway-17", "--ek-sha256", "0a").status == 2


def test_a_table_may_require_tpms(run: Run, backend: Backend, tmp_path: Path) -> None:
    """Its columns are named as the options are, and come out again."""
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(f"thing,require_tpm,reuse_tpm,ek_sha256\na,yes,,\nb,,true,{EK}\n")
    assert run("invite", "create", "--from", source, "--output", output).status == 0
    first, second = backend.received[0].body["invites"]
    assert (first["requireTpm"], "reuseTpm" in first) == (True, False)
    assert (second["ekSha256"], second["reuseTpm"], "requireTpm" in second) == (EK, True, False)
    assert [row["require_tpm"] for row in csv.DictReader(output.read_text().splitlines())] == ["yes", ""]


def test_the_fleet_shows_who_has_proven_what(run: Run, backend: Backend) -> None:
    """The list selects, and names the manufacturer if that is short; one Thing has it all, within 80 columns."""
    tpm = {"attested": True, "ekSha256": EK, "ekCertificateSha256": OTHER, "tpmFirmware": "7.85.4555.0"}
    for name, manufacturer in {"a": "IFX", "b": "00001014", "c": None}.items():
        backend.add_thing(name)
        backend.things[name] |= {**tpm, "tpmManufacturer": manufacturer}
    backend.add_thing("d")
    lines = run("fleet", "list", "--attested", "yes").out.splitlines()
    assert [line.split()[2] for line in lines] == ["TPM", "IFX", "yes", "yes"]
    assert [one["thing"] for one in run("fleet", "list", "--attested", "no", "--json").document["things"]] == ["d"]
    assert [request.query for request in backend.received] == [{"attested": "yes"}, {"attested": "no"}]
    shown = run("fleet", "show", "a").out
    for row in ("Attested      yes", "TPM           IFX, firmware 7.85.4555.0", f"EK            {EK}"):
        assert f"\n{row}\n" in shown
    assert f"EK cert       {OTHER}" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "Attested      no" in run("fleet", "show", "d").out
    backend.things.clear()
    assert run("fleet", "list", "--attested", "no").out == "no Thing matches\n"
