"""What the terminal does with text that others wrote."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from hsm_enroll.cli.terminal import Terminal
from hsm_enroll.errors import HsmEnrollError, InterruptedRunError, PinWrongError

_FOREIGN = "a\x1b[2J\r\u202eb\x9bc\0"
_SHOWN = r"a\x1b[2J\r\u202eb\x9bc\x00"


def _caused_by(text: str) -> HsmEnrollError:
    error = HsmEnrollError("no")
    error.__cause__ = ValueError(text)
    return error


def _step(doing: str) -> None:
    with Terminal().step(doing):
        pass


@pytest.mark.parametrize(
    "show",
    [
        lambda: Terminal().result({}, _FOREIGN),
        lambda: Terminal().warn(_FOREIGN),
        lambda: Terminal().error(HsmEnrollError(_FOREIGN)),
        lambda: Terminal().error(HsmEnrollError("no", hint=_FOREIGN)),
        lambda: Terminal(verbose=True).error(_caused_by(_FOREIGN)),
        lambda: Terminal().say(_FOREIGN),
        lambda: _step(_FOREIGN),
    ],
    ids=["result", "warning", "message", "hint", "traceback", "progress", "step"],
)
def test_control_characters_are_shown_escaped(show: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    """D31: a file's name, a token's label or what a server says cannot steer the terminal, wherever it is shown."""
    show()
    written = "".join(capsys.readouterr())
    assert _SHOWN in written
    assert "\x1b" not in written


def test_lines_and_tabs_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """The line ends and tabs of a result are its layout."""
    Terminal().result({}, "a\tb\nc")
    assert capsys.readouterr().out == "a\tb\nc\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_pipe_takes_no_line(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever must not wait can know that before; a reader that has ended is not waited for either."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout" if as_json else "stderr", stream)
        terminal = Terminal(as_json=as_json)
        assert terminal.takes_a_line()
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        assert not terminal.takes_a_line()
        os.close(reader)
        assert terminal.takes_a_line()


@pytest.mark.parametrize(("hint", "lines"), [("Do that.", ["error: no", "  Do that."]), ("", ["error: no"])])
def test_an_error_ends_with_where_it_is_explained(
    hint: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Below message and hint, the last line names the section of the page; in JSON, the code is its name."""
    error = PinWrongError("no", hint=hint)
    Terminal().error(error)
    assert capsys.readouterr().err.splitlines() == [*lines, "  See docs/troubleshooting.md#pin-wrong"]
    Terminal(as_json=True).error(error)
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "pin-wrong"


def test_an_error_that_ends_nothing_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """It has its hint and its section as well."""
    Terminal().warn_of(PinWrongError("no", hint="Do that."))
    assert capsys.readouterr().err.splitlines() == ["warning: no. Do that.", "  See docs/troubleshooting.md#pin-wrong"]


def test_a_no_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """What was not done after a question is said as it is, without the word error, a hint and a section."""
    Terminal().error(InterruptedRunError("nothing was deployed", declined=True))
    assert capsys.readouterr().err == "nothing was deployed\n"


def test_a_document_says_what_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    """D31: in JSON the same characters are data: they are written in JSON's own escapes, and read back unchanged."""
    Terminal(as_json=True).result({"label": _FOREIGN}, "")
    written = capsys.readouterr().out
    assert "\x1b" not in written
    assert json.loads(written) == {"label": _FOREIGN}
