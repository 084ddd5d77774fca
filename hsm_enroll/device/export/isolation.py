"""tpm2-pkcs11 in a process of its own: p11-kit's server loads it, and programs load p11-kit's client instead.

tpm2-pkcs11 encrypts its sessions with OpenSSL's RSA (tpm2-tss). curl, mosquitto's clients and OpenSSL's own programs
make the engine OpenSSL's default for RSA, and then tpm2-tss fails in the same process ("Could not create rsa key").
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from urllib.parse import quote

from hsm_enroll.device.export.values import Exported
from hsm_enroll.errors import UsageError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import PIN_VARIABLE
from hsm_enroll.token import discovery, tpm2

NEEDED_BY = frozenset({"openssl", "curl", "mosquitto"})
"""The programs that make the engine OpenSSL's default."""

_ADDRESS = "P11_KIT_SERVER_ADDRESS"  # read by p11-kit's client


def is_needed(token: TokenName) -> bool:
    """Whether a token's module must not be loaded by such programs."""
    return tpm2.is_tpm2(token)


def through_server(exported: Exported) -> Exported:
    """Return the identity for a program that uses p11-kit's server, with the command line that starts it.

    Raises:
        UsageError: p11-kit's client is not installed.
    """
    start = shlex.join(["env", *_environment(exported), "p11-kit", "server", *_arguments(exported)])
    return exported._replace(module=_client(), environment={}, server=start)


def connected(exported: Exported, socket: Path) -> Exported:
    """Return the identity for a program that finds p11-kit's server at a socket.

    Raises:
        UsageError: p11-kit's client is not installed.
    """
    return exported._replace(module=_client(), environment={_ADDRESS: f"unix:path={quote(os.fsencode(socket))}"})


def server(exported: Exported, socket: Path) -> list[str]:
    """Return the command that runs p11-kit's server for the token, in the foreground.

    The kernel ends it with the process that started it, also if that is killed (prctl(2), PR_SET_PDEATHSIG).
    """
    return [
        *("env", f"--unset={PIN_VARIABLE}", *_environment(exported)),
        *("setpriv", "--pdeathsig", "TERM", "p11-kit", "server"),
        *("--foreground", "--name", str(socket), *_arguments(exported)),
    ]


def _environment(exported: Exported) -> list[str]:
    return [f"{name}={value}" for name, value in exported.environment.items()]


def _arguments(exported: Exported) -> list[str]:
    token = exported.key.of_token._replace(manufacturer=None, model=None)
    return ["--provider", str(exported.module), str(token)]


def _client() -> Path:
    found = discovery.client()
    if found is None:
        raise UsageError(
            "tpm2-pkcs11 has to run in p11-kit's server for this program, and p11-kit's client is not installed",
            hint="Install it: Debian's packages p11-kit and p11-kit-modules, or Fedora's p11-kit-server.",
        )
    return found
