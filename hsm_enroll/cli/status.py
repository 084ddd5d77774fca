"""``hsm-enroll status``: this device's identity. Reads files and the token's public objects; never logs in."""

from __future__ import annotations

from hsm_enroll.cli.documents import identity_document, identity_text
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.store.identity import Identity
from hsm_enroll.token.tokens import Tokens


@command("status", example="hsm-enroll status --json")
def status(invocation: Invocation) -> None:
    """Show this device's identity; exit 3 if it is not enrolled.

    It reads the token's public key and requires no PIN, so monitoring can run it often. The topics are those of the
    built-in policy; an operator's own policy may differ.
    """
    identity = Identity.load(invocation.settings.state)
    with Tokens() as tokens:
        public_key = tokens.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
    matches = public_key == bytes(identity.certificate.public_key.dump())
    document = identity_document(identity, invocation.settings.state, matches_certificate=matches)
    invocation.terminal.result(document, identity_text(document))
    if not matches:
        invocation.terminal.warn("the token's key does not match the certificate. Run: hsm-enroll doctor")
