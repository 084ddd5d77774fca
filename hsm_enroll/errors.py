"""The tree of errors: each has a stable code, an exit status and a hint that tells the user what to do.

This module uses no library. The package that owns a library translates its exceptions into these with
``raise … from``. Only the command line turns them into a message and an exit status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from datetime import datetime


class HsmEnrollError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        message: what happened, on which object; one sentence, never a secret.
        hint: what to do next; defaults to the class's own advice.

    Attributes:
        code: stable kebab-case name, the ``code`` of ``--json``.
        exit_status: the process's exit status.
        retryable: whether the same request may succeed later without anyone changing anything.
    """

    code: ClassVar[str] = "unexpected"
    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    @property
    def document(self) -> dict[str, Any]:
        """The error as the JSON object that ``--json`` prints."""
        return {
            "code": self.code,
            "exitStatus": self.exit_status,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> HsmEnrollError:
        """Return the error, in its own class, that another process of the same version wrote as a document."""
        classes = [HsmEnrollError]
        for error_class in classes:  # the list grows during the loop
            classes += error_class.__subclasses__()
        by_code = {error_class.code: error_class for error_class in classes}
        return by_code[document["code"]](document["message"], hint=document["hint"])


class UsageError(HsmEnrollError):
    """The command line or the configuration is invalid."""

    code = "usage"
    exit_status = 2
    default_hint = "Run the command with --help to see its options."


class NotEnrolledError(HsmEnrollError):
    """This device has no identity.

    Attributes:
        pending: the enrollment that is not finished, as ``status --json`` shows it; None if there is none.
    """

    code = "not-enrolled"
    exit_status = 3
    default_hint = "Run: hsm-enroll init INVITE. If the state folder was lost, run: hsm-enroll recover"

    def __init__(self, message: str, *, hint: str | None = None, pending: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pending = pending

    @property
    def document(self) -> dict[str, Any]:
        """As for any error; with the pending enrollment, if there is one."""
        return {**super().document, **({"pending": dict(self.pending)} if self.pending else {})}


class ClockError(HsmEnrollError):
    """This machine's clock cannot be right, so nothing was done that depends on it."""

    code = "clock-wrong"
    exit_status = 1
    retryable = True
    default_hint = "Set the clock, or start NTP, then run the same command again."


class ModuleMissingError(HsmEnrollError):
    """The PKCS#11 module's file does not exist, or no module is installed."""

    code = "module-missing"
    exit_status = 10
    default_hint = "Install the token's PKCS#11 module, or name its file with --module."


class ModuleUnusableError(HsmEnrollError):
    """The file exists, but is not a PKCS#11 module that works on this machine."""

    code = "module-unusable"
    exit_status = 10
    default_hint = (
        "Check that the file is a PKCS#11 module built for this machine, and that its own configuration can be read "
        "(for SoftHSM the file that SOFTHSM2_CONF names, for tpm2-pkcs11 the store that TPM2_PKCS11_STORE names)."
    )


class TokenNotFoundError(HsmEnrollError):
    """No token matches."""

    code = "token-not-found"
    exit_status = 11
    default_hint = "Run hsm-enroll tokens to list the tokens, or hsm-enroll token create to create one."


class TokenAmbiguousError(HsmEnrollError):
    """Several tokens match."""

    code = "token-ambiguous"
    exit_status = 11
    default_hint = "Select one of them by its serial: --token 'pkcs11:token=LABEL;serial=SERIAL'."


class PinMissingError(HsmEnrollError):
    """No file, systemd credential or environment variable has a PIN, and nobody can be prompted for it."""

    code = "pin-missing"
    exit_status = 12
    default_hint = "Put the PIN into a file of mode 0600 and set HSM_ENROLL_PIN_FILE to its path."


class PinExposedError(HsmEnrollError):
    """Other users can read the PIN file."""

    code = "pin-file-exposed"
    exit_status = 12
    default_hint = "If others may have read it, change the PIN. Make the file private with chmod 600."


class PinWrongError(HsmEnrollError):
    """The token refused the PIN. It was tried once and is not tried again."""

    code = "pin-wrong"
    exit_status = 12
    default_hint = "It was tried only once. Check the PIN, then run the command again."


class PinLockedError(HsmEnrollError):
    """The token does not accept any PIN at the moment."""

    code = "pin-locked"
    exit_status = 13
    default_hint = (
        "A TPM may also be locked by power cuts; it unlocks after some time: leave it powered, and do not try again "
        "until then. Any other token is unlocked with its SO PIN."
    )


class PinFinalTryError(HsmEnrollError):
    """One more wrong PIN would lock the token, so no PIN was tried."""

    code = "pin-final-try"
    exit_status = 13
    default_hint = (
        "Make sure that you have the right PIN, log in once with the token's own tool to reset its counter, then run "
        "the command again."
    )


class KeyMissingError(HsmEnrollError):
    """The token does not have the key, or has only half of the key pair."""

    code = "key-missing"
    exit_status = 14
    default_hint = (
        "Run hsm-enroll recover, which finds this device's key if the token has it under another name. Otherwise ask "
        "for an invite, and generate a new key: hsm-enroll init --new-key INVITE. hsm-enroll tokens lists the keys."
    )


class KeyAmbiguousError(HsmEnrollError):
    """Several keys match; label and id must be unique in a token."""

    code = "key-ambiguous"
    exit_status = 14
    default_hint = "Delete or relabel the other key with the token's own tool."


class KeyOriginError(HsmEnrollError):
    """The key was not generated in the token, or can be taken out of it."""

    code = "key-origin"
    exit_status = 14
    default_hint = "Use a key that is generated in the token: hsm-enroll init --new-key INVITE."


class TokenRefusedError(HsmEnrollError):
    """The token failed to perform an operation, or refused it.

    Attributes:
        of_key_type: whether the token lacks this type of key, so that another type may work.
    """

    code = "token-refused"
    exit_status = 15
    default_hint = "Reconnect the token if possible, then run the command again; hsm-enroll tokens lists the tokens."

    def __init__(self, message: str, *, hint: str | None = None, of_key_type: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.of_key_type = of_key_type


class BackendUnreachableError(HsmEnrollError):
    """The enrollment API did not answer, or failed.

    Attributes:
        sent: whether the request may have reached the API, and may have been carried out.
        abandoned: whether the request was abandoned at its deadline, and may still be on its way.
        answered: whether the API itself answered, with a failure of its own (a status of 500 or more).
    """

    code = "backend-unreachable"
    exit_status = 30
    retryable = True
    default_hint = "Check the network and the API's address, then run the same command again: it resumes."

    def __init__(
        self,
        message: str,
        *,
        sent: bool = True,
        abandoned: bool = False,
        answered: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent
        self.abandoned = abandoned
        self.answered = answered


class BackendRefusedError(HsmEnrollError):
    """The enrollment API refused the request; the same request will not succeed later.

    Attributes:
        problem_code: the stable ``code`` of the API's problem document, or "" if there was none.
        request_id: finds the request in the backend's log, or "".
        api_time: what the API's clock showed, with a time zone; None if it did not say.
    """

    code = "backend-refused"
    exit_status = 31
    default_hint = "Ask the operator of the backend, and tell them the request id."

    def __init__(
        self,
        message: str,
        *,
        problem_code: str = "",
        request_id: str = "",
        api_time: datetime | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.problem_code = problem_code
        self.request_id = request_id
        self.api_time = api_time


class ThrottledError(HsmEnrollError):
    """The enrollment API is busy."""

    code = "throttled"
    exit_status = 32
    retryable = True
    default_hint = "Wait a few minutes, then run the same command again: it resumes."


class UnexpectedResponseError(HsmEnrollError):
    """The response is not a valid response of the enrollment API."""

    code = "unexpected-response"
    exit_status = 33
    default_hint = "Check the API's address, and whether a captive portal or a proxy answers in its place."


class ForeignCertificateError(HsmEnrollError):
    """The API returned a certificate that is unusable or not for this device's key. It was not stored."""

    code = "certificate-not-ours"
    exit_status = 33
    default_hint = "Nothing was stored. Check the API's address, and report this to the operator of the backend."


class ApiTlsError(HsmEnrollError):
    """The API's TLS certificate is not trusted.

    Attributes:
        untimely: whether only because of its dates: by this machine's clock it has expired, or is not valid yet.
    """

    code = "api-not-trusted"
    exit_status = 33
    default_hint = "Check the API's address and this machine's clock; name a private CA in HSM_ENROLL_CA_FILE."

    def __init__(self, message: str, *, hint: str | None = None, untimely: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.untimely = untimely


class RetiredLocallyError(HsmEnrollError):
    """This device is retired, but the cloud may not have been told: its certificate may still be active there."""

    code = "retired-locally"
    exit_status = 34
    default_hint = "Ask the operator to revoke the Thing with hsm-enroll fleet revoke."


class MqttError(HsmEnrollError):
    """The MQTT connection failed, and the broker gave no reason.

    Attributes:
        reason: name of the broker's reason code (MQTT 5.0 §2.4), if it gave one.
    """

    reason: str | None = None

    code = "mqtt-failed"
    exit_status = 40
    retryable = True
    default_hint = "Run hsm-enroll doctor --online --login, then try again."


class MqttUnreachableError(MqttError):
    """No broker can be reached at the endpoint."""

    code = "mqtt-unreachable"
    default_hint = "Check the endpoint's name, and that this network allows outgoing connections to its port."


class MqttNotTrustedError(MqttError):
    """This device does not trust the broker's TLS certificate."""

    code = "mqtt-not-trusted"
    retryable = False
    default_hint = "Check the endpoint and the clock; name a private CA in HSM_ENROLL_CA_FILE."


class MqttRefusedError(MqttError):
    """The broker refused the connection or the request: inactive certificate, or not allowed by the policy.

    Attributes:
        of_certificate: whether it rejected the certificate itself, in the TLS handshake.
    """

    code = "mqtt-refused"
    default_hint = (
        "The certificate may have been revoked, or its policy detached: ask the operator. If it was revoked, run "
        "hsm-enroll init --new-key INVITE with a new invite."
    )

    def __init__(self, message: str, *, hint: str | None = None, of_certificate: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.of_certificate = of_certificate


class MqttTakenOverError(MqttError):
    """Another client has connected with the same client id."""

    code = "mqtt-taken-over"
    default_hint = (
        "AWS IoT allows one connection per client id, and the library's connect() uses the Thing's name: stop the "
        "other program that uses it, or give one of them connect(…, purpose=…)."
    )


class StateError(HsmEnrollError):
    """A file in the state folder cannot be read or written."""

    code = "state-unusable"
    exit_status = 50
    default_hint = "Check the folder's owner, its free space and whether it is mounted read-only."


class StateCorruptError(HsmEnrollError):
    """A file in the state folder is damaged, or was written by another program."""

    code = "state-corrupt"
    exit_status = 50
    default_hint = "Restore the file from a backup, or move it away and run hsm-enroll init again."


class OutboxFullError(HsmEnrollError):
    """The outbox has no room for the message, which was not queued."""

    code = "outbox-full"
    exit_status = 50
    retryable = True
    default_hint = (
        "Messages leave the outbox when they are delivered: check with hsm-enroll status that hsm-enroll forward is "
        "running and connected. HSM_ENROLL_OUTBOX_BYTES sets how much fits."
    )


class BusyError(HsmEnrollError):
    """Another run holds the state folder's lock."""

    code = "busy"
    exit_status = 51
    retryable = True
    default_hint = "Wait until the other run has finished."


class StateTooNewError(HsmEnrollError):
    """A file in the state folder was written by a newer version of this program."""

    code = "state-too-new"
    exit_status = 52
    default_hint = "Install the version of hsm-enroll that wrote it, or a newer one."


class OutputError(HsmEnrollError):
    """Standard output cannot be written, for example because its disk is full."""

    code = "output-unwritable"
    exit_status = 53
    default_hint = (
        "What the command did stands; only its output is lost. Check the free space where standard output goes."
    )


class MachineLimitError(HsmEnrollError):
    """This machine, or a limit of this process, has no open file, process or memory left."""

    code = "machine-limit"
    exit_status = 50
    retryable = True
    default_hint = "Stop other programs, then run the same command again."


class ServiceError(HsmEnrollError):
    """The services of systemd cannot be installed, removed or looked at."""

    code = "service-failed"
    default_hint = "Run systemctl status and journalctl, which say more."


class LocalCloudError(HsmEnrollError):
    """The local cloud could not be started, found or stopped."""

    code = "local-cloud"
    default_hint = "Look at the logs in the local cloud's home folder."


class AwsError(HsmEnrollError):
    """AWS refused an operator's request, or failed to carry it out."""

    code = "aws-failed"
    default_hint = "See AWS's message above; your AWS identity may lack a permission."


class PackageError(HsmEnrollError):
    """The Lambda function's zip could not be built."""

    code = "package-failed"
    default_hint = "Building it requires pip, and a package index that pip can reach."


class InterruptedRunError(HsmEnrollError):
    """The user stopped the run; what was done is in the journal, and the next run resumes.

    Attributes:
        declined: whether the user answered no to a question, so that nothing was begun.
        signal: the signal that has stopped it, by which the process's exit status is 128 and more.
    """

    code = "interrupted"
    exit_status = 130
    retryable = True
    default_hint = "Run the same command again: it resumes."

    def __init__(self, message: str, *, hint: str | None = None, declined: bool = False) -> None:
        super().__init__(message, hint="" if declined else hint)
        self.declined = declined
        self.signal = 2  # SIGINT; importing signal takes longer than all of this module

    @property
    def document(self) -> dict[str, Any]:
        """As for any error, with the exit status that belongs to the signal."""
        return {**super().document, "exitStatus": 128 + self.signal}
