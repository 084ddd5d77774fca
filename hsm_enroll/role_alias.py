"""Where a device gets AWS credentials: a role alias, and the account's credentials provider. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from hsm_enroll.forms import is_host, is_port

HTTPS_PORT = 443
_NAME = re.compile(r"[a-zA-Z0-9_=,@-]{1,128}")  # AWS IoT, CreateRoleAlias: roleAlias


class RoleAlias(NamedTuple):
    """A role alias of AWS IoT.

    Attributes:
        name: its name.
        endpoint: host name of the credentials provider (AWS IoT, DescribeEndpoint: iot:CredentialProvider).
        port: its TCP port.
    """

    name: str
    endpoint: str
    port: int = HTTPS_PORT

    @property
    def path(self) -> str:
        """The path that its credentials are requested at."""
        return f"/role-aliases/{self.name}/credentials"

    @property
    def provider(self) -> str:
        """The provider's host and port, as a URL has them: an IPv6 address in brackets (RFC 3986 §3.2.2)."""
        host = f"[{self.endpoint}]" if ":" in self.endpoint else self.endpoint
        return f"{host}:{self.port}"


def is_name(value: object) -> bool:
    """Whether a value may be the name of a role alias."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


FORMS: dict[str, Callable[[object], bool]] = {"name": is_name, "endpoint": is_host, "port": is_port}
"""The forms of its members."""
