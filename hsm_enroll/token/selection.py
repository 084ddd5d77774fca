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
from hsm_enroll.token import diagnosis
from hsm_enroll.token.reports import RELABEL_HINT, TokenKind, TokenReport
from hsm_enroll.uri import Pkcs11Uri

_NOTHING = "this machine has no initialised token"


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
    working: list[Path] = []
    unusable: list[HsmEnrollError] = []
    for path in paths:
        try:
            tokens += list_tokens(path)
            working.append(path)
        except (ModuleMissingError, ModuleUnusableError) as error:
            if len(paths) == 1:
                raise
            unusable.append(error)
    matching = [token for token in tokens if token.initialized and matches(token, wanted)]
    if not matching:
        raise _none(working, wanted, tokens, unusable)
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
    try:
        report = choose([name.module], Pkcs11Uri(token=name.label), list_tokens)
    except TokenNotFoundError as error:
        if error.hint != TokenNotFoundError.default_hint:
            raise
        raise TokenNotFoundError(error.message, hint=diagnosis.GONE_HINT) from error
    if report.name.serial != name.serial:
        raise TokenNotFoundError(f"{diagnosis.not_found(name)}; another token has that label", hint=diagnosis.GONE_HINT)
    return report


def for_mqtt(name: TokenName, list_tokens: Callable[[Path], list[TokenReport]]) -> TokenReport:
    """Return an enrolled device's token, as :func:`enrolled` does, and check that MQTT can use it.

    Raises:
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, TokenAmbiguousError, TokenRefusedError: as for
            :func:`enrolled`, or MQTT cannot use the module or the token.
    """
    report = enrolled(name, list_tokens)
    _refuse_obstacle(report)
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


def require_free_slot(tokens: Iterable[TokenReport], module: Path, kind: TokenKind) -> None:
    """Check that a module has a slot in which a token can be created, before anything is written.

    Args:
        tokens: what the module lists.
        module: its file.
        kind: the kind of token.

    Raises:
        TokenRefusedError: it has none.
    """
    if not any(token.creates is kind for token in tokens):
        raise TokenRefusedError(
            f"{module} has no free slot for a new token of kind {kind}",
            hint="token create works with SoftHSM, and with --backend tpm2 with tpm2-pkcs11. Initialise any other "
            "token with its own tool, then name it with --token.",
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
    _refuse_obstacle(token)
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


def _refuse_obstacle(token: TokenReport) -> None:
    if token.mqtt_obstacle is not None:
        raise HsmEnrollError.of_document(token.mqtt_obstacle)


def _unsupported(message: str, supported: tuple[KeyType, ...]) -> TokenRefusedError:
    if not supported:
        return TokenRefusedError(message, hint="The token supports none of AWS IoT's key types: use another token.")
    return TokenRefusedError(message, hint=f"The token supports {', '.join(supported)}: choose one with --key-type.")


def _none(
    working: list[Path], wanted: Pkcs11Uri, tokens: list[TokenReport], unusable: list[HsmEnrollError]
) -> TokenNotFoundError:
    """Return the error for no match: what was found instead, and what may hide the token."""
    initialized = [token for token in tokens if token.initialized]
    absences = diagnosis.lost(token.name for token in tokens)
    absences += diagnosis.absences(working, with_token={token.name.module for token in initialized})
    reasons = [fault.message for fault in absences] + [error.message for error in unusable]
    # Whole URIs only where more than label and serial may be what differs: they are hard to read.
    there = _listed(tokens) if wanted.manufacturer or wanted.model else _named(initialized)
    found = f"no token matches {_described(wanted)} (found: {there})" if initialized else _NOTHING
    hint = absences[0].hint if absences else None
    if hint is None and unusable and not initialized:
        # A module that works and has a free slot may be the one that is meant.
        create = " Or create a token: hsm-enroll token create --label LABEL" if tokens else ""
        hint = f"{unusable[0].hint}{create}"
    return TokenNotFoundError("; ".join([found, *reasons]), hint=hint)


def _described(wanted: Pkcs11Uri) -> str:
    return "the request" if wanted.of_token == Pkcs11Uri() else str(wanted.of_token)


def _named(tokens: Iterable[TokenReport]) -> str:
    return ", ".join(f"{token.name.label!r} with serial {token.name.serial}" for token in tokens)


def _listed(tokens: Iterable[TokenReport]) -> str:
    return ", ".join(str(token.name.uri) for token in tokens if token.initialized)
