"""Writes everything that a user or a script sees.

The rules:
- data goes to stdout; with ``--json`` that is exactly one JSON document;
- progress and notices go to stderr; with ``--quiet`` only errors do;
- colour and spinners appear only if stderr is a terminal, and not with NO_COLOR, ``--json`` or ``--quiet``;
  marks (✓, ✗) need only the terminal;
- text is wrapped if it goes to a terminal;
- what is waited for is named after 3 s, also without a terminal;
- progress is never fatal: if stderr cannot be written, the command goes on without it;
- if stdout cannot be written, that is an error that says what had been done;
- control characters of foreign text are shown escaped;
- a question that is answered no is not an error;
- an error says what happened, what to do next, and where it is explained; it has a traceback only with ``--verbose``;
- no function here is ever given a Secret.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from hsm_enroll.cli.wrapping import wrapped
from hsm_enroll.errors import HsmEnrollError, InterruptedRunError, OutputError
from hsm_enroll.escaping import escaped
from hsm_enroll.troubleshooting import reference
from hsm_enroll.version import __version__

# Line feeds, tabs, and the blanks that people write in some languages.
_LAYOUT = "\n\t\u00a0\u202f\u3000"

# Nobody waits longer than this without wondering.
_SILENCE_SECONDS = 3.0


class Terminal(NamedTuple):
    """The output of one run.

    Attributes:
        as_json: print one JSON document on stdout.
        quiet: print only errors.
        verbose: print details and tracebacks.
        streaming: with ``as_json``, every document is one line, an error's too.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    streaming: bool = False

    def say(self, text: str = "") -> None:
        """Show progress or a notice."""
        if not self.quiet and not self.as_json:
            _tell(text)

    def detail(self, text: str) -> None:
        """Show with ``--verbose`` what is only of interest then."""
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        """Show on stderr, even with ``--json``, something that the user should act on."""
        if not self.quiet:
            _tell(f"warning: {text}")

    def warn_of(self, error: HsmEnrollError) -> None:
        """Show as a warning, even with ``--json``, an error that does not end the command."""
        self.warn(f"{error.message}. {error.hint}\n  {reference(error.code)}")

    def result(self, document: Any, text: str, *, done: str = "") -> None:
        """Write the command's result: with ``--json`` the document, otherwise the text.

        Args:
            document: what ``--json`` prints.
            text: what a person reads.
            done: what the command has changed, for the error if stdout cannot be written.
        """
        if self.as_json:
            _write(json.dumps(document, indent=2) + "\n", done)
        elif not self.quiet:
            _write(_fitted(visible(text).rstrip("\n"), sys.stdout) + "\n", done)

    def line(self, document: Any) -> None:
        """Write one JSON document of several as a line."""
        _write(json.dumps(document) + "\n")

    def takes_a_line(self) -> bool:
        """Whether a line, data with ``--json`` and otherwise progress, would be written at once.

        It would not if it goes to a pipe that is full. A line longer than PIPE_BUF may have to wait all the same.
        """
        waiting = select.poll()
        waiting.register((sys.stdout if self.as_json else sys.stderr).fileno(), select.POLLOUT)
        return bool(waiting.poll(0))

    def data(self, content: str | bytes, *, done: str = "") -> None:
        """Write data to stdout unchanged, whatever the options are; ``done`` as for :meth:`result`."""
        _write(content, done)

    def drawing(self, lines: str) -> None:
        """Write on stdout lines of blocks that are light on dark, on a light terminal too."""
        if self._fancy() and sys.stdout.isatty():
            lines = "".join(f"\x1b[40;97m{line}\x1b[0m\n" for line in lines.splitlines())
        _write(lines)

    def error(self, error: HsmEnrollError) -> None:
        """Show an error: with ``--json`` its document on stdout, otherwise its message, hint and section on stderr."""
        if self.verbose:
            import traceback

            _tell(running_version())
            _tell("".join(traceback.format_exception(error)).rstrip("\n"), wrap=False)
        if self.as_json:
            # If stdout is what failed, the error is shown on stderr.
            with suppress(OSError, HsmEnrollError):
                _write(json.dumps({"error": error.document}, indent=None if self.streaming else 2) + "\n")
                return
        if isinstance(error, InterruptedRunError) and error.declined:
            _tell(error.message)
            return
        label = "\x1b[1;31merror:\x1b[0m" if self._fancy() else "error:"
        _tell(f"error: {error.message}", label=label)
        if error.hint:
            _tell(f"  {error.hint}")
        _tell(f"  {reference(error.code)}")

    def help(self, text: str) -> None:
        """Show on stderr how a command is used."""
        _tell(text, wrap=False)

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[None]:
        """Show after 3 s what is being waited for, also without a terminal.

        Args:
            what: what has to answer: ``"the API at https://api.example"``.
            seconds: how long it is waited for at most.
        """
        text = f"  waiting for {what}, up to {seconds:.0f} s"
        timer = threading.Timer(_SILENCE_SECONDS, self.say, [text])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def step(self, doing: str, note: str = "") -> Iterator[None]:
        """Show that a step is running: a spinner on a terminal, and a line with the seconds when the step is done.

        Args:
            doing: what is being done, as a present participle: ``"signing the certificate request"``.
            note: shown while the step runs: how long it may take, if that is long.
        """
        begin = time.monotonic()
        try:
            with self._spinner(f"{doing} {note}".rstrip()):
                yield
        except BaseException:
            self._failed(doing)
            raise
        self._done(doing, begin)

    @contextmanager
    def progress(self, doing: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how far a job is: a progress bar on a terminal, and a line with the seconds when the job is done.

        Args:
            doing: what is being done, as for :meth:`step`.
            total: the number of items.

        Yields:
            A function to call with the number of items that have just been done.
        """
        if not self._fancy():
            with self.step(doing):
                yield lambda _: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        begin = time.monotonic()
        try:
            with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task(doing, total=total)
                yield lambda done: bar.advance(task, done)
        except BaseException:
            self._failed(doing)
            raise
        self._done(doing, begin)

    def _done(self, doing: str, begin: float) -> None:
        self._finished(self._mark("✓", "32"), doing, f"{time.monotonic() - begin:6.2f} s")

    def _failed(self, doing: str) -> None:
        self._finished(self._mark("✗", "31"), doing, "failed")

    def _finished(self, mark: str, doing: str, outcome: str) -> None:
        if self.quiet or self.as_json:
            return
        room = columns(sys.stderr) - len("✓ ") - len("   0.00 s")
        row = f"✓ {doing:<{min(52, room)}} {outcome}" if len(doing) <= room else f"✓ {doing}\n  {outcome}"
        _tell(row, label=mark)

    def _mark(self, mark: str, colour: str) -> str:
        if not sys.stderr.isatty() or "utf" not in sys.stderr.encoding.lower():
            return "-"
        return f"\x1b[{colour}m{mark}\x1b[0m" if self._fancy() else mark

    def _spinner(self, text: str) -> Any:
        if not self._fancy():
            return nullcontext()
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        progress.add_task(text, total=None)
        return progress

    def _fancy(self) -> bool:
        silent = self.as_json or self.quiet or "NO_COLOR" in os.environ
        return not silent and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def flush() -> None:
    """Write what standard streams still hold, or discard what cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)


def running_version() -> str:
    """Return what a report of a fault needs: the versions of this program, Python and the machine."""
    import platform

    return f"hsm-enroll {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def visible(text: str) -> str:
    """Return foreign text with its control characters escaped, but for tabs and line feeds."""
    return escaped(text, kept=_LAYOUT)


def _write(content: str | bytes, done: str = "") -> None:
    """Write to stdout at once.

    Raises:
        BrokenPipeError: nobody reads it, and nothing had been done.
        OutputError: it cannot be written.
    """
    try:
        if isinstance(content, bytes):
            sys.stdout.buffer.write(content)
        else:
            sys.stdout.write(content)
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not done:
            raise
        what = f"{done}, but " if done else ""
        raise OutputError(f"{what}standard output cannot be written: {error.strerror}") from error


def _tell(text: str, *, label: str | None = None, wrap: bool = True) -> None:
    """Write lines to stderr, foreign text in them escaped; ``label`` replaces the first word."""
    lines = _fitted(visible(text), sys.stderr) if wrap else visible(text)
    if label is not None:
        lines = label + lines.removeprefix(lines.split(" ", 1)[0])
    try:
        sys.stderr.write(lines + "\n")
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Send to /dev/null what a stream still holds and whatever is written to it later."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _fitted(text: str, stream: TextIO) -> str:
    return wrapped(text, columns(stream)) if stream.isatty() else text


def columns(stream: TextIO) -> int:
    """Return the columns of a terminal; 80 of anything else, or if it does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def keep_stdout() -> None:
    """Reserve stdout for this module: from now on, a PKCS#11 module that prints in this process prints to stderr."""
    sys.stdout.flush()
    if sys.stdout.fileno() != 1:
        return  # it is reserved already
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def ask_secret(prompt: str) -> str:
    """Prompt without echo, on the terminal itself: stdin may be a pipe."""
    import getpass

    return getpass.getpass(prompt, stream=sys.stderr)


def ask(prompt: str) -> str:
    """Prompt for a line, on the terminal itself like :func:`ask_secret`; "" at the end of input."""
    sys.stderr.write(f"{_fitted(visible(prompt), sys.stderr)} ")
    sys.stderr.flush()
    with Path("/dev/tty").open(encoding="utf-8", errors="replace") as keyboard:
        return keyboard.readline().strip()


def confirm(question: str) -> bool:
    """Ask a yes-or-no question whose default is no."""
    return ask(f"{question} [y/N]").lower() in {"y", "yes"}


def has_person() -> bool:
    """Whether the user can be prompted: there is a terminal, and stderr goes to one; stdin may be a pipe."""
    try:
        Path("/dev/tty").open("rb").close()
    except OSError:
        return False
    return sys.stderr.isatty()
