"""Text at a terminal's width."""

from __future__ import annotations

import pytest

from hsm_enroll.cli.wrapping import wrapped

_TEXTS = [
    "error: the token 'gateway' refused the PIN (CKR_PIN_INCORRECT), and it was tried only once by this command",
    "  Check the PIN before the next run: three wrong PINs lock a TPM, and then only waiting helps, for a day or so.",
    "Certificate  valid until 2027-01-01, in the folder of the state of this device and of its other programs",
    "ok       token.present            token 'gateway' is there, and its serial is the one that the identity names",
    " " * 33 + " Set the clock, for example with: timedatectl set-ntp true, and then run hsm-enroll doctor again",
]


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("text", _TEXTS)
def test_no_line_is_longer_than_the_terminal(text: str, width: int) -> None:
    """Every word stays whole and in order, and every line has room."""
    lines = wrapped(text, width).split("\n")
    assert all(len(line) <= width for line in lines)
    assert " ".join(lines).split() == text.split()
    assert all(len(line) - len(line.lstrip()) <= width // 2 for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("error: one two three four", "error: one two three\n  four"),
        ("  Run this command and that", "  Run this command\n  and that"),
        ("Key       one two three four", "Key       one two\n          three four"),
    ],
    ids=["message", "hint", "row"],
)
def test_the_lines_that_follow_hang(text: str, expected: str) -> None:
    """An error's lines hang under it, a hint's are flush, and a row's stay in their column."""
    assert wrapped(text, 20) == expected


def test_a_row_of_a_table_stays_in_its_columns() -> None:
    """A row that is too long goes on below its last column in the first half; what fits stays below the header."""
    assert wrapped("ab    open     gateway-17 of line 3", 30) == "ab    open     gateway-17 of\n               line 3"
    assert wrapped("ab    open     1/1    gateway-17", 30) == "ab    open     1/1\n               gateway-17"


def test_what_has_no_place_to_break_stays_whole() -> None:
    """A URI can be copied, since it is not broken."""
    uri = "pkcs11:token=gateway;serial=0123456789abcdef;object=hsm-enroll-0123456789abcdef"
    assert uri in wrapped(f"Key  {uri}", 40).split("\n")[-1]


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("  To replace the key, use a new one: hsm-enroll init --new-key INVITE.", "hsm-enroll init --new-key INVITE."),
        ("In  slot 0; to create one: hsm-enroll token create --label LABEL", "hsm-enroll token create --label LABEL"),
        ("  To finish it, run the same hsm-enroll init command again: it resumes", "hsm-enroll init"),
        ("  Then run hsm-enroll csr --key 'pkcs11:id=%01' again", "hsm-enroll csr --key 'pkcs11:id=%01'"),
    ],
    ids=["placeholder", "group", "prose", "quoted"],
)
def test_a_command_stays_on_one_line(text: str, command: str) -> None:
    """At every width where a command fits on a line it can be copied whole, and nothing is longer than a line."""
    for width in range(max(20, len(command)), len(text)):
        lines = wrapped(text, width).split("\n")
        assert any(command in line for line in lines), width
        assert all(len(line) <= width for line in lines), width
        assert " ".join(lines).split() == text.split()


def test_short_lines_stay_as_they_are() -> None:
    """What fits is not touched, blank lines and columns included."""
    text = "Thing   gateway-17\n\n  a    b"
    assert wrapped(text, 40) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Key       and 0123456789", "Key       and\n          0123456789"),
        ("Key       0123456789abcdef", "Key\n  0123456789abcdef"),
        ("Key       0123456789abcdefghijkl", "Key\n0123456789abcdefghijkl"),
        ("    0123456789abcdefgh", "  0123456789abcdefgh"),
    ],
    ids=["room", "less indent", "no room", "its own line"],
)
def test_a_long_word_gives_up_its_indent_first(text: str, expected: str) -> None:
    """A word that does not fit where it belongs is moved to the left, before the terminal would break it."""
    assert wrapped(text, 20) == expected
