"""The use cases. No HTTP and no AWS library: what they need from outside comes in as arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enrollment_backend.csr_policy import AcceptedCsr, accept
from enrollment_backend.errors import InviteRequiredError, ThingNameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from enrollment_backend.issuer import IssuedCertificate

_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")  # AWS IoT CreateThing, thingName
_OPEN = "open"


@dataclass(frozen=True)
class EnrollmentRequest:
    """What a device asks for, exactly as it came: nothing in it has been checked.

    Attributes:
        thing_name: the Thing it wants to be; None is the one that the CSR's common name says.
        csr: PKCS#10 in PEM.
    """

    thing_name: str | None
    csr: str


@dataclass(frozen=True)
class Issued:
    """What a device needs to connect.

    Attributes:
        certificate: see `issuer.IssuedCertificate`.
        thing_name: the Thing, which is also the MQTT client id the policy admits.
        mqtt_endpoint: host name for MQTT.
        mqtt_port: port for MQTT with mutual TLS.
        attested: whether the key was proven to live in a TPM.
    """

    certificate: IssuedCertificate
    thing_name: str
    mqtt_endpoint: str
    mqtt_port: int
    attested: bool


@dataclass(frozen=True)
class EnrollmentService:
    """The use cases of a device.

    Args:
        auth_mode: who may enroll. Anything but ``open`` lets nobody in.
        issue: has a certificate issued for a Thing and a CSR; a function, since nothing else of AWS is needed here.
        mqtt_endpoint: host name handed to devices.
        mqtt_port: port handed to devices.
    """

    auth_mode: str
    issue: Callable[[str, AcceptedCsr], IssuedCertificate]
    mqtt_endpoint: str
    mqtt_port: int

    def enroll(self, request: EnrollmentRequest) -> Issued:
        """Give a Thing its certificate.

        Raises:
            InviteRequiredError: the deployment is not open; nothing of the request was looked at.
            ThingNameError: the name cannot be that of a Thing.
            CsrRefusedError: the CSR is not acceptable, see `csr_policy.accept`.
            AwsError: from `issue`.

        Does not check whether the Thing has a certificate already: each call makes a new one.
        """
        if self.auth_mode != _OPEN:
            raise InviteRequiredError
        if request.thing_name is not None and not _THING_NAME.fullmatch(request.thing_name):
            raise ThingNameError
        csr = accept(request.csr, request.thing_name)
        if not _THING_NAME.fullmatch(csr.common_name):
            raise ThingNameError
        return Issued(
            certificate=self.issue(csr.common_name, csr),
            thing_name=csr.common_name,
            mqtt_endpoint=self.mqtt_endpoint,
            mqtt_port=self.mqtt_port,
            attested=False,
        )
