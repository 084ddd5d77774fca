"""``hsm-enroll csr``: a certificate request for Postman, curl or another CA, signed in the token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from hsm_enroll.cli.invocation import Invocation, command, key_note, key_type_option, token_options
from hsm_enroll.device import device_token
from hsm_enroll.errors import HsmEnrollError, UsageError
from hsm_enroll.key import KEY_ID_BYTES, TokenName, key_label
from hsm_enroll.settings import Settings
from hsm_enroll.token import selection
from hsm_enroll.token.tokens import Key, Session, Tokens
from hsm_enroll.uri import Pkcs11Uri

if TYPE_CHECKING:
    from asn1crypto.x509 import Name


@command("csr", example="hsm-enroll csr --subject 'CN=gateway-17,O=Example' > gateway-17.csr")
@click.option(
    "--subject",
    "whole_subject",
    metavar="DN",
    help="The whole subject, as in RFC 4514. By default the CN is the configured Thing's name, or else the key's "
    "label, and the rest is the configured subject, such as O=Example,C=CH.",
)
@click.option("--key", "key_uri", metavar="PKCS11-URI", help="Use this key; by default a new one is generated.")
@token_options
@key_type_option
def csr(invocation: Invocation, *, whole_subject: str | None, key_uri: str | None) -> None:
    """Print a certificate request in PEM; the key's URI goes to stderr.

    For hsm-enroll's API the subject's only CN is the Thing's name. What else it has, such as OU, O or C, stays in the
    certificate and means nothing to AWS IoT; another CA has rules of its own.
    """
    wanted = None if key_uri is None else _key(key_uri)
    if wanted is not None:
        _refuse_ignored(click.get_current_context().params, wanted)
    terminal = invocation.terminal
    with Tokens() as tokens:
        found = device_token.start_finding(_settings(invocation.settings, wanted), tokens)
        # Importing this takes as long as a module takes to list its tokens.
        from hsm_enroll.x509 import csr as requests

        # First, so that no key is generated for an invalid subject.
        _subject(invocation, whole_subject, "label")
        token = found()
        if wanted is None:
            selection.require(token, invocation.settings.key_type, mqtt=False)
        with tokens.session(token, invocation.pin, invocation.at_pin_pad, writable=wanted is None) as opened:
            key = _find_or_generate(invocation, token.name, opened, wanted)
            uri = str(_uri(token.name, key))
            try:
                request = requests.build(key, _subject(invocation, whole_subject, key.label))
            except HsmEnrollError as error:
                if wanted is None and not _destroyed(opened, key):
                    error.hint = f"{error.hint} The new key is still in the token: hsm-enroll csr --key '{uri}'"
                raise
        tokens.dismiss()
    terminal.say(f"key: {uri}")
    if terminal.as_json:
        terminal.result({"csr": request, "key": {"uri": uri, "type": key.key_type.value}}, "")
    else:
        terminal.data(request)


def _destroyed(opened: Session, key: Key) -> bool:
    """Destroy a new key that no request was made with, and return whether that succeeded."""
    try:
        opened.destroy(label=key.label, key_id=key.id)
    except HsmEnrollError:
        return False
    return True


def _key(uri: str) -> Pkcs11Uri:
    try:
        key = Pkcs11Uri.parse(uri)
    except UsageError as error:
        raise UsageError(f"--key: {error.message}", hint=error.hint) from error
    if key.object is None and key.id is None:
        raise UsageError(f"--key: {uri} names no key", hint="Add object=LABEL or id=%XX… to the URI.")
    if key.type not in {None, "private", "public"}:
        raise UsageError(f"--key: type={key.type} is not a key pair", hint="Write type=private or type=public.")
    return key


def _refuse_ignored(options: Mapping[str, str | None], key: Pkcs11Uri) -> None:
    """Refuse an option for what the key's URI already says, since one of the two would be ignored."""
    says = {
        "key_type": ("an existing key", True),
        "token": ("the token", _names_token(key)),
        "token_label": ("the token", _names_token(key)),
        "module": ("the module", key.module_path is not None),
    }
    for option, (what, is_said) in says.items():
        if is_said and options[option] is not None:
            shown = f"--{option.replace('_', '-')}"
            raise UsageError(f"--key names {what}, so {shown} has no use", hint=f"Leave out {shown}.")


def _names_token(key: Pkcs11Uri) -> bool:
    return key.of_token != Pkcs11Uri()


def _settings(settings: Settings, key: Pkcs11Uri | None) -> Settings:
    """Return the settings with the token and the module that the key's URI names, if it names them."""
    if key is None:
        return settings
    token = key.of_token if _names_token(key) else settings.token
    return settings._replace(token=token, module=key.module_path or settings.module)


def _find_or_generate(invocation: Invocation, token: TokenName, opened: Session, wanted: Pkcs11Uri | None) -> Key:
    if wanted is not None:
        return opened.find(label=wanted.object, key_id=wanted.id, by_public=wanted.type == "public")
    key_id = os.urandom(KEY_ID_BYTES)
    key_type = invocation.settings.key_type
    with invocation.terminal.step("generating the key in the token", key_note(token, key_type)):
        return opened.generate(key_type, label=key_label(key_id), key_id=key_id)


def _subject(invocation: Invocation, whole: str | None, label: str) -> Name:
    from hsm_enroll.x509 import csr as requests

    if whole is not None:
        return requests.parse_subject(whole)
    return requests.subject(invocation.settings.thing or label, invocation.settings.subject)


def _uri(token: TokenName, key: Key) -> Pkcs11Uri:
    return Pkcs11Uri(token=token.label, serial=token.serial or None, object=key.label, id=key.id, type="private")
