"""The use case: get the identity back when the state folder is lost and the token still has the key.

The key proves which device this is, and the API returns its certificate. Nothing is issued, and no invite is needed.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.device import clock, obtaining, proving
from hsm_enroll.device.pending import refuse_while_retiring
from hsm_enroll.device.steps import Progress, Step, Steps
from hsm_enroll.errors import (
    BackendRefusedError,
    HsmEnrollError,
    KeyMissingError,
    NotEnrolledError,
    StateCorruptError,
)
from hsm_enroll.store import files, journal, renewal
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.renewal import Renewal

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsm_enroll.backend_api.client import Issued
    from hsm_enroll.device.ports import OwnPorts, ProofTaker, TokenSession
    from hsm_enroll.token.reports import OwnKey, TokenReport

# The API's problem codes for a key that is not the one that is looked for; another one may be.
_NOT_THIS_KEY = {"proof-invalid", "key-not-current", "thing-revoked"}
_NO_KEY_HINT = "Ask the operator for an invite, then run: hsm-enroll init --new-key INVITE"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        identity: the device's identity.
        steps: ``token``, ``certificate`` and ``store``, in this order; none if there was a valid identity.
        was_there: whether there was a valid identity, so that no server was contacted.
        other_keys: how many other keys of this program the token has.
    """

    identity: Identity
    steps: tuple[Step, ...]
    was_there: bool
    other_keys: int


def recover(
    folder: Path,
    ports: OwnPorts,
    find: Callable[[], Callable[[], TokenReport]],
    api: Callable[[], str],
    progress: Progress = lambda _: nullcontext(),
) -> Outcome:
    """Find the key in the token that the API has enrolled, and store its identity.

    A valid identity, whose key the token has, is left as it is. Anything else in its place is replaced.

    Args:
        folder: the state folder, which is locked during the run.
        ports: access to token and API.
        find: starts looking for the token.
        api: returns the API's base URL; called only if it is needed.
        progress: called with each step's name; returns a context manager that is entered while the step runs.

    Raises:
        BusyError: another run has locked the folder.
        UsageError: this device is being retired, or no API is known.
        ClockError: this machine's clock is wrong.
        KeyMissingError: the token has no key of this program.
        BackendRefusedError: the API has not enrolled any of its keys.
        HsmEnrollError: token or API cannot be used.
    """
    with files.locked(folder):
        refuse_while_retiring(folder)
        present = _valid(folder, ports)
        if present is not None:
            present.save_copy(folder)
            return Outcome(present, (), was_there=True, other_keys=0)
        clock.check(ports.clock.now())
        steps = Steps(progress)
        found = find()
        client = ports.client(api())
        client.start_opening()
        with steps.step("token"):
            token = found()
        with ports.tokens.session(token, ports.pin, ports.at_pin_pad) as session:
            keys = session.own_keys()
            with steps.step("certificate"):
                own, issued = _enrolled(keys, token, session, client, ports)
            key = session.find(label=own.label, key_id=own.id)
        with steps.step("store"):
            obtaining.check_issued(issued, key, ports.clock.now())
            identity = obtaining.identity(issued, token.name, key, client.base_url)
            identity.save(folder)
            others = len(keys) - 1 - _forget(folder, identity)
        return Outcome(identity, tuple(steps.done), was_there=False, other_keys=others)


def _valid(folder: Path, ports: OwnPorts) -> Identity | None:
    """Return the stored identity if the token has its key; None if there is none, or it is damaged."""
    try:
        identity = Identity.load(folder)
        public_key = ports.tokens.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
        obtaining.check_key(identity, public_key)
    except (NotEnrolledError, StateCorruptError, KeyMissingError):
        return None
    return identity


def _enrolled(
    keys: list[OwnKey], token: TokenReport, session: TokenSession, client: ProofTaker, ports: OwnPorts
) -> tuple[OwnKey, Issued]:
    """Return the first key that the API has enrolled, and its certificate."""
    whole = [key for key in keys if len(key.halves) > 1 and key.key_type is not None]
    if not whole:
        raise KeyMissingError(
            f"token {token.name.label!r} has no key that hsm-enroll generated, so there is nothing to recover",
            hint=f"Check that it is the right token: hsm-enroll tokens. If it is: {_NO_KEY_HINT}",
        )
    refusals: list[BackendRefusedError] = []
    for key in whole:
        prove = proving.prover(session, ports, label=key.label, key_id=key.id)
        try:
            with proving.asking(client, ports):
                return key, client.recover(prove)
        except BackendRefusedError as error:
            if error.problem_code not in _NOT_THIS_KEY:
                raise
            refusals.append(error)
    if len(refusals) == 1:
        raise refusals[0]
    raise _none(refusals) from refusals[-1]


def _none(refusals: list[BackendRefusedError]) -> HsmEnrollError:
    """Return the error for several keys none of which is enrolled, with what the refusal says that says most."""
    most = next((error for error in refusals if error.problem_code != "proof-invalid"), refusals[0])
    return BackendRefusedError(
        f"none of this token's {len(refusals)} keys is enrolled: {most.message}",
        problem_code=most.problem_code,
        request_id=most.request_id,
        hint=most.hint,
    )


def _forget(folder: Path, identity: Identity) -> int:
    """Remove the journals of another identity, and return how many keys beside this one's are still in use."""
    journal.close(folder)
    under_way = Renewal.load(folder)
    if under_way is None:
        return 0
    if identity.key_id in {under_way.key_id, under_way.old_key_id}:
        return 1
    renewal.close(folder)
    return 0
