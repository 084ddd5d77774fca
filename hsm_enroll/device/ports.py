"""What the use cases reach the world through: narrow protocols, which tests implement without a token or a network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hsm_enroll.backend_api.client import Issued, Terms
    from hsm_enroll.key import KeyOrigin, KeyType, TokenName
    from hsm_enroll.secret import Secret
    from hsm_enroll.store.identity import Identity
    from hsm_enroll.token.login import PinSource
    from hsm_enroll.token.reports import TokenReport


class TokenKey(Protocol):
    """A key pair in a token; signs as ``x509.csr.Signer`` does while its session is open."""

    @property
    def label(self) -> str:
        """CKA_LABEL."""

    @property
    def id(self) -> bytes:
        """CKA_ID."""

    @property
    def key_type(self) -> KeyType:
        """Its type."""

    @property
    def public_key_info(self) -> bytes:
        """DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7)."""

    @property
    def origin(self) -> KeyOrigin:
        """What the token says of the private key's birth."""

    def sign(self, message: bytes) -> bytes:
        """Sign a message."""


class TokenSession(Protocol):
    """A session with a token that is logged in; see ``token.tokens.Session``."""

    def find(self, *, label: str | None, key_id: bytes | None) -> TokenKey:
        """Find one key pair, or raise KeyMissingError."""

    def generate(self, key_type: KeyType, *, label: str, key_id: bytes) -> TokenKey:
        """Generate a key pair that cannot leave the token."""

    def is_there(self, *, label: str, key_id: bytes) -> bool:
        """Whether the token holds any object of this label and id."""

    def destroy(self, *, label: str, key_id: bytes) -> None:
        """Destroy both halves of a key pair; what is not there is no error."""


class TokenAccess(Protocol):
    """This machine's tokens; see ``token.tokens.Tokens``."""

    def listed(self, module: Path) -> list[TokenReport]:
        """Return a module's tokens; no login."""

    def public_key(self, token: TokenName, *, label: str, key_id: bytes) -> bytes:
        """Return a public key, DER SubjectPublicKeyInfo; no login."""

    def session(
        self, token: TokenReport, pin: PinSource, at_pin_pad: Callable[[TokenName], None], *, writable: bool = False
    ) -> AbstractContextManager[TokenSession]:
        """Log in once; leaving the block logs out."""

    def dismiss(self) -> None:
        """End the modules' work while this process goes on; none of them can be asked any more."""


class FirstMessage(Protocol):
    """What sends the first message."""

    def prepare(self) -> None:
        """Load what sending takes, while the API answers."""

    def send(self, identity: Identity, pin: Secret | None) -> None:
        """Send it, given what to log in to the token with; see ``login.credentials``."""


class CertificateSource(Protocol):
    """What issues certificates; see ``backend_api.client.EnrollmentClient``."""

    @property
    def base_url(self) -> str:
        """The API's URL, without a trailing slash."""

    def terms(self) -> Terms | None:
        """Return what the invite says, before anything is created; None where nothing is known."""

    def enroll(self, csr: str, thing_name: str) -> Issued:
        """Return the certificate for a request, the same one each time."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a use case reaches the world through.

    Attributes:
        tokens: this machine's tokens.
        start_finding: starts looking for the token, without a login, and returns what waits for it, or creates it.
        pin: gives a token's PIN; called once at the most.
        client: gives the enrollment API; called when one is needed at all, before anything is created.
        message: sends the first message; None sends none.
        at_pin_pad: told which token waits for its PIN at a keypad of its own.
    """

    tokens: TokenAccess
    start_finding: Callable[[], Callable[[], TokenReport]]
    pin: PinSource
    client: Callable[[], CertificateSource]
    message: FirstMessage | None
    at_pin_pad: Callable[[TokenName], None] = lambda _: None
