"""What a person sees on a terminal: marks, the failing step, and lines that fit."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest

from hsm_enroll.cli.invocation import key_note
from hsm_enroll.cli.terminal import Terminal
from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.key import KeyType, TokenName

_TPM = TokenName(Path("/usr/lib/libtpm2_pkcs11.so.1"), "gateway", "0" * 16, "IBM", "SW   TPM")
_SOFTHSM = TokenName(Path("/usr/lib/libsofthsm2.so"), "gateway", "f13b69f2401b1966", "SoftHSM project", "SoftHSM v2")


def _shown(act: Callable[[], None]) -> str:
    """Return what stderr shows if it is a terminal of 40 columns."""
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(secondary, "w", encoding="utf-8") as stream:
        with redirect_stderr(stream):
            act()
        stream.write("end")
        stream.flush()
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(primary, 65536)
    os.close(primary)
    return shown.decode().replace("\r\n", "\n").removesuffix("end")


def _plain(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "")


def _fail() -> None:
    with suppress(HsmEnrollError), Terminal().step("asking the token"):
        raise HsmEnrollError("no answer")
    with Terminal().step("asking again"):
        pass


def _tell() -> None:
    Terminal().error(HsmEnrollError("cannot reach https://localhost:9: nothing answers there", hint="Check it. " * 9))


def test_no_color_takes_the_colour_and_leaves_the_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that failed has a cross and one that succeeded a tick; with NO_COLOR there are no escape sequences."""
    monkeypatch.setenv("NO_COLOR", "1")
    shown = _shown(_fail)
    assert [line.split("  ")[0] for line in shown.splitlines()] == ["✗ asking the token", "✓ asking again"]
    assert "\x1b" not in shown


def test_a_file_gets_no_marks(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is a file, a step that failed has a dash and says so."""
    _fail()
    assert capsys.readouterr().err.splitlines()[0].split() == ["-", "asking", "the", "token", "failed"]


def test_every_line_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 40 columns a message and its hint are broken between words, and hang."""
    monkeypatch.setenv("NO_COLOR", "1")
    lines = _shown(_tell).splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert lines[0].startswith("error: cannot reach")
    assert all(line.startswith("  ") for line in lines[1:])


_GREEN_TICK, _RED_CROSS, _RED_ERROR = "\x1b[32m✓\x1b[0m", "\x1b[31m✗\x1b[0m", "\x1b[1;31merror:\x1b[0m"


def test_marks_and_errors_are_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal is shown green ticks, red crosses and a red label, in rows that are laid out as without colour."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    uncoloured = _shown(_fail).splitlines()
    monkeypatch.delenv("NO_COLOR")
    rows = [line for line in _shown(_fail).splitlines() if "✓" in line or "✗" in line]
    assert _RED_CROSS in rows[0]
    assert _GREEN_TICK in rows[1]
    # What is before the mark was the spinner's.
    rows = [re.sub("^.*(?=[✓✗])", "", _plain(row)) for row in rows]
    assert [len(row) for row in rows] == [len(row) for row in uncoloured]
    assert [row.split()[:3] for row in rows] == [row.split()[:3] for row in uncoloured]
    assert _shown(_tell).startswith(f"{_RED_ERROR} cannot reach")


@pytest.mark.parametrize(
    ("terminal", "environment", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(quiet=True), {}, False),
        (Terminal(as_json=True), {}, False),
    ],
    ids=["terminal", "NO_COLOR", "dumb", "quiet", "json"],
)
def test_a_running_step_has_a_spinner_with_its_note(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, environment: dict[str, str], expected: bool
) -> None:
    """While a step runs, a capable terminal shows what it does and how long that may take, and nothing of it stays."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def act() -> None:
        with terminal.step("generating", "(up to a minute)"):
            pass

    shown = _shown(act)
    assert ("generating (up to a minute)" in _plain(shown)) is expected
    # The cursor is hidden, and shown again.
    assert (shown.count("\x1b[?25l"), shown.count("\x1b[?25h")) == ((1, 1) if expected else (0, 0))
    assert ("\x1b[2K" in shown) is expected


@pytest.mark.parametrize("doing", ["asking", "asking the broker at the other end", "asking " * 9])
def test_a_steps_row_fits(monkeypatch: pytest.MonkeyPatch, doing: str) -> None:
    """However long a step's name is, its row at 40 columns ends with its time, unbroken."""
    monkeypatch.setenv("NO_COLOR", "1")

    def act() -> None:
        with Terminal().step(doing.strip()):
            pass

    lines = _shown(act).splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert re.search(r"\d\.\d\d s$", lines[-1])


@pytest.mark.parametrize(
    ("token", "key_type", "expected"),
    [
        (_TPM, KeyType.RSA_2048, "(RSA in a TPM: up to half a minute)"),
        (_TPM, KeyType.EC_P256, ""),
        (
            _TPM._replace(module=Path("/usr/lib/p11-kit-proxy.so")),
            KeyType.RSA_4096,
            "(RSA in a TPM: up to half a minute)",
        ),
        (_SOFTHSM, KeyType.RSA_4096, ""),
    ],
    ids=["RSA", "EC", "through p11-kit", "SoftHSM"],
)
def test_patience_is_asked_for_rsa_in_a_tpm_alone(token: TokenName, key_type: KeyType, expected: str) -> None:
    """Only where it is true a key is said to take half a minute, by what the token is, not by its module's name."""
    assert key_note(token, key_type) == expected
