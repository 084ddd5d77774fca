"""What an export is made of, and the files that it makes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.uri import Pkcs11Uri

MARK = "Written by hsm-enroll export"
"""The beginning of every exported file, after its comment sign: such a file may be replaced."""

KEY_CHANGES = "After a renewal the key has another name: export again then."
"""For files that name the key."""

_NEEDS_ENGINE = "Needs OpenSSL's engine for PKCS#11: Debian's package libengine-pkcs11-openssl."
_NEEDS_SERVER = "tpm2-pkcs11 fails in one process with such an engine. Have p11-kit's server load it first:"

MODULE_VARIABLE = "PKCS11_MODULE_PATH"
"""From which libp11's engine for OpenSSL takes the module's file."""


class Exported(NamedTuple):
    """An identity, as other programs have to know it; without any secret.

    Attributes:
        thing_name: the Thing.
        module: file of the PKCS#11 module.
        key: the private key's URI, with its token's.
        certificate_file: PEM file with the device's certificate.
        ca_file: PEM file with the certificates of those authorities that servers are trusted by.
        endpoint: host name of the broker.
        port: its TCP port.
        pin_file: file with the PIN and nothing else; None if the program has to ask for it.
        environment: the variables by which the module finds its tokens.
        command: the command line of this program, without arguments.
        server: the command line that has p11-kit's server load the token's module, see ``isolation``, without the name
            of its socket; it prints what a shell has to evaluate. "" if none is needed.
        slot: CK_SLOT_ID of the token; None if it was not looked up.
        role_alias: where AWS credentials come from; None if that is not known.
        region: AWS Region of the broker; None if its name does not say it.
    """

    thing_name: str
    module: Path
    key: Pkcs11Uri
    certificate_file: Path
    ca_file: Path
    endpoint: str
    port: int
    pin_file: Path | None
    environment: Mapping[str, str]
    command: tuple[str, ...]
    server: str = ""
    slot: int | None = None
    role_alias: RoleAlias | None = None
    region: str | None = None

    @property
    def key_uri(self) -> str:
        """The key's URI as programs take it, with ``pin-source`` (RFC 7512 §2.4) if there is a file.

        Its slashes are encoded: mosquitto's clients want a file of that name.
        """
        named = self.key._replace(manufacturer=None, model=None)
        if self.pin_file is None:
            return str(named)
        return f"{named}?pin-source=file:{quote(str(self.pin_file), safe='')}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known of a key in a token, for the comment in a file of a program that uses the engine."""
        started = (
            f'd=$(mktemp -d) && eval "$({self.server} --name "$d/pkcs11")" && '
            f"until {listening('$d/pkcs11')}; do sleep 0.1; done"
        )
        return (KEY_CHANGES, _NEEDS_ENGINE, *((_NEEDS_SERVER, started) if self.server else ()))

    def assignments(self, **more: str) -> str:
        """Return assignments for a shell: the variables that the module reads, and more."""
        return " ".join(f"{name}={shlex.quote(value)}" for name, value in {**self.environment, **more}.items())

    def command_line(self, command: str, **more: str) -> str:
        """Return a command line for a shell, with these assignments in front of a command."""
        return f"{self.assignments(**more)} {command}".lstrip()


class File(NamedTuple):
    """A file that is exported.

    Attributes:
        name: its name, without a folder.
        text: its content.
        mode: its permission bits.
    """

    name: str
    text: str
    mode: int = 0o644


def header(exported: Exported, program: str, *lines: str) -> str:
    """Return the comment at the top of a file: what it is, and how it is used."""
    every = (f"{MARK} {program}, for the Thing {exported.thing_name}.", *lines)
    return "".join(f"# {line}".rstrip() + "\n" for line in every)


def listening(socket: str) -> str:
    """Return a shell's test of whether p11-kit's server listens at a socket, which it does only after it has answered.

    Args:
        socket: the path, as a shell has it between double quotes.
    """
    return f'grep -F "{socket}" /proc/net/unix | grep -q " 00010000 "'  # __SO_ACCEPTCON, linux/net.h
