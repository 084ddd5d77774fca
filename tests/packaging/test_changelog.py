"""CHANGELOG.md as Debian's packages have it (deb-changelog(5))."""

from __future__ import annotations

import re

from hsm_enroll.version import __version__
from packages import changelog
from tests.support.pages import ROOT

_2026 = 1_767_225_600
_TEXT = """\
# Changelog

What these lines say is not of a release.

## [0.2.0] - unreleased

### Added

- `init` does more
  than before.

### Fixed

- One
- Two

## [0.1.0] - 2026-03-04

### Added

- Everything.
"""
_EXPECTED = """\
hsm-enroll (0.2.0-1) unstable; urgency=medium

  [ Added ]
  * `init` does more than before.
  [ Fixed ]
  * One
  * Two

 -- hsm-enroll maintainers <maintainers@hsm-enroll.invalid>  Thu, 01 Jan 2026 00:00:00 +0000

hsm-enroll (0.1.0-1) unstable; urgency=medium

  [ Added ]
  * Everything.

 -- hsm-enroll maintainers <maintainers@hsm-enroll.invalid>  Wed, 04 Mar 2026 00:00:00 +0000
"""


def test_each_release_is_an_entry() -> None:
    """With its version, changes and date; a release without a date has the time of the build."""
    assert changelog.for_debian(_TEXT, _2026) == _EXPECTED


def test_the_changelog_of_this_version_is_whole() -> None:
    """Each item of CHANGELOG.md is there, in lines that Debian's tools accept, and this version is the first."""
    text = (ROOT / "CHANGELOG.md").read_text()
    lines = changelog.for_debian(text, _2026).splitlines()
    assert lines[0].startswith(f"hsm-enroll ({__version__}-1) ")
    assert sum(line.startswith("  * ") for line in lines) == len(re.findall(r"^- ", text, re.MULTILINE))
    assert all(len(line) <= 80 for line in lines if line.startswith("  "))
