"""Which section of docs/troubleshooting.md explains an error or a check of the doctor."""

from __future__ import annotations

# Where a Debian or RPM package has its modules, and its pages.
_PACKAGED = "/usr/lib/hsm-enroll/"
_PACKAGED_PAGES = "/usr/share/doc/hsm-enroll/docs"


def reference(anchor: str, module_file: str = __file__) -> str:
    """Return the sentence that leads to a section.

    Args:
        anchor: an error's code or a check's id; each has a section, whose anchor it is.
        module_file: this module's file, which shows whether it is a package's.

    Returns:
        A sentence without a full stop, which would look like a part of the anchor. The page's folder is a package's
        own, or else the one in the sources.
    """
    folder = _PACKAGED_PAGES if module_file.startswith(_PACKAGED) else "docs"
    return f"See {folder}/troubleshooting.md#{anchor}"
