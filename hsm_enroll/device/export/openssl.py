"""OpenSSL 3's configuration, which has its engine for PKCS#11 (libp11) load the module."""

from __future__ import annotations

import re
import shlex

from hsm_enroll.device.export.values import Exported, File, header

# config(5): what means something else without a backslash.
_SPECIAL = re.compile(r"""[\\$#"'`]""")


def files(exported: Exported) -> list[File]:
    """Return ``openssl.cnf``, to be named in ``OPENSSL_CONF``."""
    server = shlex.quote(f"{exported.endpoint}:{exported.port}")
    options = [
        *("-CAfile", shlex.quote(str(exported.ca_file)), "-verify_return_error"),
        *("-verify_hostname", shlex.quote(exported.endpoint)),
        *("-cert", shlex.quote(str(exported.certificate_file))),
        *("-engine", "pkcs11", "-keyform", "engine", "-key", shlex.quote(exported.key_uri)),
    ]
    command = f"openssl s_client -connect {server} {' '.join(options)}"
    use = exported.command_line(command, OPENSSL_CONF="openssl.cnf")
    lines = (*exported.notes, "To connect to the broker:", use)
    return [File("openssl.cnf", header(exported, "openssl", *lines) + _configuration(exported))]


def _configuration(exported: Exported) -> str:
    """Return the lines that configure the engine (OpenSSL's config(5), "Engine Configuration")."""
    module = _SPECIAL.sub(r"\\\g<0>", str(exported.module))
    return (
        "openssl_conf = hsm_enroll\n"
        "\n[hsm_enroll]\nengines = hsm_enroll_engines\n"
        "\n[hsm_enroll_engines]\npkcs11 = hsm_enroll_engine\n"
        f"\n[hsm_enroll_engine]\nengine_id = pkcs11\nMODULE_PATH = {module}\ninit = 0\n"
    )
