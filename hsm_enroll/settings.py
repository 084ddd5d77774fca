"""The configuration: from an option, the environment, config.toml or a default, in that order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from hsm_enroll import regular_file
from hsm_enroll.errors import UsageError
from hsm_enroll.forms import is_host
from hsm_enroll.key import DEFAULT_KEY_TYPE, KeyType
from hsm_enroll.role_alias import is_name
from hsm_enroll.uri import Pkcs11Uri

SYSTEM_CONFIGURATION = Path("/etc/hsm-enroll")
SYSTEM_STATE = Path("/var/lib/hsm-enroll")
_CONFIGURATION = "config.toml"
_LARGEST_BYTES = 64 * 1024  # the settings take a few hundred
_ENVIRONMENT_PREFIX = "HSM_ENROLL_"
# May be written as numbers in config.toml.
_NUMBERS: dict[str, set[type]] = {
    "mqtt_port": {int},
    "credentials_port": {int},
    "mqtt_keep_alive": {int},
    "connect_timeout": {int, float},
    "operation_timeout": {int, float},
    "outbox_bytes": {int},
    "outbox_max_age": {int, float},
    "draining_rate": {int, float},
    "renew_after_days": {int},
    "renew_at_lifetime_share": {int, float},
}


class Tls(StrEnum):
    """Which TLS versions an MQTT connection offers: 1.2 only, or also 1.3 where key and library support it."""

    V1_2 = "1.2"
    AUTO = "auto"


class WhenFull(StrEnum):
    """What an outbox does with a new message that it has no room for: refuse it, or make room for it."""

    REFUSE = "refuse"
    DROP_OLDEST = "drop-oldest"


class Settings(NamedTuple):
    """Every setting, resolved; None means not set.

    Attributes:
        state: the state folder.
        module: file of the PKCS#11 module.
        token: which token.
        thing: name of the Thing, ``[a-zA-Z0-9:_-]{1,64}``.
        api_url: base URL of the enrollment API.
        ca_file: PEM file with the trust anchors for the API and for MQTT; None uses the system's.
        mqtt_endpoint: host name of the broker, overriding the API's.
        mqtt_port: TCP port of the broker, overriding the API's.
        role_alias: name of the role alias for AWS credentials, overriding the API's.
        credentials_endpoint: host name of AWS IoT's credentials provider, overriding the API's.
        credentials_port: TCP port of the credentials provider, overriding the API's.
        mqtt_keep_alive: seconds of silence after which an MQTT connection asks whether the broker is still there.
        connect_timeout: seconds until a broker has accepted a connection, for all attempts of one command together.
        operation_timeout: seconds until a broker has acknowledged a message or a subscription.
        tls: which TLS versions an MQTT connection offers.
        outbox_bytes: how much the outbox holds, in bytes.
        outbox_max_age: age in seconds at which messages in the outbox expire; 0 is never.
        outbox_when_full: what the outbox does with a new message that it has no room for.
        draining_rate: how many messages of the outbox are sent a second, at most; 0 is without a limit.
        pin_file: file with the PIN, mode 0600.
        key_type: type of a new key.
        tpm_ak: handle of a persistent attestation key in the TPM; None is a key that the TPM derives each time.
        subject: subject of the CSR without the CN, an RFC 4514 string.
        renew_after_days: age of the certificate in days at which its renewal is due; 0 is never.
        renew_at_lifetime_share: share of the certificate's lifetime at which its renewal is due, above 0 and up to 1.
    """

    state: Path
    module: Path | None = None
    token: Pkcs11Uri | None = None
    thing: str | None = None
    api_url: str | None = None
    ca_file: Path | None = None
    mqtt_endpoint: str | None = None
    mqtt_port: int | None = None
    role_alias: str | None = None
    credentials_endpoint: str | None = None
    credentials_port: int | None = None
    # NATs and cellular networks drop idle connections after a few minutes.
    mqtt_keep_alive: int = 60
    connect_timeout: float = 20.0
    operation_timeout: float = 20.0
    tls: Tls = Tls.V1_2
    outbox_bytes: int = 64 * 1024 * 1024
    outbox_max_age: float = 0.0
    outbox_when_full: WhenFull = WhenFull.REFUSE
    # AWS IoT Core endpoints and quotas, "Publish requests per second per connection".
    draining_rate: float = 100.0
    pin_file: Path | None = None
    key_type: KeyType = DEFAULT_KEY_TYPE
    tpm_ak: int | None = None
    subject: str | None = None
    # AWS IoT's certificates are valid until the end of 2049: it is mostly the age that counts.
    renew_after_days: int = 365
    renew_at_lifetime_share: float = 0.66


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError(text)
    return Path(text)


def _is_endpoint(text: str) -> bool:
    # Containers are often named with an underscore, which resolvers and certificates take, and RFC 1123 does not.
    return is_host(text.replace("_", "x"))


def _host_beside(port_setting: str) -> Callable[[str], str]:
    """Return a reader of host names whose port is a setting of its own."""

    def read(text: str) -> str:
        if _is_endpoint(text):
            return text
        invalid = f"invalid value {text!r}; must be a host name alone"
        before, host, after = _around_host(text)
        if not _is_endpoint(host):
            raise UsageError(invalid, hint="Write the host name alone, such as broker.example, or an IP address.")
        left_out = " and ".join(repr(part) for part in (before, after) if part)
        port = f" The port is set by {port_setting}." if ":" in after else ""
        raise UsageError(invalid, hint=f"Leave {left_out} out.{port}")

    return read


def _around_host(text: str) -> tuple[str, str, str]:
    """Return the host in a URL, or beside a port, between what is before and after it; "" if there is none."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        found = parts.hostname or ""
        parts.port  # noqa: B018 - reading it is the check: an IPv6 address without brackets looks like host and port
    except ValueError:  # also a bracket without another
        return text, "", ""
    begin = text.lower().find(found, text.find("://") + 1)  # a host may be named as the scheme is
    end = begin + len(found.rstrip("."))
    return text[:begin], text[begin:end], text[end:]


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError(text)
    return port


def _role_alias(text: str) -> str:
    if not is_name(text):
        raise UsageError(
            f"invalid value {text!r}; a role alias has 1 to 128 letters, digits, and _ = , @ -",
            hint="Leave it out for the one that the API names.",
        )
    return text


def _keep_alive(text: str) -> int:
    seconds = int(text)
    # AWS IoT Core endpoints and quotas, "Connection inactivity (keep-alive interval)".
    if not 30 <= seconds <= 1200:
        raise UsageError(f"invalid value {text!r}; AWS IoT accepts 30 to 1200 seconds", hint="Leave it out for 60.")
    return seconds


def _within(lowest: int, highest: int, what: str, hint: str) -> Callable[[str], float]:
    """Return a reader of numbers between two limits."""

    def read(text: str) -> float:
        number = float(text)
        if not lowest <= number <= highest:
            raise UsageError(f"invalid value {text!r}; must be {lowest} to {highest} {what}", hint=hint)
        return number

    return read


def _outbox_bytes(text: str) -> int:
    size = int(text)
    # A few of the largest messages, and what SQLite itself needs; a number of mebibytes is not meant as bytes.
    if not 1024**2 <= size <= 1024**4:
        hint = "Leave it out for 67108864 (64 MiB); 1048576 is the least."
        raise UsageError(f"invalid value {text!r}; must be 1048576 to 1099511627776 bytes", hint=hint)
    return size


def _persistent_handle(text: str) -> int:
    handle = int(text, 16)
    # TPM 2.0 Library Part 2, "TPM_HC (Handle Value Constants)", PERSISTENT_FIRST and PERSISTENT_LAST.
    if not 0x81000000 <= handle <= 0x81FFFFFF:
        hint = "Leave it out for an attestation key of its own."
        raise UsageError(f"invalid value {text!r}; must be a handle from 0x81000000 to 0x81ffffff", hint=hint)
    return handle


def _days(text: str) -> int:
    days = int(text)
    if not 0 <= days <= 36500:
        raise UsageError(f"invalid value {text!r}; must be 0 to 36500 days", hint="Leave it out for 365; 0 is never.")
    return days


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise UsageError(f"invalid value {text!r}; must be above 0 and at most 1", hint="Leave it out for 0.66.")
    return share


_READERS = {
    "module": _path,
    "token": Pkcs11Uri.parse_token,
    "thing": str,
    "api_url": str,
    "ca_file": _path,
    "mqtt_endpoint": _host_beside("mqtt_port"),
    "mqtt_port": _port,
    "role_alias": _role_alias,
    "credentials_endpoint": _host_beside("credentials_port"),
    "credentials_port": _port,
    "mqtt_keep_alive": _keep_alive,
    "connect_timeout": _within(1, 600, "seconds", "Leave it out for 20."),
    "operation_timeout": _within(1, 600, "seconds", "Leave it out for 20."),
    "tls": Tls,
    "outbox_bytes": _outbox_bytes,
    "outbox_max_age": _within(0, 315360000, "seconds", "Leave it out for no limit."),
    "outbox_when_full": WhenFull,
    "draining_rate": _within(0, 100000, "messages a second", "Leave it out for 100; 0 is without a limit."),
    "pin_file": _path,
    "key_type": KeyType,
    "tpm_ak": _persistent_handle,
    "subject": str,
    "renew_after_days": _days,
    "renew_at_lifetime_share": _share,
}


def load(environment: Mapping[str, str], options: Mapping[str, str | None]) -> Settings:
    """Resolve the settings.

    Args:
        environment: normally ``os.environ``; variables are ``HSM_ENROLL_`` and the key in upper case.
        options: the command line's options by configuration key; None is not set.

    Raises:
        UsageError: a value is invalid, or the file is not TOML or has an unknown key; the message names the source.
    """
    file, written = _configuration(environment)
    values: dict[str, Any] = {}
    for key, read in _READERS.items():
        variable = _ENVIRONMENT_PREFIX + key.upper()
        for source, text in (
            (f"--{key.replace('_', '-')}", options.get(key)),
            (variable, environment.get(variable)),
            (f"{file}: {key}", written.get(key)),
        ):
            if text is not None and text != "":
                values[key] = _read(source, text, read)
                break
    return Settings(state=_state(environment), **values)


def _read(source: str, text: str, read: Any) -> Any:
    try:
        return read(text)
    except UsageError as error:
        raise UsageError(f"{source}: {error.message}", hint=error.hint) from error
    except ValueError as error:
        choices = f"; must be one of {', '.join(read)}" if read in {KeyType, Tls, WhenFull} else ""
        hint = None if source.startswith("--") else f"Correct {source}."
        raise UsageError(f"{source}: invalid value {text!r}{choices}", hint=hint) from error


def _configuration(environment: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    file = _configuration_file(environment)
    content = _content(file)
    if content is None:
        return file, {}
    import tomllib

    try:
        # Some editors write a byte order mark.
        document = tomllib.loads(content.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}", hint="Correct the file.") from error
    unknown = sorted(set(document) - set(_READERS))
    if unknown:
        raise UsageError(f"{file}: unknown setting {unknown[0]!r}", hint=f"Settings: {', '.join(_READERS)}.")
    for key, value in document.items():
        if not isinstance(value, str) and type(value) not in _NUMBERS.get(key, set()):
            raise UsageError(f"{file}: {key} must be a string", hint="Put the value in quotation marks.")
    return file, {key: str(value) for key, value in document.items()}


def _content(file: Path) -> bytes | None:
    """Return what is in the file, or None if there is no such file."""
    try:
        return regular_file.read(file, _LARGEST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        if file.is_symlink():
            raise UsageError(
                f"{file} cannot be read: it is a link to a file that does not exist",
                hint="Restore the file it points to, or remove the link.",
            ) from error
        return None
    except OSError as error:
        if isinstance(error, PermissionError) and not os.access(file.parent, os.X_OK, effective_ids=True):
            raise UsageError(
                f"{file.parent} cannot be read by this user: {error.strerror}",
                hint="Run the command as the folder's owner, or set HSM_ENROLL_HOME to a folder of this user's own.",
            ) from error
        raise UsageError(
            f"{file} cannot be read: {error.strerror}", hint="It must be a regular file that this user can read."
        ) from error


def _configuration_file(environment: Mapping[str, str]) -> Path:
    if home := environment.get("HSM_ENROLL_HOME"):
        return Path(home) / _CONFIGURATION
    system = SYSTEM_CONFIGURATION / _CONFIGURATION
    if os.access(system, os.R_OK):
        return system
    return _own(environment, "XDG_CONFIG_HOME", ".config") / _CONFIGURATION


def _state(environment: Mapping[str, str]) -> Path:
    """Return the system's folder for root and for users who may read it, else the user's own."""
    if home := environment.get("HSM_ENROLL_HOME"):
        return Path(home)
    if os.geteuid() == 0 or os.access(SYSTEM_STATE, os.R_OK | os.X_OK):
        return SYSTEM_STATE
    return _own(environment, "XDG_STATE_HOME", ".local/state")


def _own(environment: Mapping[str, str], variable: str, below_home: str) -> Path:
    base = Path(environment.get(variable, ""))
    # Relative paths are invalid and ignored (XDG Base Directory Specification, "Environment variables").
    return (base if base.is_absolute() else _home(environment) / below_home) / "hsm-enroll"


def _home(environment: Mapping[str, str]) -> Path:
    if home := environment.get("HOME"):
        return Path(home)
    try:
        return Path.home()
    except RuntimeError as error:
        raise UsageError(
            f"user id {os.geteuid()} has no home folder",
            hint="Set HSM_ENROLL_HOME to a folder for configuration and state.",
        ) from error
