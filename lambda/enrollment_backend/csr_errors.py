"""Why a CSR is refused: one class and one code for each rule."""

from __future__ import annotations

from enrollment_backend.errors import RequestRefusedError


class CsrRefusedError(RequestRefusedError):
    """Base of every error in the CSR itself."""


class CsrTooLargeError(CsrRefusedError):
    """The CSR exceeds the limit of AWS IoT CreateCertificateFromCsr, 4,096 characters."""

    code = "csr-too-large"
    detail = "The CSR's PEM block is longer than 4,096 characters."


class CsrPemError(CsrRefusedError):
    """The text does not contain exactly one PEM block of a CSR (RFC 7468 §2, §7)."""

    code = "csr-pem-invalid"
    detail = (
        "The CSR must be exactly one PEM block: a line -----BEGIN CERTIFICATE REQUEST-----, lines of base64, "
        "and the matching END line; no headers inside it, and no other block next to it."
    )


class CsrLineEndsMissingError(CsrRefusedError):
    """The PEM block is all on one line: the HTTP client or a shell removed the line breaks."""

    code = "csr-line-ends-missing"
    detail = (
        "The CSR has lost its line breaks: BEGIN line, base64 and END line are all on one line. "
        "With curl, send the file with --data-binary @FILE; -d @FILE removes line breaks."
    )


class CsrLineEndsEscapedError(CsrRefusedError):
    r"""The PEM block is all on one line: each line break arrived as a backslash and the letter n."""

    code = "csr-line-ends-escaped"
    detail = (
        r"Each line break of the CSR arrived as the two characters \n. "
        r"In JSON, escape them once, as \n, not twice; without JSON, send the file as it is, with curl's --data-binary."
    )


class CsrDerError(CsrRefusedError):
    """The CSR is not a PKCS#10 request in DER, or is in an encoding other than the canonical one."""

    code = "csr-der-invalid"
    detail = "The CSR is not a PKCS#10 request in canonical DER."


class CsrKeyError(CsrRefusedError):
    """The key's type or size is not accepted.

    Args:
        key: what kind of key it is, with an article, such as ``an Ed25519 key``; appears in `detail`.
    """

    code = "csr-key-not-allowed"

    def __init__(self, key: str) -> None:
        self.detail = (
            f"The CSR has {key}. "
            "The key must be EC P-256 or P-384, or RSA with 2048, 3072 or 4096 bits and exponent 65537."
        )
        super().__init__(key=key)


class CsrKeyWeakError(CsrRefusedError):
    """Anyone can compute the private key. `facts` says how, under `weakness`."""

    code = "csr-key-weak"
    detail = (
        "The private key can be computed from the CSR's RSA public key: small factor, close primes, or ROCA. "
        "Create a new key."
    )


class CsrSignatureAlgorithmError(CsrRefusedError):
    """The signature algorithm is weak, unknown, or does not match the key.

    Args:
        algorithm: its name, or a description; appears in `detail`.
    """

    code = "csr-signature-algorithm-not-allowed"

    def __init__(self, algorithm: str) -> None:
        self.detail = (
            f"The CSR is signed with {algorithm}; "
            "it must be signed with SHA-256, SHA-384 or SHA-512, using ECDSA or RSA PKCS #1 v1.5 to match its key."
        )
        super().__init__(algorithm=algorithm)


class CsrAttributesError(CsrRefusedError):
    """The CSR's attributes (RFC 2986 §4.1) are malformed, or request something that is never granted.

    Args:
        fault: what a CSR must not do, as an infinitive; appears in `detail`.
    """

    code = "csr-attributes-not-allowed"

    def __init__(self, fault: str) -> None:
        self.detail = f"The CSR must not {fault}."
        super().__init__(fault=fault)


class CsrSignatureError(CsrRefusedError):
    """The key in the CSR did not sign this CSR."""

    code = "csr-signature-invalid"
    detail = "The CSR's signature does not verify."


class CsrSubjectError(CsrRefusedError):
    """The subject contains a value that is not text, or that its string type does not allow.

    Args:
        fault: what is wrong with the subject, as a predicate; appears in `detail`.
    """

    code = "csr-subject-invalid"

    def __init__(self, fault: str) -> None:
        self.detail = f"The CSR's subject {fault}."
        super().__init__(fault=fault)


class CsrNamesNoThingError(CsrRefusedError):
    """The request has no Thing name, and the CSR's common name is not a valid one."""

    code = "csr-names-no-thing"
    detail = (
        "The CSR's subject must contain exactly one common name that is a valid Thing name: 1 to 128 characters from "
        "a-z, A-Z, 0-9, colon, underscore and hyphen. With any other subject, send the Thing's name with the CSR: "
        r'POST {"thingName": "NAME", "csr": "-----BEGIN CERTIFICATE REQUEST-----\n..."} to /getCertificate.'
    )


class CsrCommonNameError(CsrRefusedError):
    """The subject has a common name other than the Thing's name, or none, or several."""

    code = "csr-common-name-mismatch"
    detail = "The CSR's subject must contain exactly one common name, equal to the Thing's name."


class CsrCommonNameLengthError(CsrRefusedError):
    """The common name exceeds ub-common-name (RFC 5280, appendix A.1)."""

    code = "csr-common-name-too-long"
    detail = "The CSR's common name is longer than 64 characters."
