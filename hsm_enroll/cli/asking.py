"""What ``init`` asks a person for if the command line and the configuration do not say it."""

from __future__ import annotations

from pathlib import Path

from hsm_enroll.backend_api.invite import Invite, parse
from hsm_enroll.cli.terminal import ask, ask_secret
from hsm_enroll.device import pin
from hsm_enroll.errors import NotEnrolledError, UsageError
from hsm_enroll.settings import Settings
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.token.tpm2 import attestation


def invite() -> Invite:
    """Prompt without echo, which keeps the invite out of the scrollback; its check character catches typing errors.

    Raises:
        UsageError: there is no input, or it is not an invite.
    """
    return parse(_typed("Invite (input is hidden): "))


def invite_or_thing(settings: Settings, *, new_key: bool) -> tuple[Invite | None, str | None]:
    """Prompt for the invite where only an API is configured, or else for the Thing's name: the API may be open.

    A run that has nothing to enroll needs neither, one that resumes has the name, and a TPM may stand in for both.

    Args:
        settings: the resolved settings.
        new_key: whether an enrolled device is to be enrolled again.

    Returns:
        The invite, if the user has one; and the Thing's name, which is the settings' unless it was asked for.

    Raises:
        UsageError: there is no input, or it is not an invite.
    """
    is_enrolled = _is_enrolled(settings.state)
    if settings.api_url is None or settings.thing is not None or (is_enrolled and not new_key):
        return None, settings.thing
    if _has_tpm(settings):
        return None, None
    if typed := _typed("Invite (input is hidden; press Enter if you have none): "):
        return parse(typed), None
    attempt = Attempt.load(settings.state)
    is_named = is_enrolled or (attempt is not None and attempt.csr is not None)
    return None, None if is_named else ask("Name of the Thing:")


def _is_enrolled(state: Path) -> bool:
    try:
        Identity.load(state)
    except NotEnrolledError:
        return False
    return True


def _has_tpm(settings: Settings) -> bool:
    """Whether the token that ``token create`` created, and that nothing overrides, is in a TPM that can attest keys."""
    if settings.token is not None or settings.module is not None:
        return False
    owner = pin.load_owner(settings.state)
    return owner is not None and attestation.is_possible(owner) is None


def _typed(prompt: str) -> str:
    try:
        return ask_secret(prompt).strip()
    except EOFError as error:
        raise UsageError("no invite given", hint="Run: hsm-enroll init INVITE") from error
