"""Choose exactly one token, by label and serial, never by slot number: none or several is an error with a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from hsm_enroll.errors import ModuleMissingError, ModuleUnusableError, TokenAmbiguousError, TokenNotFoundError
from hsm_enroll.token.inventory import TokenReport
from hsm_enroll.uri import Pkcs11Uri


def choose(modules: Iterable[Path], wanted: Pkcs11Uri, list_tokens: Callable[[Path], list[TokenReport]]) -> TokenReport:
    """Return the one initialised token, over all the modules, that a URI names.

    A module that cannot be used is passed over where another one has the token; where none has, and it was the
    only module, its own error is the answer.

    Args:
        modules: where to look.
        wanted: label, serial, manufacturer and model are compared; None matches anything.
        list_tokens: ``inventory.inspect``, or ``inventory.list_tokens`` where the module is trusted not to crash.

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


def _described(wanted: Pkcs11Uri) -> str:
    named = Pkcs11Uri(token=wanted.token, serial=wanted.serial, manufacturer=wanted.manufacturer, model=wanted.model)
    return "the request" if named == Pkcs11Uri() else str(named)


def _listed(tokens: Iterable[TokenReport]) -> str:
    uris = [str(token.name.uri) for token in tokens if token.initialized]
    return "these are there: " + ", ".join(uris)
