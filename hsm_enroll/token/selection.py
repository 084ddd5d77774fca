"""Choose exactly one token, by label and serial, never by slot number: none or several is an error with a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from hsm_enroll.errors import (
    HsmEnrollError,
    ModuleMissingError,
    ModuleUnusableError,
    TokenAmbiguousError,
    TokenNotFoundError,
    TokenRefusedError,
)
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.uri import Pkcs11Uri


def choose(modules: Iterable[Path], wanted: Pkcs11Uri, list_tokens: Callable[[Path], list[TokenReport]]) -> TokenReport:
    """Return the one initialised token, over all the modules, that a URI names.

    A module that cannot be used is passed over where another one has the token; where none has, and it was the
    only module, its own error is the answer.

    Args:
        modules: where to look.
        wanted: label, serial, manufacturer and model are compared; None matches anything.
        list_tokens: ``Tokens.listed``, or what ``Tokens.look`` has returned.

    Raises:
        ModuleMissingError, ModuleUnusableError: there is no module to ask.
        TokenNotFoundError: no token matches, or the one that does is not initialised.
        TokenAmbiguousError: several match.
    """
    paths = list(modules)
    if not paths:
        raise ModuleMissingError("no PKCS#11 module was found on this machine")
    tokens: list[TokenReport] = []
    for path in paths:
        try:
            tokens += list_tokens(path)
        except (ModuleMissingError, ModuleUnusableError):
            if len(paths) == 1:
                raise
    matching = [token for token in tokens if token.initialized and matches(token, wanted)]
    if not any(token.initialized for token in tokens):
        raise TokenNotFoundError("this machine has no token")
    if not matching:
        raise TokenNotFoundError(f"no token matches {_described(wanted)}; {_listed(tokens)}")
    if len(matching) > 1:
        raise TokenAmbiguousError(f"{len(matching)} tokens match {_described(wanted)}: {_listed(matching)}")
    return matching[0]


def enrolled(name: TokenName, list_tokens: Callable[[Path], list[TokenReport]]) -> TokenReport:
    """Return an enrolled device's token, as awscrt will find it: by its label, which has to be the only one.

    Args:
        name: which token.
        list_tokens: as for :func:`choose`.

    Raises:
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, TokenAmbiguousError: as :func:`choose`.
    """
    report = choose([name.module], Pkcs11Uri(token=name.label), list_tokens)
    if report.name.serial != name.serial:
        raise TokenNotFoundError(
            f"token {name.label!r} with serial {name.serial} is not there; another one has its label"
        )
    return report


def refuse_taken_label(tokens: Iterable[TokenReport], label: str) -> None:
    """See that no token has a label.

    Raises:
        TokenAmbiguousError: one has.
    """
    if any(token.initialized and token.name.label == label for token in tokens):
        raise TokenAmbiguousError(
            f"a token labelled {label!r} exists already",
            hint="Choose another label, or use that token.",
        )


def require(token: TokenReport, key_type: KeyType, *, mqtt: bool) -> None:
    """Refuse a key type that a token does not handle, before anything is journalled or made.

    Does *not* find out a curve that the token lacks; see ``capabilities.Capabilities``. The curves that awscrt lacks
    are no ``KeyType``.

    Args:
        token: as it has shown itself.
        key_type: what is to be made.
        mqtt: whether awscrt is to use it.

    Raises:
        ModuleUnusableError, TokenAmbiguousError: awscrt could not use the module, or goes by a label that two have.
        TokenRefusedError: the token does not handle the key type; the hint names those that it does.
    """
    label = token.name.label
    if key_type not in token.key_types:
        raise _unable(f"token {label!r} makes no keys of type {key_type}", token.key_types)
    if not mqtt:
        return
    if token.mqtt_obstacle is not None:
        raise HsmEnrollError.of_document(token.mqtt_obstacle)
    if key_type not in token.mqtt_key_types:
        message = f"token {label!r} does not sign for MQTT with keys of type {key_type}: it has no CKM_RSA_PKCS"
        raise _unable(message, token.mqtt_key_types)


def matches(token: TokenReport, wanted: Pkcs11Uri) -> bool:
    """Whether the token's label, serial, manufacturer and model are those of the URI (RFC 7512 §2.5)."""
    return all(
        attribute is None or attribute == value
        for attribute, value in (
            (wanted.token, token.name.label),
            (wanted.serial, token.name.serial),
            (wanted.manufacturer, token.name.manufacturer),
            (wanted.model, token.name.model),
        )
    )


def _unable(message: str, able: tuple[KeyType, ...]) -> TokenRefusedError:
    if not able:
        return TokenRefusedError(message, hint="It has no mechanisms for any key type of AWS IoT: use another token.")
    return TokenRefusedError(message, hint=f"It can do {', '.join(able)}: give one of these as --key-type.")


def _described(wanted: Pkcs11Uri) -> str:
    named = Pkcs11Uri(token=wanted.token, serial=wanted.serial, manufacturer=wanted.manufacturer, model=wanted.model)
    return "the request" if named == Pkcs11Uri() else str(named)


def _listed(tokens: Iterable[TokenReport]) -> str:
    uris = [str(token.name.uri) for token in tokens if token.initialized]
    return "these are there: " + ", ".join(uris)
