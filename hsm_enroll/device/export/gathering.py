"""Puts together what is exported: from the identity, the settings, the environment and the PIN's file."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from hsm_enroll import softhsm
from hsm_enroll.device import credentials, pin
from hsm_enroll.device.export.values import Exported
from hsm_enroll.errors import RoleAliasMissingError, UsageError
from hsm_enroll.escaping import escaped
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.store.identity import Identity, certificate_file
from hsm_enroll.token import tpm2
from hsm_enroll.token.tpm2 import access, store
from hsm_enroll.x509 import trust_anchors

# By which the PKCS#11 module finds its tokens.
_MODULE_VARIABLES = (softhsm.VARIABLE, store.VARIABLE, access.VARIABLE)
# systemd makes a credential's file anew for each start of a service, and it is read-only.
_ENCRYPT = "write it with printf %s, and encrypt it for the service again"
_PROVIDER = ("role_alias", "credentials_endpoint", "credentials_port")
# By which hsm-enroll itself finds what it needs for AWS credentials.
_OWN_FILES = {"HSM_ENROLL_HOME", "HSM_ENROLL_CA_FILE", "HSM_ENROLL_PIN_FILE", softhsm.VARIABLE, store.VARIABLE}
_OWN_NAMES = {*(f"HSM_ENROLL_{name.upper()}" for name in _PROVIDER), access.VARIABLE}
_TPM_STORE = Path("/etc/tpm2_pkcs11")
# AWS General Reference, "AWS IoT Core endpoints": its names, and those of the FIPS endpoints.
_AWS_ENDPOINT = re.compile(r"[a-z0-9-]+\.iot(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")


def gather(
    identity: Identity,
    resolved: Settings,
    environment: Mapping[str, str],
    executable: Path,
    *,
    pin_file: Path | None = None,
    slot: int | None = None,
) -> Exported:
    """Return the identity as other programs have to know it. Does *not* look whether the token has the key.

    Args:
        identity: the device's identity.
        resolved: the resolved settings.
        environment: normally ``os.environ``.
        executable: file of ``hsm-enroll``.
        pin_file: what :func:`find_pin_file` returned; None for a program that reads none.
        slot: CK_SLOT_ID of the token, if it was looked up.

    Raises:
        UsageError: there are no authorities that are trusted; or a path or name cannot be written into a configuration.
    """
    endpoint = resolved.mqtt_endpoint or identity.mqtt_endpoint
    aws_name = _AWS_ENDPOINT.fullmatch(endpoint)
    own = own_environment(environment)
    exported = Exported(
        thing_name=identity.thing_name,
        module=identity.token.module,
        key=identity.key_uri,
        certificate_file=certificate_file(resolved.state).absolute(),
        ca_file=trust_anchors.file(resolved.ca_file).absolute(),
        endpoint=endpoint,
        port=resolved.mqtt_port or identity.mqtt_port,
        pin_file=None if pin_file is None else pin_file.absolute(),
        environment=_module_environment(identity, environment, own),
        command=(*(("env", *(f"{name}={value}" for name, value in own.items())) if own else ()), str(executable)),
        slot=slot,
        role_alias=_role_alias(identity, resolved),
        region=aws_name["region"] if aws_name else None,
    )
    _refuse_unwritable(exported)
    return exported


def _refuse_unwritable(exported: Exported) -> None:
    """Refuse what would begin a line of its own in some program's file, or cannot be encoded."""
    key = exported.key
    paths = (exported.module, exported.certificate_file, exported.ca_file, exported.pin_file or "")
    texts = (*map(str, paths), exported.endpoint, key.token or "", key.object or "", *exported.environment.values())
    for text in (*texts, *exported.command):
        if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
            raise UsageError(
                f"{escaped(text)} cannot be written into other programs' files: it contains a line end or another "
                "control character, or is not UTF-8",
                hint="Give the file, folder or token another name, and name it in HSM_ENROLL_HOME or where it is set.",
            )


def _module_environment(identity: Identity, environment: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return what the module reads; where tpm2-pkcs11's store is, too, if it is found by this user's home folder."""
    found = {name: own[name] for name in _MODULE_VARIABLES if name in own}
    if not tpm2.is_tpm2(identity.token) or store.VARIABLE in found:
        return found
    folder = store.existing(environment, _TPM_STORE)
    return found if folder in {None, _TPM_STORE} else {**found, store.VARIABLE: str(folder)}


def _role_alias(identity: Identity, resolved: Settings) -> RoleAlias | None:
    try:
        return credentials.alias_of(identity, resolved)
    except RoleAliasMissingError:
        return None


def find_pin_file(identity: Identity, resolved: Settings, environment: Mapping[str, str]) -> Path | None:
    """Return the file that has the token's PIN, and nothing else; None if the PIN is not in a file.

    It is the one that :func:`pin.resolve` would read. A PIN in ``HSM_ENROLL_PIN`` is in no file.

    Raises:
        UsageError: there is more in the file than the PIN, such as a line end: OpenSSL's engine for PKCS#11 would try
            all of it as the PIN, and a few wrong PINs lock a TPM.
        PinMissingError, PinExposedError, StateError, StateCorruptError, StateTooNewError: as ``pin.resolve``.
    """
    configured = pin.configured_pin(resolved.pin_file, environment)
    if configured is None:
        saved = pin.saved_pin(resolved.state, identity.token)
        return None if saved is None else _checked(pin.saved_pin_file(resolved.state), saved)
    if resolved.pin_file is not None:
        return _checked(resolved.pin_file, configured)
    credential = Path(environment.get("CREDENTIALS_DIRECTORY", ""), pin.ENCRYPTED.name)
    return _checked(credential, configured, _ENCRYPT) if credential.is_absolute() and credential.exists() else None


def _checked(file: Path, found: Secret, remedy: str = "write it with printf %s") -> Path:
    """Return a file that has a PIN and nothing else; the remedy is for one that has more."""
    more = file.stat().st_size - len(found.reveal().encode())
    if more == 0:
        return file
    if more == 1 and remedy != _ENCRYPT and _ends_a_line(file):
        remedy = f"truncate -s -1 {shlex.quote(str(file))}"
    raise UsageError(
        f"the PIN file {file} has more in it than the PIN, such as a line end, and other programs would try all of it",
        hint=f"A few wrong PINs lock a TPM. Leave the PIN alone in the file, without a line end: {remedy}",
    )


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"


def own_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which hsm-enroll finds what it needs for AWS credentials, with whole paths."""
    named = {name: text for name, text in environment.items() if text and name in _OWN_FILES | _OWN_NAMES}
    return {**named, **{name: str(Path(named[name]).absolute()) for name in _OWN_FILES & named.keys()}}
