"""``hsm-enroll aws-credentials``: what AWS's SDKs and the AWS CLI run as a ``credential_process``."""

from __future__ import annotations

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.device import credentials
from hsm_enroll.role_alias import RoleAlias
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

    def fetch(alias: RoleAlias) -> AwsCredentials:
        return _fetched(invocation, identity, alias)

    current = credentials.current(identity, alias, settings.state, fetch, terminal.warn)
    terminal.data(current.to_process_output() + "\n")


def _fetched(invocation: Invocation, identity: Identity, alias: RoleAlias) -> AwsCredentials:
    from hsm_enroll.cli.terminal import keep_stdout
    from hsm_enroll.device import wiring

    terminal, settings = invocation.terminal, invocation.settings
    pin = wiring.credentials(identity, invocation.pin, invocation.at_pin_pad)
    keep_stdout()
    with (
        terminal.step(f"getting AWS credentials from {alias.endpoint}"),
        terminal.waiting(f"the credentials provider at {alias.provider}", settings.connect_timeout),
    ):
        return wiring.aws_credentials(identity, alias, pin, settings)
