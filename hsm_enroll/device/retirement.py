"""The use case: give this device's identity up, in the cloud, in the token and on the disk, in steps that resume."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.device import clock, proving
from hsm_enroll.device.outbox import state
from hsm_enroll.device.steps import Progress, Step, Steps
from hsm_enroll.errors import (
    ApiTlsError,
    BackendRefusedError,
    BackendUnreachableError,
    BusyError,
    HsmEnrollError,
    KeyMissingError,
    RetiredLocallyError,
    ThrottledError,
    UnexpectedResponseError,
)
from hsm_enroll.store import files, forwarder, identity, journal, outbox, renewal, retirement
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.store.retirement import KeyName, Retirement
from hsm_enroll.token import selection

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsm_enroll.device.ports import OwnPorts, TokenSession

# Without the cloud the device does its own half. Everything else is an error before anything is lost.
_NOT_TOLD = (
    ApiTlsError,
    BackendRefusedError,
    BackendUnreachableError,
    KeyMissingError,
    ThrottledError,
    UnexpectedResponseError,
)
_ANOTHER_KEY = {"key-not-current", "proof-invalid"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        retirement: what was retired.
        steps: ``token``, ``cloud``, ``destroy`` and ``forget``, in this order.
        lost_messages: how many messages were in the outbox; None if it could not be read.
    """

    retirement: Retirement
    steps: tuple[Step, ...]
    lost_messages: int | None


def retire(
    folder: Path,
    ports: OwnPorts,
    agree: Callable[[Retirement, int | None], None],
    progress: Progress = lambda _: nullcontext(),
) -> Outcome:
    """Have the Thing retired, destroy the keys, and remove identity and outbox; the PIN and ``token.json`` stay.

    Args:
        folder: the state folder, which is locked during the run.
        ports: access to token and API.
        agree: called before anything is done, unless an earlier run has begun, with what is retired and with how many
            messages are in the outbox, None if it cannot be read; raises to prevent it.
        progress: called with each step's name; returns a context manager that is entered while the step runs.

    Raises:
        BusyError: another run has locked the folder, or the forwarder is running.
        NotEnrolledError: there is no identity to retire.
        ClockError: this machine's clock is wrong; nothing was destroyed.
        RetiredLocallyError: the device is retired, but the API could not be told.
        HsmEnrollError: the token cannot be used, or a file not removed; the next run resumes.
    """
    with files.locked(folder):
        under_way, is_new = Retirement.load(folder), False
        if under_way is None:
            under_way, is_new = _begun(folder), True
        if forwarder.is_running(folder):  # it would lose its certificate in the middle
            raise BusyError("hsm-enroll forward is running", hint="Stop it, then run the same command again.")
        messages = _queued(folder)
        if is_new:
            agree(under_way, messages)
        clock.check(ports.clock.now())
        steps = Steps(progress)
        reports = ports.tokens.start_listing([under_way.token.module])
        with steps.step("token"):
            token = selection.enrolled(under_way.token, reports)
        with ports.tokens.session(token, ports.pin, ports.at_pin_pad, writable=True) as session:
            under_way.save(folder)
            under_way, refusal = _told(under_way, session, folder, ports, steps)
            with steps.step("destroy"):
                for key in (*under_way.enrolled_keys, *under_way.other_keys):
                    session.destroy(label=key.label, key_id=key.id)
        with steps.step("forget"):
            identity.remove(folder)
            renewal.close(folder)
            journal.close(folder)
            outbox.remove(folder)
            forwarder.remove(folder)
            retirement.close(folder)
        if refusal is not None:
            raise _retired_locally(under_way, refusal) from refusal
        return Outcome(under_way, tuple(steps.done), messages)


def _begun(folder: Path) -> Retirement:
    """Return what there is to retire, by the state folder."""
    present, attempt, under_way = Identity.load(folder), Attempt.load(folder), Renewal.load(folder)
    keys = [KeyName(present.key_label, present.key_id)]
    others = []
    if under_way is not None:
        # The API may have made it the current one.
        keys.append(KeyName(under_way.key_label, under_way.key_id))
        others.append(KeyName(under_way.old_key_label, under_way.old_key_id))
    if attempt is not None:
        others.append(KeyName(attempt.key_label, attempt.key_id))
    enrolled = tuple(dict.fromkeys(keys))
    return Retirement(
        thing_name=present.thing_name,
        api=present.api,
        token=present.token,
        key_type=present.key_type,
        enrolled_keys=enrolled,
        other_keys=tuple(key for key in dict.fromkeys(others) if key not in enrolled),
    )


def _queued(folder: Path) -> int | None:
    """Return how many messages are lost; what is wrong with the outbox does not keep a device in service."""
    try:
        return state(folder).messages
    except HsmEnrollError:
        return None


def _told(
    under_way: Retirement, session: TokenSession, folder: Path, ports: OwnPorts, steps: Steps
) -> tuple[Retirement, HsmEnrollError | None]:
    """Tell the API, unless an earlier run did; return the error if it could not be told."""
    if under_way.is_told:
        steps.skip("cloud")
        return under_way, None
    try:
        with steps.step("cloud"):
            _tell(under_way, session, ports)
    except _NOT_TOLD as error:
        return under_way, error
    under_way = replace(under_way, is_told=True)
    under_way.save(folder)
    return under_way, None


def _tell(under_way: Retirement, session: TokenSession, ports: OwnPorts) -> None:
    """Have the Thing retired by the key that is current; the identity's own, unless a renewal was not finished.

    Raises:
        HsmEnrollError: the API does not answer, or refuses each key.
    """
    client = ports.client(under_way.api)
    client.start_opening()
    refusals: list[HsmEnrollError] = []
    for key in under_way.enrolled_keys:
        try:
            with proving.asking(client, ports):
                return client.retire(proving.prover(session, ports, label=key.label, key_id=key.id))
        except KeyMissingError as error:
            refusals.append(error)
        except BackendRefusedError as error:
            if error.problem_code == "thing-revoked":
                return None
            if error.problem_code not in _ANOTHER_KEY:
                raise
            refusals.append(error)
    raise refusals[0]


def _retired_locally(under_way: Retirement, refusal: HsmEnrollError) -> RetiredLocallyError:
    thing = under_way.thing_name
    # With a single key there is no renewal of this device's own that could have replaced it.
    replaced = isinstance(refusal, BackendRefusedError) and refusal.problem_code == "key-not-current"
    if replaced and len(under_way.enrolled_keys) == 1:
        return RetiredLocallyError(
            f"this device is retired, but {thing} is not: it has another key, and this device's certificate is gone",
            hint="If nobody replaced this device, somebody else has used its key: tell the operator.",
        )
    return RetiredLocallyError(
        f"this device is retired, but the cloud was not told, and the certificate of {thing} is still active there: "
        f"{refusal.message}",
        hint=f"Ask the operator to run: hsm-enroll fleet revoke {thing}",
    )
