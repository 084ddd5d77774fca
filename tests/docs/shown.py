"""Whether what a command wrote is what its page shows, but for what differs from run to run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

ELLIPSIS = "…"
"""On a page: any text within a line; alone on a line: any lines."""

Varying = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
"""What differs from run to run, and what stands for it."""

# With or without blanks, which a picture has elsewhere than a page.
_VARYING: tuple[Varying, ...] = (
    (re.compile(r"[0-9a-f]{16,}"), lambda found: f"<{len(found[0])} hexadecimal digits>"),
    (re.compile(r"\bid=(?:%[0-9A-F]{2}){8}"), "id=<key id>"),
    (re.compile(r"(localhost|127\.0\.0\.1):\d+"), r"\1:<port>"),
    (re.compile(r" *\d+\.\d\d ?s"), " <seconds>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]?\d\d:\d\d(?::\d\dZ)?"), "<now>"),
    (re.compile(r"#(?:[0-9A-Z]{5}-){4}[0-9A-Z]{5}"), "#<code>"),
    (re.compile(r"/usr/(?:local/)?lib/\S*?libsofthsm2\.so"), "<softhsm>"),
)
_ON_PAGES: tuple[Varying, ...] = (
    (re.compile(r" +\d+[mhd](?=  )"), " <age>"),
    # A terminal is shown a tick or a cross, a file a dash.
    (re.compile(r"^[✗-] (?=.* failed$)", re.MULTILINE), "✗ "),
    (re.compile(r"^[✓-] ", re.MULTILINE), "✓ "),
    # OpenSSL 3.2 writes a name without the blanks.
    (re.compile(r"(?<=CN) = "), "="),
)
_READERS_HOME = "/home/you"


def matches(shown: str, written: str, home: str) -> bool:
    """Compare what a page shows with what a run wrote.

    Args:
        shown: the page's lines; nothing shown matches anything.
        written: standard output and error, as a terminal would have them.
        home: the run's home folder, which the page calls ``/home/you``.
    """
    if not shown:
        return True
    return re.fullmatch(_pattern(_plain(shown)), _plain(written.replace(home, _READERS_HOME))) is not None


def masked(text: str, more: Iterable[Varying]) -> str:
    """Return text with what differs from run to run replaced: what does so everywhere, and more."""
    for varying, standing in (*_VARYING, *more):
        text = varying.sub(standing, text)
    return text


def _plain(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in masked(text, _ON_PAGES).strip("\n").splitlines())


def _pattern(shown: str) -> str:
    lines = shown.splitlines(keepends=True)
    return "".join(r"(?:.*\n)*" if line.strip() == ELLIPSIS else _line(line) for line in lines)


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split(ELLIPSIS))
