"""What a person sees on a terminal: marks, the failing step, and lines that fit."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Callable
from contextlib import redirect_stderr, suppress

import pytest

from hsm_enroll.cli.terminal import Terminal
from hsm_enroll.errors import HsmEnrollError


def _shown(act: Callable[[], None]) -> str:
    """Return what stderr shows if it is a terminal of 40 columns."""
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(secondary, "w", encoding="utf-8") as stream:
        with redirect_stderr(stream):
            act()
        stream.write("end")
        stream.flush()
        shown = os.read(primary, 65536).decode()
    os.close(primary)
    return shown.replace("\r\n", "\n").removesuffix("end")


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
