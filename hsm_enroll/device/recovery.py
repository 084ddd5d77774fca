"""The use case: get the identity back when the state folder is lost or out of date, or the disk with the keys.

The key proves which device this is, and the API returns its certificate: nothing is issued. If the token has no key any
more, the TPM proves it, and the same Thing gets a new key. No invite is needed.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hsm_enroll.device import clock, obtaining, proving
from hsm_enroll.device.pending import refuse_while_retiring
from hsm_enroll.device.steps import Progress, Step, Steps
from hsm_enroll.errors import (
    BackendRefusedError,
    HsmEnrollError,
    KeyAmbiguousError,
    KeyMissingError,
    NotEnrolledError,
    StateCorruptError,
    TokenNotFoundError,
)
from hsm_enroll.store import files, journal, renewal
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.token import selection
from hsm_enroll.token.tpm2 import is_tpm2

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsm_enroll.backend_api.client import Issued
    from hsm_enroll.device import enrollment
    from hsm_enroll.device.ports import OwnPorts, ProofTaker, TokenSession
    from hsm_enroll.token.reports import OwnKey, TokenReport

# The API's problem codes for a key that is not the one that is looked for; another one may be.
_NOT_THIS_KEY = {"proof-invalid", "key-not-current", "thing-revoked"}
# The operator has not listed this TPM, and it is no Thing's; an open API also says why it trusts no stranger.
_TPM_UNKNOWN = {"ek-unknown", "ek-untrusted", "ek-expired", "ek-unsuitable"}
# Steps of an enrollment that a recovery does not have.
_NOT_OURS = {"invite", "message"}
_NO_KEY_HINT = (
    "Check that it is the right token: hsm-enroll tokens. If it is, ask the operator to run hsm-enroll fleet replace "
    "THING, which prints an invite; then run: hsm-enroll init"
)
_REPLACED_HINT = (
    "Another key, which this token does not have, took its place. If this board was replaced, it is out of service; to "
    "use it again, ask the operator for an invite (hsm-enroll fleet replace THING), then run: hsm-enroll init "
    "--new-key INVITE. If nobody replaced it, somebody else may have used its key: tell the operator."
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        identity: the device's identity.
        steps: ``token``, ``certificate`` and ``store``, in this order; those of an enrollment if a certificate was
            issued; none if the identity was there.
        was_there: whether the identity that the API has was in place, so that nothing was changed.
        other_keys: how many other keys of this program the token has that are not in use; 0 if the identity was there.
        other_things: the other Things whose current keys the token has; none if the identity was there.
        may_be_renewing: whether another key of the Thing is in the token, and no journal says why: it is an old one, or
            that of a renewal whose journal was lost, and which the API undoes after some time.
        was_issued: whether the token had no key, and the TPM has proven which Thing this is, which has a new key now.
    """

    identity: Identity
    steps: tuple[Step, ...]
    was_there: bool
    other_keys: int = 0
    other_things: tuple[str, ...] = ()
    may_be_renewing: bool = False
    was_issued: bool = False


class _Keyless(NamedTuple):
    """A token that has no key of this device.

    Attributes:
        token: the token.
        stored: the identity in place, whose key is lost; None if there is none.
        error: what to tell if its TPM does not help.
    """

    token: TokenReport
    stored: Identity | None
    error: KeyMissingError | BackendRefusedError


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the API says about the token's keys: those that are a Thing's current key, and why the others are not."""

    current: tuple[tuple[OwnKey, Issued], ...]
    refusals: tuple[BackendRefusedError, ...]

    @property
    def things(self) -> list[str]:
        return sorted({issued.thing_name for _, issued in self.current})

    @property
    def have_another_key(self) -> bool:
        """Whether a key is a Thing's that has another one now, or not this one yet."""
        return any(error.problem_code == "key-not-current" for error in self.refusals)


def recover(
    folder: Path,
    ports: OwnPorts,
    find: Callable[[], Callable[[], TokenReport]],
    api: Callable[[Identity | None], str],
    thing: Callable[[Identity | None], str | None],
    by_tpm: Callable[[Identity | None], enrollment.Outcome],
    progress: Progress = lambda _: nullcontext(),
) -> Outcome:
    """Find the key in the token that the API has enrolled, and store its identity.

    If the token has no key, and is in a TPM, the TPM is asked to prove which Thing this is.

    An identity that is the API's too is left as it is. Anything else in its place is replaced, for example one from a
    backup. Damaged journals are removed then. The token may have the keys of several Things: this device never becomes
    another one than `thing` says.

    Args:
        folder: the state folder, which is locked during the run.
        ports: access to token and API.
        find: starts looking for the token; called only if there is no identity whose key the token has.
        api: returns the API's base URL; it is given the identity in place, valid or not, if it can be read.
        thing: returns the Thing that this device is, or None if nothing says so; is given what `api` is given.
        by_tpm: enrolls this device by its TPM, with a new key; is given what `api` is given.
        progress: called with each step's name; returns a context manager that is entered while the step runs.

    Raises:
        BusyError: another run has locked the folder.
        UsageError: this device is being retired, or no API is known.
        ClockError: this machine's clock is wrong.
        KeyMissingError: the token has no key of this program, nor a TPM that the API knows; or only other Things' keys.
        KeyAmbiguousError: the token has the keys of several Things, and nothing says which of them this device is.
        BackendRefusedError: the API has not enrolled any of its keys, or none for this Thing.
        HsmEnrollError: token or API cannot be used.
    """
    with files.locked(folder):
        found = _found(folder, ports, find, api, thing, progress)
        if isinstance(found, Outcome):
            return found
        if (obstacle := ports.tpm.obstacle(found.token.name)) is not None:
            if is_tpm2(found.token.name):
                _add(found.error, f"nor can its TPM prove which Thing this is: {obstacle.message}")
                found.error.hint = f"{obstacle.hint} Then run hsm-enroll recover again. Or else: {found.error.hint}"
            raise found.error
        _forget_renewal(folder, found.token)
    try:
        enrolled = by_tpm(found.stored)
    except BackendRefusedError as error:
        if error.problem_code not in _TPM_UNKNOWN:
            raise
        _add(found.error, f"nor does the API know its TPM: {error.message}")
        raise found.error from error
    steps = tuple(step for step in enrolled.steps if step.name not in _NOT_OURS)
    return Outcome(enrolled.identity, steps, was_there=False, was_issued=True)


def _add(error: HsmEnrollError, what: str) -> None:
    """Let an error end with what else was tried."""
    error.message = f"{error.message}; {what}"
    error.args = (error.message,)


def _found(
    folder: Path,
    ports: OwnPorts,
    find: Callable[[], Callable[[], TokenReport]],
    api: Callable[[Identity | None], str],
    thing: Callable[[Identity | None], str | None],
    progress: Progress,
) -> Outcome | _Keyless:
    """Find the key in the token that the API has enrolled, and store its identity; arguments as for :func:`recover`."""
    refuse_while_retiring(folder)
    stored = _stored(folder)
    present = stored if stored is not None and _has_key(stored, ports) else None
    clock.check(ports.clock.now())
    steps = Steps(progress)
    found = find() if present is None else partial(selection.enrolled, present.token, ports.tokens.listed)
    client = ports.client(api(stored))
    client.start_opening()
    with steps.step("token"):
        token = found()
    with ports.tokens.session(token, ports.pin, ports.at_pin_pad) as session:
        keys = session.own_keys()
        whole = [key for key in keys if len(key.halves) > 1 and key.key_type is not None]
        if not whole:
            return _Keyless(token, stored, _no_key(token, stored))
        # The identity's own comes first.
        whole.sort(key=lambda key: present is None or key.id != present.key_id)
        with steps.step("certificate"):
            answers = _asked(whole, session, client, ports)
            try:
                own, issued = _chosen(answers, thing(stored), token)
            except BackendRefusedError as error:
                if answers.things or not _are_under_way(whole, folder):
                    raise
                return _Keyless(token, stored, error)
        key = session.find(label=own.label, key_id=own.id)
    obtaining.check_issued(issued, key, ports.clock.now())
    identity = obtaining.identity(issued, token.name, key, client.base_url)
    if present is not None and identity == present:
        present.save_copy(folder)
        is_lost = _readable_journals(folder, ports) is None and answers.have_another_key
        return Outcome(present, (), was_there=True, may_be_renewing=is_lost)
    with steps.step("store"):
        identity.save(folder)
        others = len(keys) - len(answers.current) - _forget(folder, identity, ports)
    other_things = tuple(name for name in answers.things if name != identity.thing_name)
    is_lost = answers.have_another_key and Renewal.load(folder) is None
    return Outcome(
        identity,
        tuple(steps.done),
        was_there=False,
        other_keys=others,
        other_things=other_things,
        may_be_renewing=is_lost,
    )


def _stored(folder: Path) -> Identity | None:
    """Return the stored identity; None if there is none, or it is damaged."""
    try:
        return Identity.load(folder)
    except (NotEnrolledError, StateCorruptError):
        return None


def _has_key(identity: Identity, ports: OwnPorts) -> bool:
    try:
        public_key = ports.tokens.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
        obtaining.check_key(identity, public_key)
    except (KeyMissingError, TokenNotFoundError):
        return False
    return True


def _no_key(token: TokenReport, stored: Identity | None) -> KeyMissingError:
    return KeyMissingError(
        f"token {token.name.label!r} has no key that hsm-enroll generated, so there is nothing to recover",
        hint=f"{_NO_KEY_HINT} INVITE" if stored is None else f"{_NO_KEY_HINT} --new-key INVITE",
    )


def _are_under_way(keys: list[OwnKey], folder: Path) -> bool:
    """Whether there is no key but that of an enrollment which was cut off, perhaps one by the TPM."""
    try:
        attempt = Attempt.load(folder)
    except StateCorruptError:
        return False
    return attempt is not None and {key.id for key in keys} == {attempt.key_id}


def _forget_renewal(folder: Path, token: TokenReport) -> None:
    """Remove the journal of a renewal whose keys this token has lost."""
    with suppress(StateCorruptError):
        under_way = Renewal.load(folder)
        if under_way is None or under_way.token.label != token.name.label:
            return
    renewal.close(folder)


def _asked(keys: list[OwnKey], session: TokenSession, client: ProofTaker, ports: OwnPorts) -> _Answers:
    """Ask the API about each key: one that it has enrolled may be another Thing's."""
    current: list[tuple[OwnKey, Issued]] = []
    refusals: list[BackendRefusedError] = []
    for key in keys:
        prove = proving.prover(session, ports, label=key.label, key_id=key.id)
        try:
            with proving.asking(client, ports):
                current.append((key, client.recover(prove)))
        except BackendRefusedError as error:
            if error.problem_code not in _NOT_THIS_KEY:
                raise
            refusals.append(error)
    return _Answers(tuple(current), tuple(refusals))


def _chosen(answers: _Answers, thing: str | None, token: TokenReport) -> tuple[OwnKey, Issued]:
    """Return this device's key and its certificate.

    Raises:
        KeyMissingError, KeyAmbiguousError, BackendRefusedError: see :func:`recover`.
    """
    label, things, refusals = token.name.label, answers.things, answers.refusals
    if not things:
        message = f"none of this token's {len(refusals)} keys is enrolled: " if len(refusals) > 1 else ""
        raise _refused(refusals, message) from refusals[-1]
    if thing is None and len(things) > 1:
        raise KeyAmbiguousError(
            f"token {label!r} has the keys of {len(things)} Things: {', '.join(things)}",
            hint="Say which of them this device is: hsm-enroll recover --thing NAME",
        )
    for own, issued in answers.current:
        if thing in {None, issued.thing_name}:
            return own, issued
    only = f"token {label!r} has the current key of {', '.join(things)}, but not of {thing}"
    on_purpose = f"To have this device become {things[0]} on purpose: hsm-enroll recover --thing {things[0]}"
    if refusals:
        raise _refused(refusals, f"{only}: ", on_purpose) from refusals[-1]
    raise KeyMissingError(only, hint=f"{_NO_KEY_HINT} --new-key INVITE. {on_purpose}")


def _refused(refusals: tuple[BackendRefusedError, ...], message: str, advice: str = "") -> BackendRefusedError:
    """Return the error for keys that are not this device's, with what the refusal says that says most."""
    most = next((error for error in refusals if error.problem_code != "proof-invalid"), refusals[0])
    hint = _REPLACED_HINT if most.problem_code == "key-not-current" else most.hint
    return BackendRefusedError(
        message + most.message,
        problem_code=most.problem_code,
        request_id=most.request_id,
        hint=f"{hint} {advice}".strip(),
    )


def _readable_journals(folder: Path, ports: OwnPorts) -> Renewal | None:
    """Remove the journals that are damaged, and return the renewal's."""
    try:
        Attempt.load(folder)
    except StateCorruptError as error:
        ports.audience.warn(f"{error.message}; it is removed, since this device is enrolled")
        journal.close(folder)
    try:
        return Renewal.load(folder)
    except StateCorruptError as error:
        ports.audience.warn(f"{error.message}; it is removed, since this device is enrolled")
        renewal.close(folder)
        return None


def _forget(folder: Path, identity: Identity, ports: OwnPorts) -> int:
    """Remove the journals of another identity, and return how many keys beside this one's are still in use."""
    under_way = _readable_journals(folder, ports)
    journal.close(folder)
    if under_way is None:
        return 0
    if identity.key_id in {under_way.key_id, under_way.old_key_id}:
        return 1
    renewal.close(folder)
    return 0
