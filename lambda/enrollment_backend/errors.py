"""One tree of domain errors: each has a stable code and a sentence that may be shown to anyone.

Nothing here knows HTTP or AWS's libraries. Only `http` maps an error to a status. The errors of a CSR are in
`csr_errors`.
"""

from __future__ import annotations

from typing import ClassVar


class EnrollmentError(Exception):
    """Base of every error that the backend raises on purpose.

    Attributes:
        code: stable kebab-case name; scripts and devices depend on it.
        detail: one sentence for the caller. It never repeats what the caller sent.
        facts: additional information for the log. Never an invite's code, a CSR or a certificate.
    """

    code: ClassVar[str] = "internal"
    detail: str = "An internal error occurred; the operator can find the cause in the log, under the requestId."

    def __init__(self, **facts: str) -> None:
        super().__init__(self.detail)
        self.facts = facts


class ConfigurationError(EnrollmentError):
    """An environment variable of the function is missing or invalid; `facts` says which."""


# --- who is calling -------------------------------------------------------------------------------------------------


class InviteRequiredError(EnrollmentError):
    """The request has no invite and needs one.

    Attributes:
        challenge: the authentication scheme that the client is to use (RFC 9110 §11.6.1).
    """

    code = "invite-required"
    detail = "This request requires an invite's code (Authorization: Bearer CODE)."
    challenge: str = "Bearer"


class InviteInvalidError(EnrollmentError):
    """The code is malformed, unknown, expired, used up, revoked, or for another Thing; the caller is not told which.

    `facts` says which, under `reason`, for the operator. `challenge` is as in `InviteRequiredError`.
    """

    code = "invite-invalid"
    detail = "The invite is not valid for this request."
    challenge: str = "Bearer"


class AttestationRequiredError(EnrollmentError):
    """The deployment, the invite or the Thing requires proof that the key is in a TPM, and the request has none."""

    code = "attestation-required"
    detail = (
        "This request requires evidence that the key is in a TPM, which begins with POST /v1/attestations; "
        "/getCertificate and EST accept none."
    )


class ClientCertificateRequiredError(EnrollmentError):
    """The connection was made without a client certificate, which is what says who asks."""

    code = "client-certificate-required"
    detail = (
        "This request requires a connection with mutual TLS, by the certificate that is to be renewed; "
        "the deployment needs a domain name of its own for that."
    )


class ClientCertificateUnknownError(EnrollmentError):
    """The client certificate is not one that the ledger has as a device's; `facts` says why, under `reason`."""

    code = "client-certificate-unknown"
    detail = "The certificate of the TLS connection is not one that was issued here, or its Thing has given it up."


class OperatorRequiredError(EnrollmentError):
    """A request to an operator's route does not carry the caller's IAM identity from API Gateway."""

    code = "operator-required"
    detail = "This path is for operators; requests to it must be signed with AWS credentials."


# --- what the ledger holds ------------------------------------------------------------------------------------------


class ConflictError(EnrollmentError):
    """Base of the conflicts with the ledger: the request is valid, but contradicts an earlier enrollment."""


class ThingEnrolledError(ConflictError):
    """The Thing is enrolled with another key."""

    code = "thing-enrolled"
    detail = "The Thing is already enrolled with another key; the operator can revoke it."


class KeyEnrolledError(ConflictError):
    """The key belongs, or belonged, to another Thing, and is not one that several Things may have."""

    code = "key-enrolled"
    detail = (
        "The CSR's key already belongs to another Thing, and every Thing needs its own key; "
        "create a new key and CSR for this one."
    )


class ThingRevokedError(ConflictError):
    """The Thing was revoked. It may be enrolled again with a new key and an invite created after that."""

    code = "thing-revoked"
    detail = "The Thing was revoked; to enroll it again, use a new key and a new invite."


class KeyNotCurrentError(ConflictError):
    """The proof's key is not the one that its Thing has now: it was replaced, or its renewal is not committed yet."""

    code = "key-not-current"
    detail = "The Thing has another key now, or the renewal that this key is for is not committed yet."


class KeyReusedError(ConflictError):
    """The key that a Thing is to get is one that it has, or had before."""

    code = "key-reused"
    detail = "The CSR's key is one that this Thing has, or had before; create a new key and CSR."


class RenewalInProgressError(ConflictError):
    """Another key's renewal of the Thing is pending.

    `facts` says under `reason` whether it is the device's own ``renewal`` or a ``replacement`` by an invite.
    """

    code = "renewal-in-progress"
    detail = "A renewal of this Thing with another key is in progress."


class RenewalUnknownError(ConflictError):
    """There is no renewal to commit: it was undone, or never begun."""

    code = "renewal-unknown"
    detail = "There is no renewal with this key: it was not committed in time, and undone; begin a new one."


class ThingUnknownError(EnrollmentError):
    """The ledger has no Thing with this name."""

    code = "thing-unknown"
    detail = "The ledger has no Thing with this name."


class InviteUnknownError(EnrollmentError):
    """There is no invite with this id."""

    code = "invite-unknown"
    detail = "There is no invite with this id."


class EkUnlistedError(EnrollmentError):
    """The manifest has no endorsement key with this fingerprint."""

    code = "ek-not-listed"
    detail = "The manifest has no endorsement key with this SHA-256."


class EkAuthorityUnknownError(EnrollmentError):
    """No CA of EK certificates that is trusted has this fingerprint."""

    code = "ek-ca-unknown"
    detail = "No CA of EK certificates that is trusted has this SHA-256."


class ExistingThingsNotAllowedError(EnrollmentError):
    """An invite for a Thing that AWS IoT already has was asked for, and the deployment does not allow that."""

    code = "existing-things-not-allowed"
    detail = (
        "This deployment does not enroll Things that AWS IoT already has; "
        "hsm-enroll backend deploy --existing-things changes that."
    )


class SweepStoppedError(EnrollmentError):
    """A sweep would disable more certificates than it may at a time. It disabled none of them.

    Args:
        limit: how many it may.
    """

    code = "sweep-stopped"

    def __init__(self, limit: int) -> None:
        super().__init__(limit=str(limit))
        self.detail = (
            f"The sweep would disable more than {limit} certificates, so it disabled none: the ledger may have lost "
            "entries. hsm-enroll fleet rebuild restores them; fleet sweep --yes-all disables the certificates."
        )


class RetryableError(EnrollmentError):
    """Base of the errors that may go away by themselves. `retry_after` is in seconds."""

    retry_after: int = 5


class EnrollmentInProgressError(RetryableError):
    """Another request for the same Thing and key is being processed, and did not finish in time."""

    code = "enrollment-in-progress"
    detail = "The same enrollment is already in progress; try again in a few seconds."
    retry_after = 10  # a few of these outlast the lease of a request that died


class EnrollmentQueuedError(RetryableError):
    """More devices are enrolling than AWS IoT allows at once, and it is not this one's turn yet, see `admission`.

    Args:
        seconds: until its turn.
    """

    code = "enrollment-queued"
    detail = "Many devices are enrolling at the moment; this one has its place in the queue: try again when told to."

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds=str(seconds))
        self.retry_after = seconds


class RenewalsLimitedError(RetryableError):
    """The Thing was renewed too often, see `admission`. Nothing has changed.

    Args:
        seconds: until it may be renewed once more.
    """

    code = "renewals-limited"
    detail = "This Thing was renewed too often; it keeps the certificate that it has, and may be renewed again later."

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds=str(seconds))
        self.retry_after = seconds


# --- what is in the request -----------------------------------------------------------------------------------------


class RequestRefusedError(EnrollmentError):
    """Base of every error in the request itself: the same request will fail again."""


class BodyEmptyError(RequestRefusedError):
    """The request has no body."""

    code = "body-empty"
    detail = "The request has no body; a JSON object is expected."


class BodyNotUtf8Error(RequestRefusedError):
    """The body is not UTF-8, as JSON has to be (RFC 8259 §8.1)."""

    code = "body-not-utf8"
    detail = "The body is not valid UTF-8."


class Pkcs10Base64Error(RequestRefusedError):
    """The body of an EST request is not base64 (RFC 8951 §3.1)."""

    code = "pkcs10-base64-invalid"
    detail = "The body must be a PKCS#10 request as DER in base64, without the first and the last line of PEM."


class JsonMalformedError(RequestRefusedError):
    """The body does not follow the grammar of RFC 8259."""

    code = "json-malformed"
    detail = "The body is not valid JSON."


class JsonTooDeepError(RequestRefusedError):
    """The JSON has more levels of nesting than are accepted."""

    code = "json-too-deep"
    detail = "The JSON is nested too deeply."


class JsonDuplicateKeyError(RequestRefusedError):
    """An object has the same name twice; parsers disagree on which one counts (RFC 8259 §4)."""

    code = "json-duplicate-key"
    detail = "A JSON object contains the same name twice."


class JsonNumberError(RequestRefusedError):
    """A number is NaN or infinite, or other parsers could not represent it exactly (RFC 8259 §6)."""

    code = "json-number-invalid"
    detail = "A JSON number is not finite, or has too many digits."


class JsonSurrogateError(RequestRefusedError):
    r"""A string has a lone surrogate, an escape such as ``\ud800`` without its other half (RFC 8259 §8.2)."""

    code = "json-lone-surrogate"
    detail = "A JSON string contains half of a surrogate pair."


class JsonNotObjectError(RequestRefusedError):
    """The JSON is not an object."""

    code = "json-not-object"
    detail = "The body must be a JSON object."


class FieldUnknownError(RequestRefusedError):
    """The object has a field that this request does not accept."""

    code = "field-unknown"
    detail = "The JSON object has a field that this request does not accept."


class FieldMissingError(RequestRefusedError):
    """The object lacks a required field.

    Args:
        field: its name; appears in `detail`.
    """

    code = "field-missing"

    def __init__(self, field: str = "csr") -> None:
        super().__init__(field=field)
        self.detail = f"The JSON object must have the field {field}."


class FieldTypeError(RequestRefusedError):
    """A field has the wrong JSON type."""

    code = "field-type"
    detail = "A field has the wrong JSON type; all are strings, but for evidence, which is an object of strings."


class FieldInvalidError(RequestRefusedError):
    """A field or query parameter of an operator's request has an invalid value.

    Args:
        field: its name; appears in `detail`.
    """

    code = "field-invalid"

    def __init__(self, field: str) -> None:
        super().__init__(field=field)
        self.detail = f"The value of {field} is invalid."


class EkAuthorityInvalidError(RequestRefusedError):
    """What was given as a CA of EK certificates is not the certificate of a CA, or not the one with this SHA-256."""

    code = "ek-ca-invalid"
    detail = "This is not the certificate of a CA in PEM, or its SHA-256 is another one."


class ThingNameError(RequestRefusedError):
    """The name is not a valid Thing name (AWS IoT CreateThing, `thingName`)."""

    code = "thing-name-invalid"
    detail = "A Thing's name must be 1 to 128 characters from a-z, A-Z, 0-9, colon, underscore and hyphen."
