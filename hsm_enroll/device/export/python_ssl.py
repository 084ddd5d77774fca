"""A module for Python's ssl: :mod:`hsm_enroll.device.export.hsm_enroll_ssl`, with this identity in its constants."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from hsm_enroll.device.export.values import KEY_CHANGES, Exported, File, header

_NAME = "hsm_enroll_ssl.py"


def files(exported: Exported) -> list[File]:
    """Return ``hsm_enroll_ssl.py``, which needs no package but Python's own."""
    values = {
        "MODULE": str(exported.module),
        "KEY": exported.key_uri,
        "CERTIFICATE_FILE": str(exported.certificate_file),
        "CA_FILE": str(exported.ca_file),
        "ENVIRONMENT": dict(exported.environment),
    }
    lines = resources.files(__package__).joinpath(_NAME).read_text(encoding="utf-8").splitlines(keepends=True)
    return [File(_NAME, header(exported, "python-ssl", KEY_CHANGES) + "".join(_filled(line, values) for line in lines))]


def _filled(line: str, values: Mapping[str, object]) -> str:
    """Return a line of the module; one that sets a constant has its value."""
    constant, is_set, _ = line.partition(" = ")
    name = constant.partition(":")[0]
    return f"{constant} = {values[name]!r}\n" if is_set and name in values else line
