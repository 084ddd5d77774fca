"""Owns every character that a person or a script is shown.

The rules:
- data goes to stdout, and with ``--json`` exactly one JSON document and nothing else;
- what is said to a person on the way goes to stderr; ``--quiet`` leaves only errors;
- colour and a spinner only where stderr is a terminal, none with NO_COLOR, none with ``--json`` or ``--quiet``;
- an error is what happened, then what to do next; never a traceback, unless ``--verbose`` asks for it;
- a Secret is never given to any function here.
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
    """How this run speaks.

    Attributes:
        as_json: one JSON document on stdout.
        quiet: errors only.
        verbose: tracebacks and details.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def say(self, text: str = "") -> None:
        """Tell a person something on the way."""
        if not self.quiet and not self.as_json:
            sys.stderr.write(text + "\n")

    def warn(self, text: str) -> None:
        """Tell a person something that they should act on; also shown with ``--json``, on stderr."""
        if not self.quiet:
            sys.stderr.write(f"warning: {text}\n")

    def result(self, document: Any, text: str) -> None:
        """Write the command's result: the document with ``--json``, else the text."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
        elif not self.quiet:
            sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()

    def data(self, content: str) -> None:
        """Write the command's data to stdout as it is, whatever the options."""
        sys.stdout.write(content)
        sys.stdout.flush()

    def error(self, error: HsmEnrollError) -> None:
        """Show an error: with ``--json`` the document of the contract on stdout, else message and hint on stderr."""
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
        """Show that something takes its time: a spinner on a terminal, and a line with the seconds when it is done.

        Args:
            doing: what is done, as a present participle: ``"asking the API for a certificate"``.
            note: what is normal, shown while it runs, for a step that may take long.
        """
        begin = time.monotonic()
        with self._spinner(f"{doing} {note}".rstrip()):
            yield
        self._done(doing, begin)

    @contextmanager
    def progress(self, doing: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how far something is: a bar on a terminal, and a line with the seconds when it is done.

        Args:
            doing: what is done, as for :meth:`step`.
            total: how many of it there are.

        Yields:
            what to call with the number of those that were just done.
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
    """Keep stdout for what is written here: a PKCS#11 module that prints in this process prints to stderr from now."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def ask_secret(prompt: str) -> str:
    """Ask a person without echo, on the terminal itself and not on stdin, which may be a pipe."""
    import getpass

    return getpass.getpass(prompt, stream=sys.stderr)


def confirm(question: str) -> bool:
    """Ask a person a question whose answer is no unless they say yes, on the terminal itself as :func:`ask_secret`."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    with Path("/dev/tty").open(encoding="utf-8", errors="replace") as keyboard:
        return keyboard.readline().strip().lower() in {"y", "yes"}


def has_person() -> bool:
    """Whether somebody can be asked: there is a terminal, and stderr is shown on it; stdin may be a pipe."""
    try:
        Path("/dev/tty").open("rb").close()
    except OSError:
        return False
    return sys.stderr.isatty()
