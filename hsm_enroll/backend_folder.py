"""Where the backend's own files are: the function, its template, its requirements. Nothing of it is imported."""

from __future__ import annotations

from pathlib import Path

from hsm_enroll.errors import HsmEnrollError

_PACKAGE = Path(__file__).parent


def backend_folder() -> Path:
    """Return the folder of the function: ``lambda`` of a checkout, or what an installed wheel carries.

    Raises:
        HsmEnrollError: neither is there.
    """
    for folder in (_PACKAGE / "_lambda", _PACKAGE.parent / "lambda"):
        if (folder / "handler.py").is_file():
            return folder
    raise HsmEnrollError(
        "The Lambda function's folder is missing.", hint="Install hsm-enroll from its wheel, or run it in a checkout."
    )
