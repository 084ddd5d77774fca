"""CHANGELOG.md in the form that Debian's packages have (deb-changelog(5))."""

from __future__ import annotations

import re
import textwrap
from datetime import UTC, datetime
from email.utils import format_datetime

_MAINTAINER = "hsm-enroll maintainers <maintainers@hsm-enroll.invalid>"
_RELEASE = re.compile(r"^## \[(?P<version>[^]]+)\] - (?P<date>.+)$", re.MULTILINE)
_ITEM = re.compile(r"^(?:### (?P<kind>.+)|- (?P<item>.+(?:\n  .+)*))$", re.MULTILINE)
_WIDTH = 78


def for_debian(text: str, epoch: int) -> str:
    """Return the changelog.

    Args:
        text: CHANGELOG.md's.
        epoch: the time of a release that has no date yet, in seconds since 1970.
    """
    headings = list(_RELEASE.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return "\n".join(
        _entry(heading["version"], _time(heading["date"], epoch), text[heading.end() : end])
        for heading, end in zip(headings, ends, strict=True)
    )


def _entry(version: str, time: datetime, text: str) -> str:
    lines = [f"hsm-enroll ({version}-1) unstable; urgency=medium", ""]
    for found in _ITEM.finditer(text):
        if found["kind"]:
            lines.append(f"  [ {found['kind']} ]")
        else:
            lines += textwrap.wrap(
                " ".join(found["item"].split()),
                _WIDTH,
                initial_indent="  * ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
    return "\n".join([*lines, "", f" -- {_MAINTAINER}  {format_datetime(time)}", ""])


def _time(date: str, epoch: int) -> datetime:
    if date == "unreleased":
        return datetime.fromtimestamp(epoch, UTC)
    return datetime.fromisoformat(date).replace(tzinfo=UTC)
