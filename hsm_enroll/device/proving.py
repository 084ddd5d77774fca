"""Requests to the API that a key in the token signs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hsm_enroll.device import clock
from hsm_enroll.device.preparation import waiting_for
from hsm_enroll.errors import BackendRefusedError

if TYPE_CHECKING:
    from hsm_enroll.backend_api.proofs import Prove
    from hsm_enroll.device.ports import OwnPorts, ProofTaker, TokenSession

_SKEW = "clock-skew"


def prover(session: TokenSession, ports: OwnPorts, *, label: str, key_id: bytes) -> Prove:
    """Return what signs proofs with a key.

    Args:
        session: logged in, as long as proofs are needed.
        ports: this machine's clock.
        label: CKA_LABEL.
        key_id: CKA_ID.

    Returns:
        A function that raises KeyMissingError if the token does not have the key, and what ``jws.build`` raises.
    """

    def prove(url: str, payload: bytes) -> str:
        from hsm_enroll.x509 import jws

        # For each proof: a session signs with the key that it found last, and another may have been found since.
        key = session.find(label=label, key_id=key_id)
        return jws.build(key, url, payload, ports.clock.now().timestamp(), secrets.token_urlsafe(16))

    return prove


@contextmanager
def asking(client: ProofTaker, ports: OwnPorts) -> Iterator[None]:
    """Show that the API is waited for; and if it refuses a proof for its time, say which clock is wrong.

    Raises:
        ClockError: this machine's clock is wrong.
        HsmEnrollError: what the block raises.
    """
    with waiting_for(client, ports):
        try:
            yield
        except BackendRefusedError as error:
            if error.problem_code != _SKEW:
                raise
            raise clock.skew(ports.clock.now(), error.api_time) from error
