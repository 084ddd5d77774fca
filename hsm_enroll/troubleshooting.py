"""Which section of docs/troubleshooting.md explains an error or a check of the doctor."""

from __future__ import annotations

import os

_IN_THE_SOURCES = "docs/troubleshooting.md"
# Below the folder that it was installed into: a virtual environment's, /usr with a Debian or RPM package.
_INSTALLED = f"share/doc/hsm-enroll/{_IN_THE_SOURCES}"


def reference(anchor: str, module_file: str = __file__) -> str:
    """Return the sentence that leads to a section: without a full stop, which would look like a part of the anchor."""
    return f"See {section(anchor, module_file)}"


def section(anchor: str, module_file: str = __file__) -> str:
    """Return where a section is: in the page that was installed with this module, or else in the one in the sources.

    Args:
        anchor: an error's code or a check's id; each has a section, whose anchor it is.
        module_file: this module's file, which shows where it is installed.
    """
    return f"{_page(module_file)}#{anchor}"


def _page(module_file: str) -> str:
    # Without pathlib: an error is also shown where nothing more can be loaded.
    folder = module_file.rsplit("/", 2)[0]
    if os.access(f"{folder}/{_IN_THE_SOURCES}", os.R_OK):
        return _IN_THE_SOURCES
    while folder:
        page = f"{folder}/{_INSTALLED}"
        if os.access(page, os.R_OK):
            return page
        folder = folder.rpartition("/")[0]
    return _IN_THE_SOURCES
