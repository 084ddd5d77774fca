"""An invite's URL, taken apart: what is read alike, what is refused, and that a refusal tells no code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hsm_enroll.backend_api.invite import parse
from hsm_enroll.errors import UsageError

_SAMPLES = json.loads(
    (Path(__file__).parents[2] / "contract" / "samples" / "invite-codes.json").read_text(encoding="utf-8")
)
_WRITTEN: str = _SAMPLES["valid"][0]["written"]
_CODE: str = _SAMPLES["valid"][0]["normalized"]


@pytest.mark.parametrize("sample", _SAMPLES["valid"], ids=lambda sample: ascii(sample["written"]))
def test_a_valid_code_is_read_as_the_contract_says(sample: dict[str, str]) -> None:
    """Case, spaces, dashes and look-alikes do not matter: what is sent is the normalized code."""
    assert parse(f"https://api.example/#{sample['written']}").code.reveal() == sample["normalized"]


@pytest.mark.parametrize("written", _SAMPLES["invalid"], ids=ascii)
def test_an_invalid_code_is_refused_without_being_repeated(written: str) -> None:
    """A mistyped code is wrong usage, with something to do about it, and shows up nowhere in the error."""
    with pytest.raises(UsageError) as raised:
        parse(f"https://api.example/#{written}")
    shown = f"{raised.value!r} {raised.value.message} {raised.value.hint}"
    assert raised.value.hint
    assert not [group for group in written.replace(" ", "-").split("-") if len(group) > 3 and group in shown]
    assert raised.value.__cause__ is None


def test_a_mistyped_code_is_told_from_what_is_no_invite() -> None:
    """A person learns whether a character of the code is wrong, or whether the whole is something else."""
    with pytest.raises(UsageError, match="the invite's code is mistyped"):
        parse(f"https://api.example/#{_WRITTEN[:-1]}")
    with pytest.raises(UsageError, match="not a valid invite"):
        parse(_WRITTEN)


@pytest.mark.parametrize(
    ("written", "api_url"),
    [
        ("https://api.example/#{}", "https://api.example"),
        ("https://api.example#{}", "https://api.example"),
        (" \thttps://api.example:8443/stage/#{}\r\n", "https://api.example:8443/stage"),
        ("\ufeffhttps://api.example/#{}", "https://api.example"),
    ],
)
def test_the_api_is_what_stands_before_the_code(written: str, api_url: str) -> None:
    """White space around an invite, a byte order mark and the slash before the # do not matter."""
    invite = parse(written.format(_WRITTEN))
    assert (invite.api_url, invite.code.reveal()) == (api_url, _CODE)


@pytest.mark.parametrize(
    "text",
    ["http://api.example/#{}", "api.example/#{}", "ftp://api.example/#{}", "https://api.example/{}", "#{}", "{}",
     "https://api.example/#", "https://api.example", "<https://api.example/#{}>", ""],
)  # fmt: skip
def test_what_is_no_invite_is_refused_without_being_repeated(text: str) -> None:
    """Only an HTTPS URL with a code is an invite; a text that may hold a code is not shown again."""
    with pytest.raises(UsageError) as raised:
        parse(text.format(_WRITTEN))
    assert raised.value.hint
    assert _WRITTEN not in f"{raised.value!r} {raised.value.hint}"


def test_an_invite_does_not_show_its_code() -> None:
    """An invite can be logged: its code is redacted."""
    assert _CODE not in repr(parse(f"https://api.example/#{_WRITTEN}"))
