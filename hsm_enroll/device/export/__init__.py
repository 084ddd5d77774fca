"""This device's identity in other programs' own configuration: one module for each program; pure."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from hsm_enroll.device.export import aws, curl, greengrass, mosquitto, openssl, python_ssl, stunnel
from hsm_enroll.device.export.values import MARK, Exported, File

__all__ = ["MARK", "PROGRAMS", "Exported", "File"]

PROGRAMS: MappingProxyType[str, Callable[[Exported], list[File]]] = MappingProxyType(
    {
        "greengrass": greengrass.files,
        "openssl": openssl.files,
        "curl": curl.files,
        "mosquitto": mosquitto.files,
        "stunnel": stunnel.files,
        "aws": aws.files,
        "python-ssl": python_ssl.files,
    }
)
"""The programs by name, and what makes their files; each may raise a UsageError about what a program cannot use."""
