"""Decides what a run of ``renew`` has to do, given the stored state and the API's refusals. Pure."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.store.identity import Identity
    from hsm_enroll.store.renewal import Renewal


# The API has undone the renewal, since it was not committed in time.
_UNDONE = "renewal-unknown"
_NOT_CURRENT = {"key-not-current", "thing-revoked"}
_REFUSED_KEY = {"proof-invalid", "key-reused", "key-enrolled"}


class Task(Enum):
    """What is to be done: begin a renewal, go on with the one in the journal, or only clean up after it."""

    BEGIN = auto()
    RESUME = auto()
    CLEAN_UP = auto()


class After(Enum):
    """What follows a refusal: keep the renewal for the next run, take it back, or do a step once more.

    That step is to ask for its certificate, or to commit it.
    """

    KEEP = auto()
    TAKE_BACK = auto()
    ASK_AGAIN = auto()
    COMMIT_AGAIN = auto()


def decide(identity: Identity, renewal: Renewal | None) -> Task:
    """Decide what to do about the renewal in the journal.

    Args:
        identity: the stored identity.
        renewal: the journal; None if there is none. One of an identity that is no longer there counts as none.
    """
    if renewal is None:
        return Task.BEGIN
    if renewal.key_id == identity.key_id:
        return Task.CLEAN_UP
    return Task.RESUME if renewal.old_key_id == identity.key_id else Task.BEGIN


def after_request(problem_code: str, *, may_be_current: bool) -> After:
    """Return what follows a refusal to issue the new certificate.

    Args:
        problem_code: why.
        may_be_current: whether the new key has been committed before, and the API may have carried that out late.
    """
    if problem_code == "key-not-current" and may_be_current:
        return After.COMMIT_AGAIN
    is_final = problem_code in _NOT_CURRENT | _REFUSED_KEY or problem_code.startswith("csr-")
    # Any other refusal may pass: another key's renewal ends within an hour, and an earlier try may be at work yet.
    return After.TAKE_BACK if is_final else After.KEEP


def after_commit(problem_code: str, *, is_repeated: bool) -> After:
    """Return what follows a refusal to make the new key the current one.

    Args:
        problem_code: why.
        is_repeated: whether this run has asked for the certificate once more already.
    """
    if problem_code == _UNDONE and not is_repeated:
        return After.ASK_AGAIN
    # Any other refusal does not say that the new key is not current already: an answer may have been lost, and since
    # then the ledger, which no longer knows the key; restoring it makes the key current again.
    return After.TAKE_BACK if problem_code in {_UNDONE, *_NOT_CURRENT} else After.KEEP
