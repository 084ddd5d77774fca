"""What an enrollment finds out before it makes anything: the clock, the token, the invite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsm_enroll.backend_api.deadline import TRY_SECONDS
from hsm_enroll.device import clock
from hsm_enroll.errors import BackendRefusedError, TokenNotFoundError
from hsm_enroll.token import selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from hsm_enroll.backend_api.client import Terms
    from hsm_enroll.device.plan import Obtain
    from hsm_enroll.device.ports import CertificateSource, OwnPorts, Ports, ProofTaker
    from hsm_enroll.device.steps import Steps
    from hsm_enroll.key import KeyType
    from hsm_enroll.store.identity import Identity
    from hsm_enroll.token.reports import TokenReport


def waiting_for(client: CertificateSource | ProofTaker, ports: Ports | OwnPorts) -> AbstractContextManager[None]:
    """Show that the API is waited for."""
    return ports.audience.waiting(f"the API at {client.base_url}", TRY_SECONDS)


def check_clock(identity: Identity, client: CertificateSource, ports: Ports) -> None:
    """See that a certificate which has ended by this machine's clock has also ended by the API's.

    Raises:
        ClockError: by the API's clock it has not.
        HsmEnrollError: the API does not answer.
    """
    with waiting_for(client, ports):
        api = client.clock()
    clock.check_end(identity.certificate.not_valid_after, ports.clock.now(), api)


def token(
    find: Callable[[], TokenReport], key_type: KeyType, ports: Ports, steps: Steps, *, may_create: bool
) -> TokenReport | None:
    """Return the token; None if there is none and it may be created, which the invite may forbid.

    Args:
        find: waits for the token.
        key_type: type of the key that it will have.
        ports: whether a token may be created, and whether MQTT needs it.
        steps: the steps of this run.
        may_create: whether a new token would be of use: an unfinished enrollment has its own.

    Raises:
        TokenNotFoundError: there is none, and it may not be created.
        HsmEnrollError: there are several, or it cannot do what is needed.
    """
    with steps.step("token"):
        try:
            found = find()
        except TokenNotFoundError:
            if ports.create_token is None or not may_create:
                raise
            return None
        selection.require(found, key_type, mqtt=ports.message is not None)
    return found


def created_token(key_type: KeyType, ports: Ports, steps: Steps) -> TokenReport:
    """Create the token that was not found, and return it.

    Raises:
        HsmEnrollError: it cannot be created, or cannot do what is needed.
    """
    if ports.create_token is None:
        raise TokenNotFoundError("there is no token")
    with steps.step("create-token"):
        made = ports.create_token()
        selection.require(made, key_type, mqtt=ports.message is not None)
    return made


def terms(
    asked: Future[Terms | None], to_do: Obtain, client: CertificateSource, ports: Ports, steps: Steps
) -> Terms | None:
    """Wait for what the invite says; None if there is no invite, or the API no longer tells.

    Raises:
        HsmEnrollError: the API refuses the invite, or does not answer.
    """
    if not client.has_invite:
        steps.skip("invite")
        return None
    with steps.step("invite"), waiting_for(client, ports):
        try:
            return asked.result()
        except BackendRefusedError as error:
            # The request may have been carried out. Then the API answers it again, even if the invite has expired.
            if error.problem_code != "invite-invalid" or to_do.under_way is None or to_do.under_way.csr is None:
                raise
            return None
