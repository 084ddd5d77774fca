"""The tree of errors: each has a stable code, an exit status and a hint that tells the user what to do.

This package uses no library. The package that owns a library translates its exceptions into these with
``raise … from``. Only the command line turns them into a message and an exit status.
"""

from __future__ import annotations

from hsm_enroll.errors.base import (
    HsmEnrollError,
)
from hsm_enroll.errors.cloud import (
    ApiTlsError,
    AwsError,
    BackendRefusedError,
    BackendUnreachableError,
    CredentialsRefusedError,
    ForeignCertificateError,
    LocalCloudError,
    MqttError,
    MqttNotTrustedError,
    MqttRefusedError,
    MqttTakenOverError,
    MqttUnreachableError,
    PackageError,
    RoleAliasMissingError,
    ThrottledError,
    UnexpectedResponseError,
)
from hsm_enroll.errors.run import (
    ClockError,
    InterruptedRunError,
    MachineLimitError,
    OutputError,
    ServiceError,
    UsageError,
)
from hsm_enroll.errors.state import (
    BusyError,
    NotEnrolledError,
    OutboxFullError,
    RetiredLocallyError,
    StateCorruptError,
    StateError,
    StateTooNewError,
)
from hsm_enroll.errors.token import (
    KeyAmbiguousError,
    KeyMissingError,
    KeyOriginError,
    ModuleMissingError,
    ModuleUnusableError,
    PinExposedError,
    PinFinalTryError,
    PinLockedError,
    PinMissingError,
    PinWrongError,
    TokenAmbiguousError,
    TokenNotFoundError,
    TokenRefusedError,
)

__all__ = [
    "ApiTlsError",
    "AwsError",
    "BackendRefusedError",
    "BackendUnreachableError",
    "BusyError",
    "ClockError",
    "CredentialsRefusedError",
    "ForeignCertificateError",
    "HsmEnrollError",
    "InterruptedRunError",
    "KeyAmbiguousError",
    "KeyMissingError",
    "KeyOriginError",
    "LocalCloudError",
    "MachineLimitError",
    "ModuleMissingError",
    "ModuleUnusableError",
    "MqttError",
    "MqttNotTrustedError",
    "MqttRefusedError",
    "MqttTakenOverError",
    "MqttUnreachableError",
    "NotEnrolledError",
    "OutboxFullError",
    "OutputError",
    "PackageError",
    "PinExposedError",
    "PinFinalTryError",
    "PinLockedError",
    "PinMissingError",
    "PinWrongError",
    "RetiredLocallyError",
    "RoleAliasMissingError",
    "ServiceError",
    "StateCorruptError",
    "StateError",
    "StateTooNewError",
    "ThrottledError",
    "TokenAmbiguousError",
    "TokenNotFoundError",
    "TokenRefusedError",
    "UnexpectedResponseError",
    "UsageError",
]
