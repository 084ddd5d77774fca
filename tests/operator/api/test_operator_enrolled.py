"""Inviting a Thing that is in the ledger: the operator is told what the invite needs before it can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.operator.api.running import Run
from tests.operator.api.stand_in import Backend


@pytest.mark.parametrize("status", ["claimed", "issued"])
def test_an_invite_for_an_enrolled_thing_is_a_warning(run: Run, backend: Backend, status: str) -> None:
    """It names the Thing, and the command that replaces its key. The invite is made all the same."""
    backend.add_thing("gateway-17", status)
    made = run("invite", "create", "--thing", "gateway-17")
    assert (made.status, made.out.startswith("https://")) == (0, True)
    warning = " ".join(made.err.split())
    assert "warning: gateway-17 is enrolled already" in warning
    assert "hsm-enroll fleet replace gateway-17 creates an invite that retires the present key" in warning


def test_a_script_is_told_too(run: Run, backend: Backend) -> None:
    """In the document, and on stderr beside it."""
    backend.add_thing("gateway-17")
    made = run("invite", "create", "--thing", "gateway-17", "--json")
    assert made.document["thingStatus"] == "issued"
    assert "warning: gateway-17 is enrolled already" in made.err
    assert run("invite", "create", "--thing", "gateway-18", "--json").document["thingStatus"] is None


def test_a_revoked_thing_needs_a_new_key(run: Run, backend: Backend) -> None:
    """That is no mistake, and no warning."""
    backend.add_thing("gateway-17", "revoked")
    made = run("invite", "create", "--thing", "gateway-17")
    assert "init --new-key" in made.err
    assert "warning" not in made.err
    assert "init --new-key" not in run("invite", "create", "--thing", "gateway-18").err


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_of_many_the_first_few_are_named(run: Run, backend: Backend, tmp_path: Path, option: list[str]) -> None:
    """One warning for the whole table."""
    for number in range(7):
        backend.add_thing(f"gateway-{number}")
    table = tmp_path / "things.csv"
    table.write_text("thing\n" + "".join(f"gateway-{number}\n" for number in range(9)))
    made = run("invite", "create", "--from", table, "--output", tmp_path / "out.csv", *option)
    assert made.status == 0
    assert made.err.count("warning: ") == 1
    assert "gateway-3, gateway-4 and 2 more are enrolled already" in made.err
    if option:
        assert [one["thingStatus"] for one in made.document] == ["issued"] * 7 + [None] * 2


def test_the_next_command_is_for_the_same_deployment(
    run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given to find the API is repeated."""
    backend.add_thing("gateway-17")
    monkeypatch.delenv("HSM_ENROLL_API_URL")
    made = run("invite", "create", "--thing", "gateway-17", "--api", backend.url, "--region", "eu-west-3")
    assert f"fleet replace gateway-17 --api {backend.url} --region eu-west-3 creates" in " ".join(made.err.split())
