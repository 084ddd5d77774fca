"""Finds the folder of the backend: the Lambda function, its template and its requirements. Imports nothing from it."""

from __future__ import annotations

from pathlib import Path

from hsm_enroll.errors import HsmEnrollError


def backend_folder() -> Path:
    """Return the folder of the Lambda function: ``lambda`` in a checkout, or its copy in an installed wheel.

    Raises:
        HsmEnrollError: neither exists.
    """
    package = Path(__file__).parent
    for folder in (package / "_lambda", package.parent / "lambda"):
        if (folder / "handler.py").is_file():
            return folder
    raise HsmEnrollError(
        "The Lambda function's folder is missing.", hint="Install hsm-enroll from its wheel, or run it from a checkout."
    )
