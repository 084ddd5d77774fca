"""Choose exactly one token, by label and serial, never by slot number; errors list the tokens that were found."""

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
from hsm_enroll.token.reports import RELABEL_HINT, TokenReport
from hsm_enroll.uri import Pkcs11Uri


def choose(modules: Iterable[Path], wanted: Pkcs11Uri, list_tokens: Callable[[Path], list[TokenReport]]) -> TokenReport:
    """Return the one initialised token of the given modules that a URI names.

    A module that cannot be used is skipped, unless it is the only one; if no token matches, the error mentions it.

    Args:
        modules: the modules to search.
        wanted: its label, serial, manufacturer and model are compared; None matches anything.
        list_tokens: ``Tokens.listed``, or what ``Tokens.start_listing`` returned.

    Raises:
        ModuleMissingError, ModuleUnusableError: there is no module, or the only one cannot be used.
        TokenNotFoundError: no initialised token matches.
        TokenAmbiguousError: several match.
    """
    paths = list(modules)
    if not paths:
        raise ModuleMissingError("no PKCS#11 module was found on this machine")
    tokens: list[TokenReport] = []
    unusable: list[HsmEnrollError] = []
    for path in paths:
        try:
            tokens += list_tokens(path)
        except (ModuleMissingError, ModuleUnusableError) as error:
            if len(paths) == 1:
                raise
            unusable.append(error)
    matching = [token for token in tokens if token.initialized and matches(token, wanted)]
    if not any(token.initialized for token in tokens):
        hint = unusable[0].hint if unusable else None
        raise TokenNotFoundError(f"this machine has no initialised token{_also(unusable)}", hint=hint)
    if not matching:
        raise TokenNotFoundError(f"no token matches {_described(wanted)}; found: {_listed(tokens)}{_also(unusable)}")
    if len(matching) > 1:
        raise TokenAmbiguousError(f"{len(matching)} tokens match {_described(wanted)}: {_listed(matching)}")
    return matching[0]


def enrolled(name: TokenName, list_tokens: Callable[[Path], list[TokenReport]]) -> TokenReport:
    """Return an enrolled device's token, found as awscrt finds it: by its label, which must be unique.

    Args:
        name: which token.
        list_tokens: as for :func:`choose`.

    Raises:
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, TokenAmbiguousError: as :func:`choose`.
    """
    report = choose([name.module], Pkcs11Uri(token=name.label), list_tokens)
    if report.name.serial != name.serial:
        raise TokenNotFoundError(
            f"token {name.label!r} with serial {name.serial} was not found; another token has that label"
        )
    return report


def refuse_taken_label(tokens: Iterable[TokenReport], label: str) -> None:
    """Check that no token has a label.

    Raises:
        TokenAmbiguousError: one has it.
    """
    if any(token.initialized and token.name.label == label for token in tokens):
        raise TokenAmbiguousError(
            f"a token labelled {label!r} already exists",
            hint="Choose another label, or use that token.",
        )


def require(token: TokenReport, key_type: KeyType, *, mqtt: bool) -> None:
    """Check that a token supports a key type, before anything is journalled or generated.

    Does *not* notice that a token lacks a curve; see ``capabilities.Capabilities``.

    Args:
        token: the token, as its module described it.
        key_type: type of the key that will be generated.
        mqtt: whether awscrt will use the key.

    Raises:
        ModuleUnusableError, TokenAmbiguousError: awscrt could not use the module, or several tokens have the label.
        TokenRefusedError: the token's label is not UTF-8; or the token does not support the key type, and the hint
            names those it supports.
    """
    label = token.name.label
    if not token.label_is_utf8:
        raise TokenRefusedError(
            f"the label of token {label!r} is not valid UTF-8, so no program finds a key by it", hint=RELABEL_HINT
        )
    if key_type not in token.key_types:
        raise _unsupported(f"token {label!r} does not support keys of type {key_type}", token.key_types)
    if not mqtt:
        return
    if token.mqtt_obstacle is not None:
        raise HsmEnrollError.of_document(token.mqtt_obstacle)
    if key_type not in token.mqtt_key_types:
        message = f"MQTT cannot use keys of type {key_type} in token {label!r}: it lacks {key_type.tls_mechanism}"
        raise _unsupported(message, token.mqtt_key_types)


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


def _unsupported(message: str, supported: tuple[KeyType, ...]) -> TokenRefusedError:
    if not supported:
        return TokenRefusedError(message, hint="The token supports none of AWS IoT's key types: use another token.")
    return TokenRefusedError(message, hint=f"The token supports {', '.join(supported)}: choose one with --key-type.")


def _described(wanted: Pkcs11Uri) -> str:
    return "the request" if wanted.of_token == Pkcs11Uri() else str(wanted.of_token)


def _also(unusable: Iterable[HsmEnrollError]) -> str:
    return "".join(f"; {error.message}" for error in unusable)


def _listed(tokens: Iterable[TokenReport]) -> str:
    return ", ".join(str(token.name.uri) for token in tokens if token.initialized)
