"""What every command receives: the terminal, the settings and the source of a PIN."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

import click

from hsm_enroll import settings
from hsm_enroll.cli import signals
from hsm_enroll.cli.terminal import Terminal, ask_secret, has_person
from hsm_enroll.key import KeyType, TokenName, key_type_help
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings

_SETTINGS_PARAMETERS = {"module", "token", "thing", "api_url", "key_type", "subject"}


class Invocation(NamedTuple):
    """One run of a command.

    Attributes:
        terminal: writes the command's output.
        settings: resolved from options, environment, file and defaults.
    """

    terminal: Terminal
    settings: Settings

    def pin(self, token: TokenName) -> Secret:
        """Return a token's PIN, from the first source that has one.

        Raises:
            PinMissingError, PinExposedError, StateError: as ``pin.resolve``.
        """
        from hsm_enroll.device import pin

        ask = None
        if has_person() and not self.terminal.as_json:
            ask = partial(_ask, token)
        saved = partial(pin.saved_pin, self.settings.state, token)
        return pin.resolve(self.settings.pin_file, os.environ, saved_pin=saved, ask=ask)

    def at_pin_pad(self, token: TokenName) -> None:
        """Tell the user that the token is waiting for its PIN at its own keypad."""
        self.terminal.say(f"Enter the PIN of token {token.label!r} at the token itself.")


def _ask(token: TokenName) -> Secret:
    from hsm_enroll.token.tpm2 import lockout

    # Nobody should type a PIN that may not be tried.
    lockout.refuse_last_try(token)
    return Secret(ask_secret(f"PIN of token {token.label!r}: "))


def command(name: str, *, example: str) -> Callable[[Callable[..., None]], click.Command]:
    """Turn a function into a command with ``--json``, ``--verbose`` and ``--quiet``; it gets an :class:`Invocation`.

    Options with the name of a setting (``--module``, ``--api`` as ``api_url`` …) go into the settings, all others to
    the function.

    Args:
        name: the command's name.
        example: an example command line for ``--help``.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def run(*, as_json: bool, verbose: bool, quiet: bool, **parameters: Any) -> None:
            # Disabled by ``__main__`` while the command was loaded.
            gc.freeze()
            gc.enable()
            with signals.raised():
                terminal = Terminal(as_json=as_json, verbose=verbose, quiet=quiet)
                options = {key: parameters.pop(key) for key in _SETTINGS_PARAMETERS & parameters.keys()}
                if label := parameters.pop("token_label", None):
                    options["token"] = _token_uri(label, options.get("token"))
                function(Invocation(terminal, settings.load(os.environ, options)), **parameters)

        epilog = f"\b\nExample:\n  {example}"
        settings_ = {"help_option_names": ["-h", "--help"]}
        decorated = click.command(name, epilog=epilog, short_help=_summary(function), context_settings=settings_)(run)
        # After the command's own options, also in --help.
        decorated.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document on stdout, nothing else."),
            click.Option(["-v", "--verbose"], is_flag=True, help="Show details, and a traceback if there is an error."),
            click.Option(["--quiet"], is_flag=True, help="Print only errors."),
        ]
        return decorated

    return decorate


def _summary(function: Callable[..., None]) -> str:
    """Return the first sentence of a command's docstring, whole: click would cut it off at the terminal's width."""
    return " ".join((function.__doc__ or "").split()).partition(". ")[0].removesuffix(".") + "."


def token_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select a token: ``--token``, or ``--module`` and ``--token-label``."""
    for option in (
        click.option("--token-label", metavar="LABEL", help="The token's label."),
        click.option("--module", metavar="PATH", help="Path of the PKCS#11 module."),
        click.option("--token", metavar="PKCS11-URI", help="The token, such as pkcs11:token=gateway;serial=0a1b."),
    ):
        function = option(function)
    return function


def key_type_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--key-type``."""
    option = click.option(
        "--key-type",
        metavar="TYPE",
        help=f"{key_type_help()}.",
    )
    return option(function)


def key_note(token: TokenName, key_type: KeyType) -> str:
    """Return how long it may take a token to generate a key, or "" if that is a matter of seconds."""
    from hsm_enroll.token import tpm2

    return "(RSA in a TPM: up to half a minute)" if key_type.is_rsa and tpm2.is_tpm2(token) else ""


def _token_uri(label: str, uri: str | None) -> str:
    from hsm_enroll.uri import Pkcs11Uri

    if uri is not None:
        raise click.UsageError("give --token or --token-label, not both")
    return str(Pkcs11Uri(token=label))
