"""Writes everything that a user or a script sees.

The rules:
- data goes to stdout; with ``--json`` that is exactly one JSON document;
- progress and notices go to stderr; with ``--quiet`` only errors do;
- colour and spinners appear only if stderr is a terminal, and not with NO_COLOR, ``--json`` or ``--quiet``;
- an error says what happened, then what to do next; it has a traceback only with ``--verbose``;
- no function here is ever given a Secret.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from hsm_enroll.errors import HsmEnrollError

KEY_NOTE = "(RSA in a TPM: up to half a minute)"


class Terminal(NamedTuple):
    """The output of one run.

    Attributes:
        as_json: print one JSON document on stdout.
        quiet: print only errors.
        verbose: print details and tracebacks.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def say(self, text: str = "") -> None:
        """Show progress or a notice."""
        if not self.quiet and not self.as_json:
            sys.stderr.write(text + "\n")

    def warn(self, text: str) -> None:
        """Show on stderr, even with ``--json``, something that the user should act on."""
        if not self.quiet:
            sys.stderr.write(f"warning: {text}\n")

    def result(self, document: Any, text: str) -> None:
        """Write the command's result: with ``--json`` the document, otherwise the text."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
        elif not self.quiet:
            sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()

    def data(self, content: str) -> None:
        """Write data to stdout unchanged, whatever the options are."""
        sys.stdout.write(content)
        sys.stdout.flush()

    def error(self, error: HsmEnrollError) -> None:
        """Show an error: with ``--json`` its document on stdout, otherwise its message and hint on stderr."""
        if self.verbose:
            import traceback

            traceback.print_exception(error, file=sys.stderr)
        if self.as_json:
            self.data(json.dumps({"error": error.document}, indent=2) + "\n")
            return
        label = "\x1b[1;31merror:\x1b[0m" if self._fancy() else "error:"
        sys.stderr.write(f"{label} {error.message}\n")
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")

    @contextmanager
    def step(self, doing: str, note: str = "") -> Iterator[None]:
        """Show that a step is running: a spinner on a terminal, and a line with the seconds when the step is done.

        Args:
            doing: what is being done, as a present participle: ``"signing the certificate request"``.
            note: shown while the step runs: how long it may take, if that is long.
        """
        begin = time.monotonic()
        with self._spinner(f"{doing} {note}".rstrip()):
            yield
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
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda done: bar.advance(task, done)
        self._done(doing, begin)

    def _done(self, doing: str, begin: float) -> None:
        mark = "\x1b[32m✓\x1b[0m" if self._fancy() else "-"
        self.say(f"{mark} {doing:<52} {time.monotonic() - begin:6.2f} s")

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


def keep_stdout() -> None:
    """Reserve stdout for this module: from now on, a PKCS#11 module that prints in this process prints to stderr."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def ask_secret(prompt: str) -> str:
    """Prompt without echo, on the terminal itself: stdin may be a pipe."""
    import getpass

    return getpass.getpass(prompt, stream=sys.stderr)


def confirm(question: str) -> bool:
    """Ask a yes-or-no question whose default is no, on the terminal itself like :func:`ask_secret`."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    with Path("/dev/tty").open(encoding="utf-8", errors="replace") as keyboard:
        return keyboard.readline().strip().lower() in {"y", "yes"}


def has_person() -> bool:
    """Whether the user can be prompted: there is a terminal, and stderr goes to one; stdin may be a pipe."""
    try:
        Path("/dev/tty").open("rb").close()
    except OSError:
        return False
    return sys.stderr.isatty()
