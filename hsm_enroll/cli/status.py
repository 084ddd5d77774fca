"""``hsm-enroll status``: what this device holds. Reads files and the token's public side; never logs in."""

from __future__ import annotations

from hsm_enroll.cli.documents import identity_document, identity_text
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.store.identity import Identity
from hsm_enroll.token.tokens import Tokens


@command("status", example="hsm-enroll status --json")
def status(invocation: Invocation) -> None:
    """Show what this device holds; exit 3 when it is not enrolled.

    It looks at the token's public key and asks for no PIN: a monitor may call it often. The topics are those of the
    built-in policy; the operator's own may differ.
    """
    identity = Identity.load(invocation.settings.state)
    with Tokens() as tokens:
        shown = tokens.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
    matches = shown == bytes(identity.certificate.public_key.dump())
    document = identity_document(identity, invocation.settings.state, matches_certificate=matches)
    invocation.terminal.result(document, identity_text(document))
    if not matches:
        invocation.terminal.warn("the token's key is not the certificate's. Run: hsm-enroll doctor")
