"""AWS IoT Greengrass nucleus's configuration for its PKCS#11 provider (developer guide, "PKCS#11 provider").

The provider knows a token by its slot, a key and a certificate by their label, and the PIN from this file alone.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from hsm_enroll.device.export.values import KEY_CHANGES, Exported, File, header
from hsm_enroll.uri import Pkcs11Uri

_ROOT = "/greengrass/v2"
PIN_PLACEHOLDER = "PIN-OF-THE-TOKEN"
"""What has to be replaced by the PIN."""


def files(exported: Exported) -> list[File]:
    """Return ``config.yaml``, for the installer's ``--init-config``; mode 0600, since the PIN has to be put into it."""
    return [File("config.yaml", _about(exported) + _configuration(exported), 0o600)]


def _about(exported: Exported) -> str:
    key = exported.key
    write = [
        *("pkcs11-tool", "--module", str(exported.module), "--token-label", key.token or "", "--login"),
        *("--write-object", "certificate.der", "--type", "cert"),
        *("--label", key.object or "", "--id", (key.id or b"").hex()),
    ]
    return header(
        exported,
        "greengrass",
        KEY_CHANGES,
        "For the installer's --init-config, with --trusted-plugin aws.greengrass.crypto.Pkcs11Provider.jar.",
        "",
        "Before you use it:",
        f"1. Replace {PIN_PLACEHOLDER} by the PIN. The provider reads it from here alone, and Greengrass keeps a copy",
        f"   in {_ROOT}/config, which root can read. Replace the other words in capitals, if there are any.",
        "2. Put the certificate into the token, under the key's label and id; Greengrass finds it nowhere else:",
        f"   openssl x509 -in {shlex.quote(str(exported.certificate_file))} -outform der -out certificate.der",
        f"   {exported.command_line(shlex.join(write))}",
        "",
        "A key of type EC takes nucleus 2.5.6 or later. Greengrass's secret manager would have to decrypt with the",
        "key, which it cannot. The slot may change if tokens are added or removed: hsm-enroll tokens shows it.",
    )


def _configuration(exported: Exported) -> str:
    label = Pkcs11Uri(object=exported.key.object)
    system = {
        "certificateFilePath": str(label._replace(type="cert")),
        "privateKeyPath": str(label._replace(type="private")),
        "rootCaPath": str(exported.ca_file),
        "rootpath": _ROOT,
        "thingName": exported.thing_name,
    }
    nucleus = {
        "awsRegion": exported.region or "AWS-REGION",
        "iotRoleAlias": exported.role_alias.name if exported.role_alias else "ROLE-ALIAS",
        "iotDataEndpoint": exported.endpoint,
        "iotCredEndpoint": exported.role_alias.endpoint if exported.role_alias else "CREDENTIALS-ENDPOINT",
    }
    provider = {
        "name": "hsm-enroll",
        "library": str(exported.module),
        "slot": exported.slot,
        "userPin": PIN_PLACEHOLDER,
    }
    return (
        f"---\nsystem:\n{_members(system, 2)}services:\n"
        '  aws.greengrass.Nucleus:\n    componentType: "NUCLEUS"\n    version: "NUCLEUS-VERSION"\n'
        f"    configuration:\n{_members(nucleus, 6)}"
        f"  aws.greengrass.crypto.Pkcs11Provider:\n    configuration:\n{_members(provider, 6)}"
    )


def _members(values: Mapping[str, str | int | None], indent: int) -> str:
    # A JSON string is one of YAML 1.2, too.
    return "".join(f"{' ' * indent}{name}: {json.dumps(value)}\n" for name, value in values.items())
