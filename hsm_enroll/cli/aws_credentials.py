"""``hsm-enroll aws-credentials``: what AWS's SDKs and the AWS CLI run as a ``credential_process``."""

from __future__ import annotations

from functools import partial

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.device import credentials
from hsm_enroll.errors import PinMissingError
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.secret import Secret
from hsm_enroll.store.aws_credentials import AwsCredentials
from hsm_enroll.store.identity import Identity


@command("aws-credentials", example="hsm-enroll aws-credentials")
def aws_credentials(invocation: Invocation) -> None:
    """Print AWS credentials that this device's key gets, as AWS's SDKs read them from a credential_process.

    They are those of the role that the backend has for devices. They end after an hour; until shortly before, they are
    kept in the state folder, and no login to the token is needed. The output is the same JSON with and without --json.
    """
    settings, terminal = invocation.settings, invocation.terminal
    identity = Identity.load(settings.state)
    alias = credentials.alias_of(identity, settings)

    def current(typed: Secret | None = None) -> AwsCredentials:
        fetch = partial(_fetched, invocation, identity, typed)
        return credentials.current(identity, alias, settings.state, fetch, terminal.warn)

    try:
        found = current()
    except PinMissingError:
        # A person is asked, if there is one, while no other process has to wait for this one.
        found = current(invocation.pin(identity.token))
    terminal.data(found.to_process_output() + "\n")


def _fetched(invocation: Invocation, identity: Identity, typed: Secret | None, alias: RoleAlias) -> AwsCredentials:
    from hsm_enroll.cli.terminal import keep_stdout
    from hsm_enroll.device import wiring

    terminal, settings = invocation.terminal, invocation.settings
    pin_source = wiring.unattended(settings) if typed is None else lambda _: typed
    pin = wiring.credentials(identity, pin_source, invocation.at_pin_pad)
    keep_stdout()
    with (
        terminal.step(f"getting AWS credentials from {alias.endpoint}"),
        terminal.waiting(f"the credentials provider at {alias.provider}", settings.connect_timeout),
    ):
        return wiring.aws_credentials(identity, alias, pin, settings)
