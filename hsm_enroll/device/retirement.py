"""The use case: give this device's identity up, in the cloud, in the token and on the disk, in steps that resume."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext, suppress
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
    NotEnrolledError,
    RetiredLocallyError,
    StateCorruptError,
    ThrottledError,
    TokenNotFoundError,
    UnexpectedResponseError,
)
from hsm_enroll.store import aws_credentials, files, forwarder, identity, journal, outbox, renewal, retirement
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.store.retirement import KeyName, Retirement
from hsm_enroll.token import selection

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsm_enroll.device.ports import OwnPorts, ProofTaker, TokenSession

# Without the cloud the device does its own half. Everything else is an error before anything is lost.
_NOT_TOLD = (ApiTlsError, BackendRefusedError, BackendUnreachableError, KeyMissingError, UnexpectedResponseError)
_ANOTHER_KEY = {"key-not-current", "proof-invalid"}
_OLD_HINT = (
    "Run hsm-enroll recover first: the identity may come from an old backup, and the token has the newer key. If "
    "recover finds no key that is enrolled, hsm-enroll token prune destroys the others; then retire again."
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        retirement: what was retired.
        steps: ``token``, ``cloud``, ``destroy`` and ``forget``, in this order.
        other_keys: how many keys of this program the token still has; 0 if the token is gone.
        lost_messages: how many messages were in the outbox; None if it could not be read.
    """

    retirement: Retirement
    steps: tuple[Step, ...]
    other_keys: int
    lost_messages: int | None

    @property
    def has_destroyed(self) -> bool:
        """Whether the keys are destroyed; they are not if the token is gone."""
        return not any(step.name == "destroy" and step.skipped for step in self.steps)


def retire(
    folder: Path,
    ports: OwnPorts,
    agree: Callable[[Retirement, int | None], None],
    give_up: Callable[[TokenNotFoundError], None],
    progress: Progress = lambda _: nullcontext(),
) -> Outcome:
    """Have the Thing retired, destroy the keys, and remove identity and outbox; the PIN and ``token.json`` stay.

    Args:
        folder: the state folder, which is locked during the run.
        ports: access to token and API.
        agree: called before anything is done, unless an earlier run has begun, with what is retired and with how many
            messages are in the outbox, None if it cannot be read; raises to prevent it.
        give_up: called if the token is not there; raises, unless it is gone for good and only the identity is removed.
        progress: called with each step's name; returns a context manager that is entered while the step runs.

    Raises:
        BusyError: another run has locked the folder, or the forwarder is running.
        NotEnrolledError: there is no identity to retire.
        ClockError: this machine's clock is wrong; nothing was destroyed.
        ApiTlsError: the API's certificate has expired or is not valid yet, by this machine's clock; nothing was
            destroyed.
        KeyMissingError: the token has other keys than this device's, which may be newer ones; nothing was destroyed.
        StateCorruptError: the journal and the identity contradict each other.
        RetiredLocallyError: the device is retired, but the API may not have been told.
        ThrottledError, BackendUnreachableError: the API is busy or fails; nothing was destroyed.
        HsmEnrollError: the token cannot be used, or a file not removed; the next run resumes.
    """
    with files.locked(folder), ExitStack() as stack:
        resumed = _under_way(folder)
        under_way = resumed or _begun(folder)
        _keep_from_forwarding(folder, stack)
        messages = _queued(folder)
        if resumed is None:
            agree(under_way, messages)
        clock.check(ports.clock.now())
        steps = Steps(progress)
        under_way, refusal, other_keys = _ended(under_way, folder, ports, give_up, steps, is_new=resumed is None)
        with steps.step("forget"):
            identity.remove(folder)
            renewal.close(folder)
            journal.close(folder)
            outbox.remove(folder)
            forwarder.remove(folder)
            aws_credentials.remove(folder)
            retirement.close(folder)
        if refusal is not None:
            raise _retired_locally(under_way, refusal) from refusal
        return Outcome(under_way, tuple(steps.done), other_keys, messages)


def _ended(
    under_way: Retirement,
    folder: Path,
    ports: OwnPorts,
    give_up: Callable[[TokenNotFoundError], None],
    steps: Steps,
    *,
    is_new: bool,
) -> tuple[Retirement, HsmEnrollError | None, int]:
    """Tell the API and destroy the keys; return the error if it was not told, and how many other keys are left."""
    reports = ports.tokens.start_listing([under_way.token.module])
    try:
        with steps.step("token"):
            token = selection.enrolled(under_way.token, reports)
    except TokenNotFoundError as error:
        give_up(error)
        under_way.save(folder)
        for step in ("token", "cloud", "destroy"):
            steps.skip(step)
        return under_way, None if under_way.is_told else error, 0
    with ports.tokens.session(token, ports.pin, ports.at_pin_pad, writable=True) as session:
        if is_new:
            _check_keys(under_way, session)
        under_way.save(folder)
        under_way, refusal = _told(under_way, session, folder, ports, steps, is_new=is_new)
        with steps.step("destroy"):
            for key in (*under_way.enrolled_keys, *under_way.other_keys):
                session.destroy(label=key.label, key_id=key.id)
            return under_way, refusal, len(session.own_keys())


def _keep_from_forwarding(folder: Path, stack: ExitStack) -> None:
    """Have no forwarder run meanwhile, which would lose its certificate, and none be started.

    Raises:
        BusyError: one is running.
    """
    try:
        stack.enter_context(forwarder.running(folder))
    except BusyError as error:
        error.hint = (
            "Stop it, then run the same command again. If it is the service, remove that: hsm-enroll service uninstall"
        )
        raise


def _under_way(folder: Path) -> Retirement | None:
    """Return the journal of an earlier run; None if there is none.

    Raises:
        StateCorruptError: it is damaged, or is not about the identity that is in place.
    """
    under_way = Retirement.load(folder)
    if under_way is None:
        return None
    try:
        present = Identity.load(folder)
    except (NotEnrolledError, StateCorruptError):
        return under_way
    names = (under_way.thing_name, under_way.token.label, under_way.token.serial)
    key = KeyName(present.key_label, present.key_id)
    if names != (present.thing_name, present.token.label, present.token.serial) or key not in under_way.enrolled_keys:
        raise retirement.corrupt(folder, f"it is about {under_way.thing_name}, and not about the identity in place")
    return under_way


def _begun(folder: Path) -> Retirement:
    """Return what there is to retire, by the state folder."""
    present, attempt, under_way = _identity(folder), Attempt.load(folder), Renewal.load(folder)
    keys = [KeyName(present.key_label, present.key_id)]
    others: list[KeyName] = []
    if under_way is not None:
        # Once it has been used for a message, the API may have made it the current one.
        is_proven = under_way.identity is not None
        (keys if is_proven else others).append(KeyName(under_way.key_label, under_way.key_id))
        others.append(KeyName(under_way.old_key_label, under_way.old_key_id))
    if attempt is not None:
        # Once there is a request, the API may have enrolled it.
        is_asked = attempt.csr is not None and attempt.token == present.token
        (keys if is_asked else others).append(KeyName(attempt.key_label, attempt.key_id))
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


def _identity(folder: Path) -> Identity:
    try:
        return Identity.load(folder)
    except NotEnrolledError as error:
        error.message = f"there is nothing to retire: {error.message}"
        error.args = (error.message,)
        error.hint = "If only the state folder was lost, run hsm-enroll recover first."
        raise


def _check_keys(under_way: Retirement, session: TokenSession) -> None:
    """Check that the token has a key to tell the API with, unless it has no key of ours at all.

    Raises:
        KeyMissingError: it has only others: one of them may be the current key, if the identity is an old one.
    """
    whole = {KeyName(key.label, key.id) for key in session.own_keys() if len(key.halves) > 1}
    others = whole.difference(under_way.enrolled_keys, under_way.other_keys)
    if others and whole.isdisjoint(under_way.enrolled_keys):
        raise KeyMissingError(
            f"token {under_way.token.label!r} does not have the key of {under_way.thing_name}'s identity, but "
            f"{len(others)} of hsm-enroll's others; nothing was changed",
            hint=_OLD_HINT,
        )


def _told(
    under_way: Retirement, session: TokenSession, folder: Path, ports: OwnPorts, steps: Steps, *, is_new: bool
) -> tuple[Retirement, HsmEnrollError | None]:
    """Tell the API, unless an earlier run did; return the error if it could not be told.

    A new retirement ends if nothing can have come of it: then the device is in use as before.

    Raises:
        ThrottledError, BackendUnreachableError: the API is there, and only has to be asked later.
    """
    if under_way.is_told:
        steps.skip("cloud")
        return under_way, None
    client = ports.client(under_way.api)
    client.start_opening()
    try:
        with steps.step("cloud"):
            _tell(under_way, session, client, ports)
    except HsmEnrollError as error:
        if isinstance(error, _NOT_TOLD) and not _is_busy(error) and not _is_of_the_clock(error):
            return under_way, error
        if is_new and not client.may_have_acted:
            with suppress(HsmEnrollError):
                retirement.close(folder)
        if isinstance(error, ThrottledError | BackendUnreachableError):
            raise _postponed(error) from error
        raise
    under_way = replace(under_way, is_told=True)
    under_way.save(folder)
    return under_way, None


def _tell(under_way: Retirement, session: TokenSession, client: ProofTaker, ports: OwnPorts) -> None:
    """Have the Thing retired by the key that is current, and whatever Thing an unfinished enrollment is for.

    Raises:
        HsmEnrollError: the API does not answer, or refuses each key.
    """
    refusals: list[HsmEnrollError] = []
    for key in under_way.enrolled_keys:
        try:
            with proving.asking(client, ports):
                client.retire(proving.prover(session, ports, label=key.label, key_id=key.id))
        except KeyMissingError as error:
            refusals.insert(0, error)
        except BackendRefusedError as error:
            if error.problem_code in _ANOTHER_KEY:
                refusals.append(error)
            elif error.problem_code != "thing-revoked":
                raise
    if len(refusals) == len(under_way.enrolled_keys):
        # A missing key first: it may have been the current one.
        raise refusals[0]


def _is_busy(error: HsmEnrollError) -> bool:
    return isinstance(error, BackendUnreachableError) and error.answered


def _postponed(error: ThrottledError | BackendUnreachableError) -> HsmEnrollError:
    return type(error)(
        f"the API is busy, and this device still has its key: {error.message}",
        hint="Wait a few minutes, then run the same command again.",
    )


def _is_of_the_clock(error: HsmEnrollError) -> bool:
    return isinstance(error, ApiTlsError) and error.untimely


def _retired_locally(under_way: Retirement, refusal: HsmEnrollError) -> RetiredLocallyError:
    thing = under_way.thing_name
    # None of this device's keys is the current one.
    if isinstance(refusal, BackendRefusedError) and refusal.problem_code == "key-not-current":
        return RetiredLocallyError(
            f"this device is retired, but {thing} is not: it has another key, and this device's certificate is gone",
            hint="If nobody replaced this device, somebody else may have used its key: tell the operator.",
        )
    return RetiredLocallyError(
        f"this device is retired, but the cloud may not have been told, and the certificate of {thing} may still be "
        f"active there: {refusal.message}",
        hint=f"Ask the operator to run: hsm-enroll fleet revoke {thing}",
    )
