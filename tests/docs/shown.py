"""Whether what a command wrote is what its page shows, but for what differs from run to run."""

from __future__ import annotations

import re

ELLIPSIS = "…"
"""On a page: any text within a line; alone on a line: any lines."""

# What differs from run to run, and what stands for it.
_VARYING = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<certificate id>"),
    (re.compile(r"\bserial([= ])[0-9a-f]{16}\b"), r"serial\1<serial>"),
    (re.compile(r"\bhsm-enroll-[0-9a-f]{16}\b"), "hsm-enroll-<key id>"),
    (re.compile(r"\bid=(?:%[0-9A-F]{2}){8}"), "id=<key id>"),
    (re.compile(r"\b(localhost|127\.0\.0\.1):\d+"), r"\1:<port>"),
    (re.compile(r" +\d+\.\d\d s$", re.MULTILINE), " <seconds>"),
    (re.compile(r" +\d+[mhd](?=  )"), " <age>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d\b(?: UTC)?"), "<now>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "<instant>"),
    (re.compile(r"#(?:[0-9A-Z]{5}-){4}[0-9A-Z]{5}\b"), "#<code>"),
    (re.compile(r"\binvite [0-9a-f]{16}\b"), "invite <id>"),
    (re.compile(r"/usr/(?:local/)?lib/\S*libsofthsm2\.so"), "<softhsm>"),
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


def _plain(text: str) -> str:
    for varying, standing in _VARYING:
        text = varying.sub(standing, text)
    return "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())


def _pattern(shown: str) -> str:
    lines = shown.splitlines(keepends=True)
    return "".join(r"(?:.*\n)*" if line.strip() == ELLIPSIS else _line(line) for line in lines)


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split(ELLIPSIS))
