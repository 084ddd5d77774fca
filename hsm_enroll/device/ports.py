"""The use cases' access to the outside: narrow protocols, which tests implement without a token or a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hsm_enroll.backend_api.attestation import Certified, Challenge, Evidence, Policy, Presented
    from hsm_enroll.backend_api.client import Issued, Terms
    from hsm_enroll.backend_api.proofs import Prove
    from hsm_enroll.key import KeyOrigin, KeyType, TokenName
    from hsm_enroll.secret import Secret
    from hsm_enroll.store.identity import Identity
    from hsm_enroll.token.fault import Fault
    from hsm_enroll.token.login import PinSource
    from hsm_enroll.token.reports import OwnKey, TokenReport


class TokenKey(Protocol):
    """A key pair in a token, and an ``x509.csr.Signer`` while its session is open."""

    @property
    def label(self) -> str:
        """CKA_LABEL."""

    @property
    def id(self) -> bytes:
        """CKA_ID."""

    @property
    def key_type(self) -> KeyType:
        """The key's type."""

    @property
    def public_key_info(self) -> bytes:
        """DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7)."""

    @property
    def origin(self) -> KeyOrigin:
        """Where the private key was generated, according to the token."""

    def sign(self, message: bytes) -> bytes:
        """Sign a message."""


class TokenSession(Protocol):
    """A logged-in session with a token; see ``token.tokens.Session``."""

    def find(self, *, label: str | None, key_id: bytes | None) -> TokenKey:
        """Return the one matching key pair, or raise KeyMissingError."""

    def generate(self, key_type: KeyType, *, label: str, key_id: bytes) -> TokenKey:
        """Generate a key pair that cannot leave the token."""

    def is_there(self, *, label: str, key_id: bytes) -> bool:
        """Whether the token has any object with this label and id."""

    def destroy(self, *, label: str, key_id: bytes) -> None:
        """Destroy both halves of a key pair; it is not an error if they do not exist."""

    def leftovers(self) -> int | None:
        """Return how many objects a killed generation left; None if the token cannot tell."""

    def clear(self) -> None:
        """Destroy what a killed generation left."""

    def own_keys(self) -> list[OwnKey]:
        """Return the keys that this program named."""


class TokenAccess(Protocol):
    """This machine's tokens; see ``token.tokens.Tokens``."""

    def listed(self, module: Path) -> list[TokenReport]:
        """Return a module's tokens; no login."""

    def start_listing(self, modules: Iterable[Path]) -> Callable[[Path], list[TokenReport]]:
        """Start listing the tokens of modules, and return a function that waits for one module's; no login."""

    def public_key(self, token: TokenName, *, label: str, key_id: bytes) -> bytes:
        """Return a public key, DER SubjectPublicKeyInfo; no login."""

    def session(
        self, token: TokenReport, pin: PinSource, at_pin_pad: Callable[[TokenName], None], *, writable: bool = False
    ) -> AbstractContextManager[TokenSession]:
        """Log in once; leaving the block logs out."""

    def dismiss(self) -> None:
        """Start shutting the modules down, without waiting; none of them can be used any more."""


class Attestor(Protocol):
    """This machine's TPM, which proves what keys it holds; see ``token.tpm2.attestation``."""

    def endorsement(self, rank: int) -> Presented:
        """Present the TPM by its endorsement key of a rank; the preferred one has rank 0."""

    def activate(self, credential_blob: bytes, encrypted_secret: bytes) -> bytes:
        """Decrypt the secret of a challenge to the endorsement key that was presented last."""

    def certify(
        self, token: TokenName, *, key_label: str, key_id: bytes, pin: Secret | None, qualifying_data: bytes
    ) -> Certified:
        """Have the TPM state what a token's key is; `pin` is the token's user PIN, if it has one."""


class Tpm(Protocol):
    """What can prove that a key is in a TPM."""

    def obstacle(self, token: TokenName) -> Fault | None:
        """Return why the keys of a token cannot be attested; None if they can, as far as can be seen at once."""

    def attestor(self) -> AbstractContextManager[Attestor]:
        """Start what talks to the TPM; leaving the block ends it, whatever it is doing."""


class Message(Protocol):
    """Sends the message that shows that a new certificate works."""

    def prepare(self) -> None:
        """Load what sending requires, while the API processes the request."""

    def send(self, identity: Identity, pin: Secret | None) -> None:
        """Send the message; `pin` is what ``login.credentials`` returned for the token."""


class CertificateSource(Protocol):
    """Issues certificates; see ``backend_api.client.EnrollmentClient``."""

    @property
    def base_url(self) -> str:
        """The API's URL, without a trailing slash."""

    @property
    def has_invite(self) -> bool:
        """Whether there is an invite, which has terms."""

    def terms(self) -> Terms | None:
        """Return the invite's terms, before anything is created; None if there are none."""

    def clock(self) -> datetime | None:
        """Return what the API's clock shows; None if it does not say."""

    def policy(self) -> Policy:
        """Return whether the deployment wants attestations; ``off`` if it has not said so yet."""

    def attest(self, tpm: Presented, thing_name: str | None) -> Challenge:
        """Return a challenge for a TPM."""

    def enroll(
        self, csr: str, thing_name: str, meanwhile: Callable[[], None] | None, evidence: Evidence | None
    ) -> Issued:
        """Return the certificate for a request, the same one each time; call ``meanwhile`` once it has been sent."""


class ProofTaker(Protocol):
    """Carries out requests that the device's own key signs; see ``backend_api.proofs.ProofClient``."""

    @property
    def base_url(self) -> str:
        """The API's URL, without a trailing slash."""

    @property
    def may_have_acted(self) -> bool:
        """Whether the API may have carried out any of the requests, for example one whose answer was lost."""

    def start_opening(self) -> None:
        """Open the connection on another thread."""

    def policy(self) -> Policy:
        """Return whether the deployment wants attestations; ``off`` if it has not said so yet."""

    def attest(self, tpm: Presented, thing_name: str, prove: Prove) -> Challenge:
        """Return a challenge for a TPM."""

    def renew(
        self,
        csr: str,
        thing_name: str,
        prove: Prove,
        meanwhile: Callable[[], None] | None,
        evidence: Evidence | None,
    ) -> Issued:
        """Return the certificate for another key, the same one each time; call ``meanwhile`` once it has been sent."""

    def commit(self, prove: Prove) -> None:
        """Make the new key the current one."""

    def recover(self, prove: Prove) -> Issued:
        """Return the certificate that the key has."""

    def retire(self, prove: Prove) -> None:
        """Have the Thing retired."""


class Clock:
    """This machine's clock."""

    def now(self) -> datetime:
        """Return the time, with a time zone."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since some moment; they never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Audience(Protocol):
    """Whoever watches the run; ``cli.terminal.Terminal`` is one."""

    def say(self, text: str) -> None:
        """Tell what is going on."""

    def warn(self, text: str) -> None:
        """Tell what somebody should act on."""

    def detail(self, text: str) -> None:
        """Tell what only those want to know who have asked for details."""

    def waiting(self, what: str, seconds: float) -> AbstractContextManager[None]:
        """Tell, unless the block ends soon, what it waits for and for how many seconds at most."""


class Nobody:
    """The audience of a program."""

    def say(self, text: str) -> None:
        """Tell nobody."""

    def warn(self, text: str) -> None:
        """Tell nobody."""

    def detail(self, text: str) -> None:
        """Tell nobody."""

    def waiting(self, what: str, seconds: float) -> AbstractContextManager[None]:
        """Tell nobody."""
        del what, seconds
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Ports:
    """A use case's access to the outside.

    Attributes:
        tokens: this machine's tokens.
        start_finding: starts looking for the token, without a login, and returns a function that waits for the result.
        pin: returns a token's PIN; called at most once.
        client: returns the client of the enrollment API; called only if one is needed, before anything is created.
        message: sends the first message; None sends none.
        tpm: proves that a key is in a TPM.
        at_pin_pad: called with the token that is waiting for its PIN at its own keypad.
        create_token: creates a token if there is none; None creates none.
        audience: whoever watches the run.
        clock: this machine's clock.
    """

    tokens: TokenAccess
    start_finding: Callable[[], Callable[[], TokenReport]]
    pin: PinSource
    client: Callable[[], CertificateSource]
    message: Message | None
    tpm: Tpm
    at_pin_pad: Callable[[TokenName], None] = lambda _: None
    create_token: Callable[[], TokenReport] | None = None
    audience: Audience = field(default_factory=Nobody)
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True, slots=True)
class OwnPorts:
    """The access to the outside of a use case that the device's own key authorizes: renew, recover, retire.

    Attributes:
        tokens: this machine's tokens.
        pin: returns a token's PIN; called at most once.
        client: returns the client of the enrollment API at a base URL.
        tpm: proves that a key is in a TPM.
        at_pin_pad: called with the token that is waiting for its PIN at its own keypad.
        audience: whoever watches the run.
        clock: this machine's clock.
    """

    tokens: TokenAccess
    pin: PinSource
    client: Callable[[str], ProofTaker]
    tpm: Tpm
    at_pin_pad: Callable[[TokenName], None] = lambda _: None
    audience: Audience = field(default_factory=Nobody)
    clock: Clock = field(default_factory=Clock)
