"""One tree of domain errors: each has a stable code and a sentence that may be shown to anyone.

Nothing here knows HTTP or AWS's libraries. `http` turns each kind into a status, and only `http` does.
"""

from __future__ import annotations

from typing import ClassVar


class EnrollmentError(Exception):
    """Base of everything the backend raises on purpose.

    Attributes:
        code: stable kebab-case name; scripts and devices depend on it.
        detail: one sentence for the caller. It never repeats what the caller sent.
        facts: what the log may add to it. Never a code, a CSR or a certificate.
    """

    code: ClassVar[str] = "internal"
    detail: str = "Something went wrong that is not the request's fault."

    def __init__(self, **facts: str) -> None:
        super().__init__(self.detail)
        self.facts = facts


class ConfigurationError(EnrollmentError):
    """The function's environment lacks a variable, or holds one that makes no sense. Says which in `facts`."""


# --- who asks -------------------------------------------------------------------------------------------------------


class InviteRequiredError(EnrollmentError):
    """The deployment does not let just anyone enroll."""

    code = "invite-required"
    detail = (
        "This deployment needs an invite; its code, the part behind #, goes into the header Authorization: Bearer CODE."
    )


class InviteInvalidError(EnrollmentError):
    """The code is malformed, unknown, expired, used up, revoked, or for another Thing: one answer for all of them.

    Says which in `facts`, under `reason`: that is the operator's to know.
    """

    code = "invite-invalid"
    detail = "The invite is not valid for this request; the operator can make a new one."


class AttestationRequiredError(EnrollmentError):
    """The invite is for one TPM, and the request does not prove that its key lives there."""

    code = "attestation-required"
    detail = "This invite needs proof that the key lives in a TPM."


class OperatorRequiredError(EnrollmentError):
    """API Gateway did not say which IAM identity calls an operator's route."""

    code = "operator-required"
    detail = "This path is the operator's: requests to it are signed with AWS credentials."


# --- what stands in the ledger --------------------------------------------------------------------------------------


class ConflictError(EnrollmentError):
    """Base of what the ledger says no to: the request is sound, and contradicts what was issued before."""


class ThingEnrolledError(ConflictError):
    """The Thing is enrolled with another key."""

    code = "thing-enrolled"
    detail = "The Thing is enrolled with another key; the operator can revoke it."


class KeyEnrolledError(ConflictError):
    """The key is, or was, another Thing's, and not one that several Things may have."""

    code = "key-enrolled"
    detail = (
        "The CSR's key belongs to another Thing already, and each Thing needs a key of its own; "
        "make a new key and CSR for this one."
    )


class ThingRevokedError(ConflictError):
    """The Thing was revoked. A new key may follow, with an invite made after that."""

    code = "thing-revoked"
    detail = "The Thing was revoked; a new key and a new invite are needed."


class ThingUnknownError(EnrollmentError):
    """The ledger has no Thing of that name."""

    code = "thing-unknown"
    detail = "The ledger has no Thing of that name."


class InviteUnknownError(EnrollmentError):
    """There is no invite of that id."""

    code = "invite-unknown"
    detail = "There is no invite of that id."


class RetryableError(EnrollmentError):
    """Base of what may pass by itself. `retry_after` is in seconds."""

    retry_after: ClassVar[int] = 5


class EnrollmentInProgressError(RetryableError):
    """Another request for the same Thing and key is at work, and has not finished within the time there is."""

    code = "enrollment-in-progress"
    detail = "The same enrollment is under way already; try again in some seconds."
    retry_after = 10  # some of which outlast the lease of a request that died


# --- what is asked --------------------------------------------------------------------------------------------------


class RequestRefusedError(EnrollmentError):
    """Base of all that is wrong with the request itself: sent again as it is, it fails again."""


class BodyEmptyError(RequestRefusedError):
    """There is no body."""

    code = "body-empty"
    detail = "The request has no body; a JSON object is expected."


class BodyNotUtf8Error(RequestRefusedError):
    """RFC 8259 §8.1: JSON travels as UTF-8."""

    code = "body-not-utf8"
    detail = "The body is not UTF-8."


class JsonMalformedError(RequestRefusedError):
    """The body does not follow the grammar of RFC 8259."""

    code = "json-malformed"
    detail = "The body is not JSON."


class JsonTooDeepError(RequestRefusedError):
    """The JSON is nested beyond what the parser follows."""

    code = "json-too-deep"
    detail = "The JSON is nested too deeply."


class JsonDuplicateKeyError(RequestRefusedError):
    """A name occurs twice in an object: parsers disagree on which one counts (RFC 8259 §4)."""

    code = "json-duplicate-key"
    detail = "A name occurs twice in a JSON object."


class JsonNumberError(RequestRefusedError):
    """NaN, Infinity, or a number that other parsers could not represent (RFC 8259 §6)."""

    code = "json-number-invalid"
    detail = "A JSON number is not finite, or has too many digits."


class JsonSurrogateError(RequestRefusedError):
    r"""A ``\ud800``-like escape without its partner: no Unicode text (RFC 8259 §8.2)."""

    code = "json-lone-surrogate"
    detail = "A JSON string holds half of a surrogate pair."


class JsonNotObjectError(RequestRefusedError):
    """The JSON is no object."""

    code = "json-not-object"
    detail = "The body must be a JSON object."


class FieldUnknownError(RequestRefusedError):
    """The object has a field that this request does not know."""

    code = "field-unknown"
    detail = "The JSON object has a field that this request does not know."


class FieldMissingError(RequestRefusedError):
    """The object lacks a field."""

    code = "field-missing"
    detail = "The JSON object lacks a field; csr and thingName are needed."


class FieldTypeError(RequestRefusedError):
    """A field has another type than the contract says."""

    code = "field-type"
    detail = "A field has the wrong type; csr and thingName are strings."


class FieldInvalidError(RequestRefusedError):
    """A field or parameter of an operator's request has a value that makes no sense.

    Args:
        field: its name; `detail` then says it.
    """

    code = "field-invalid"

    def __init__(self, field: str) -> None:
        super().__init__(field=field)
        self.detail = f"The value of {field} makes no sense."


class ThingNameError(RequestRefusedError):
    """The name cannot be that of a Thing (AWS IoT CreateThing, `thingName`)."""

    code = "thing-name-invalid"
    detail = "A Thing's name is 1 to 128 characters of a-z, A-Z, 0-9, colon, underscore and dash."


# --- the CSR --------------------------------------------------------------------------------------------------------


class CsrRefusedError(RequestRefusedError):
    """Base of all that is wrong with the CSR."""


class CsrTooLargeError(CsrRefusedError):
    """AWS IoT CreateCertificateFromCsr takes at most 4,096 characters."""

    code = "csr-too-large"
    detail = "The CSR's PEM block is longer than 4,096 characters."


class CsrPemError(CsrRefusedError):
    """There is not exactly one PEM block of a CSR (RFC 7468 §2, §7)."""

    code = "csr-pem-invalid"
    detail = (
        "The CSR must be sent as exactly one PEM block: a line -----BEGIN CERTIFICATE REQUEST-----, lines of base64, "
        "the matching END line; no headers in it, no other block beside it."
    )


class CsrLineEndsMissingError(CsrRefusedError):
    """The PEM block is there, in one line: what posted it, or a shell, has taken the line ends away."""

    code = "csr-line-ends-missing"
    detail = (
        "The CSR has lost its line ends: BEGIN line, base64 and END line are all on one line. "
        "With curl, send the file with --data-binary @FILE; -d @FILE removes line ends."
    )


class CsrLineEndsEscapedError(CsrRefusedError):
    r"""The PEM block is there, in one line: its line ends are a backslash and the letter n each."""

    code = "csr-line-ends-escaped"
    detail = (
        r"The CSR's line ends arrived as the two characters \n each. "
        r"In JSON, escape them once, as \n, not twice; without JSON, send the file as it is, with curl's --data-binary."
    )


class CsrDerError(CsrRefusedError):
    """It is not the DER of a PKCS#10 request, or an encoding of one other than the canonical one."""

    code = "csr-der-invalid"
    detail = "The CSR is not a PKCS#10 request in canonical DER."


class CsrKeyError(CsrRefusedError):
    """The key is of a kind or size that gets no certificate here.

    Args:
        key: what it is, with an article, such as ``an Ed25519 key``; `detail` then says it.
    """

    code = "csr-key-not-allowed"

    def __init__(self, key: str) -> None:
        self.detail = (
            f"The CSR has {key}. It must have EC P-256 or P-384, or RSA of 2048, 3072 or 4096 bits with exponent 65537."
        )
        super().__init__(key=key)


class CsrKeyWeakError(CsrRefusedError):
    """Anyone can compute the private key. Says how in `facts`, under `weakness`."""

    code = "csr-key-weak"
    detail = (
        "The CSR's RSA key can be computed from its public half: small factor, close primes, or ROCA. Make another."
    )


class CsrSignatureAlgorithmError(CsrRefusedError):
    """The signature algorithm is weak, unknown, or not the key's.

    Args:
        algorithm: its name, or what else is to be said of it; `detail` then says it.
    """

    code = "csr-signature-algorithm-not-allowed"

    def __init__(self, algorithm: str) -> None:
        self.detail = (
            f"The CSR is signed with {algorithm}; "
            "it must be signed with SHA-256, SHA-384 or SHA-512, by ECDSA or RSA PKCS #1 v1.5 as its key is."
        )
        super().__init__(algorithm=algorithm)


class CsrAttributesError(CsrRefusedError):
    """The CSR's attributes (RFC 2986 §4.1) ask for what no device gets, or are not what they have to be.

    Args:
        fault: what a CSR must not do, as an infinitive; `detail` then says it.
    """

    code = "csr-attributes-not-allowed"

    def __init__(self, fault: str) -> None:
        self.detail = f"The CSR must not {fault}."
        super().__init__(fault=fault)


class CsrSignatureError(CsrRefusedError):
    """The signature was not made by the key in the CSR over this CSR."""

    code = "csr-signature-invalid"
    detail = "The CSR's signature does not verify."


class CsrSubjectError(CsrRefusedError):
    """The subject holds a value that is no text, or in a kind of string that may not or cannot hold it.

    Args:
        fault: what is wrong with the subject, as a predicate; `detail` then says it.
    """

    code = "csr-subject-invalid"

    def __init__(self, fault: str) -> None:
        self.detail = f"The CSR's subject {fault}."
        super().__init__(fault=fault)


class CsrNamesNoThingError(CsrRefusedError):
    """No Thing is named beside the CSR, nor by the CSR's common name."""

    code = "csr-names-no-thing"
    detail = (
        "The CSR's subject must hold exactly one common name that can be a Thing's: 1 to 128 characters of a-z, A-Z, "
        "0-9, colon, underscore and dash. With another subject, name the Thing beside the CSR: "
        r'POST {"thingName": "NAME", "csr": "-----BEGIN CERTIFICATE REQUEST-----\n..."} to /getCertificate.'
    )


class CsrCommonNameError(CsrRefusedError):
    """The subject names something other than the Thing, or several, or nothing."""

    code = "csr-common-name-mismatch"
    detail = "The CSR's subject must hold exactly one common name, equal to the Thing's name."


class CsrCommonNameLengthError(CsrRefusedError):
    """The common name exceeds ub-common-name (RFC 5280, appendix A.1)."""

    code = "csr-common-name-too-long"
    detail = "The CSR's common name is longer than 64 characters."


# --- AWS ------------------------------------------------------------------------------------------------------------


class AwsError(EnrollmentError):
    """Base of all that AWS answers, or fails to answer.

    Args:
        operation: AWS API name, such as ``CreateThing``.
        cause: AWS's error code, or the name of the library's exception.
    """

    def __init__(self, operation: str, cause: str) -> None:
        super().__init__(operation=operation, cause=cause)


class ThingExistsError(AwsError):
    """A Thing of that name exists with another configuration."""

    code = "thing-exists"
    detail = "A Thing of that name exists already and is not this one."


class ThrottledError(AwsError, RetryableError):
    """AWS counts its limits per second and account."""

    code = "throttled"
    detail = "AWS is being asked too often; try again later."


class AwsUnavailableError(AwsError, RetryableError):
    """AWS failed, or did not answer in time. The call may have been carried out nevertheless."""

    code = "aws-unavailable"
    detail = "AWS does not answer at the moment; try again later."
    retry_after = 10


class AwsRefusedError(AwsError):
    """AWS refused the call for a reason that no retry cures: permissions, a missing policy, its own rules."""

    code = "aws-refused"
    detail = "AWS refused what the backend asked for; the operator finds the reason in the log."


class NotThereError(AwsRefusedError):
    """What a call is about is not there, or not any more."""


class ConditionFailedError(AwsError, RetryableError):
    """DynamoDB found the items other than a conditional write expects them. Nothing was written."""

    code = "enrollment-in-progress"
    detail = EnrollmentInProgressError.detail


class CertificateForeignError(AwsError):
    """AWS IoT answered with a certificate that is not for the CSR's key."""

    code = "certificate-not-for-key"
    detail = "AWS IoT answered with a certificate for another key; it was not passed on."
