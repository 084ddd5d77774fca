"""What a program finds in its environment under ``hsm-enroll run``; the one place that knows these names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hsm_enroll.device.export import aws, curl, mosquitto, openssl, python_ssl
from hsm_enroll.device.export.values import MODULE_VARIABLE, Exported, File
from hsm_enroll.secret import PIN_VARIABLE

# What curl reads from the folder that CURL_HOME names (curl(1), --config).
_CURLRC = ".curlrc"
# What botocore and the other SDKs prefer to the profile that AWS_PROFILE names: credentials, and another profile.
_AWS_OTHERS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_PROFILE")


def files(exported: Exported) -> list[File]:
    """Return the files for the folder that the variables name; without mosquitto's where the key's URI is too long."""
    (for_curl,) = curl.files(exported)
    return [
        *openssl.files(exported),
        for_curl,
        for_curl._replace(name=_CURLRC),
        *(mosquitto.files(exported) if mosquitto.is_possible(exported) else ()),
        *python_ssl.files(exported),
        *(aws.files(exported) if exported.role_alias else ()),
    ]


def variables(exported: Exported, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return a program's whole environment.

    Args:
        exported: the identity.
        folder: where the :func:`files` are.
        environment: normally ``os.environ``: all of it stays but for the PIN, and, where there is a role alias, AWS's
            keys and another profile's name, which would come before the profile.
    """
    python_path = os.pathsep.join(filter(None, [str(folder), environment.get("PYTHONPATH", "")]))
    given = {
        "HSM_ENROLL_RUN_FOLDER": str(folder),
        "HSM_ENROLL_THING": exported.thing_name,
        "HSM_ENROLL_KEY_URI": exported.key_uri,
        "HSM_ENROLL_CERTIFICATE_FILE": str(exported.certificate_file),
        "HSM_ENROLL_CA_FILE": str(exported.ca_file),
        "HSM_ENROLL_MQTT_ENDPOINT": exported.endpoint,
        "HSM_ENROLL_MQTT_PORT": str(exported.port),
        MODULE_VARIABLE: str(exported.module),
        "PKCS11_PROVIDER_MODULE": str(exported.module),
        "OPENSSL_CONF": str(folder / "openssl.cnf"),
        "CURL_HOME": str(folder),
        "PYTHONPATH": python_path,
        **exported.environment,
    }
    dropped = {PIN_VARIABLE, *(_AWS_OTHERS if exported.role_alias else ())}
    kept = {name: value for name, value in environment.items() if name not in dropped}
    if exported.role_alias is None:
        return {**kept, **given}
    return {**kept, **given, "AWS_CONFIG_FILE": str(folder / "aws-config"), "AWS_PROFILE": aws.PROFILE}
