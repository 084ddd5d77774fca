"""The errors of a call to AWS."""

from __future__ import annotations

from typing import ClassVar

from enrollment_backend.errors import EnrollmentError, EnrollmentInProgressError, RetryableError


class AwsError(EnrollmentError):
    """Base of the errors of a call to AWS.

    Args:
        operation: AWS API name, such as ``CreateThing``.
        cause: AWS's error code, or the name of the library's exception.

    Attributes:
        had_no_effect: whether it is certain that AWS did not carry out the call, given that it was sent only once.
    """

    had_no_effect: ClassVar[bool] = False

    def __init__(self, operation: str, cause: str) -> None:
        super().__init__(operation=operation, cause=cause)


class ThingExistsError(AwsError):
    """AWS IoT has a Thing with this name that was not created for this enrollment."""

    code = "thing-exists"
    detail = (
        "AWS IoT already has a Thing with this name that was not enrolled here; "
        "an invite created with --existing-thing allows it."
    )
    had_no_effect = True


class ThrottledError(AwsError, RetryableError):
    """The account exceeded one of AWS's limits, which are per second."""

    code = "throttled"
    detail = "AWS is throttling requests; try again later."
    had_no_effect = True


class AwsUnavailableError(AwsError, RetryableError):
    """AWS failed, or did not respond in time. The call may have been carried out nevertheless."""

    code = "aws-unavailable"
    detail = "AWS is not responding at the moment; try again later."
    retry_after = 10


class AwsUnreachableError(AwsUnavailableError):
    """There was no connection to AWS, so the call was not sent."""

    had_no_effect = True


class AwsRefusedError(AwsError):
    """AWS refused the call, and a retry will not help: permissions, a missing policy, AWS's own rules."""

    code = "aws-refused"
    detail = "AWS refused a call that the backend made; the operator can find the reason in the log."
    had_no_effect = True


class ResourceNotFoundError(AwsRefusedError):
    """The resource that a call refers to does not exist, or no longer exists."""


class ConditionFailedError(AwsError, RetryableError):
    """The condition of a DynamoDB write does not hold. Nothing was written."""

    code = "enrollment-in-progress"
    detail = EnrollmentInProgressError.detail
    had_no_effect = True


class AwsResponseInvalidError(AwsError):
    """AWS's response is not what its API promises: something between the function and AWS may have sent it."""

    code = "aws-response-invalid"
    detail = "The backend received a response from AWS that it cannot use; the operator can find the call in the log."


class CertificateNotForKeyError(AwsError):
    """AWS IoT returned a certificate that is not for the CSR's key. There is none for that key."""

    code = "certificate-not-for-key"
    detail = "AWS IoT returned a certificate for another key; it was not passed on."
    had_no_effect = True
