"""A token, an API and a broker in memory, behind the ports of the use cases; power may go at any call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import NameOID

from hsm_enroll.backend_api.attestation import ATTESTATIONS, Challenge, Evidence, Policy, Presented
from hsm_enroll.backend_api.client import Issued, Terms
from hsm_enroll.backend_api.proofs import COMMIT, RECOVERIES, RENEWALS, RETIREMENTS, Prove
from hsm_enroll.device.ports import Clock, OwnPorts, Ports
from hsm_enroll.errors import (
    BackendRefusedError,
    BackendUnreachableError,
    HsmEnrollError,
    KeyMissingError,
    MqttRefusedError,
    TokenNotFoundError,
)
from hsm_enroll.key import KeyOrigin, KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from hsm_enroll.token.reports import OwnKey, TokenReport
from tests.support.software_signer import public_key_info
from tests.support.world_ledger import Ledger
from tests.support.world_tpm import Attestations, FakeTpm

TOKEN = TokenName(Path("/usr/lib/module.so"), "gateway", "0a1b", "Maker", "Model")
_BORN = KeyOrigin(local=True, sensitive=True, extractable=False, never_extractable=True, always_sensitive=True)
_CURVES = {KeyType.EC_P256: ec.SECP256R1(), KeyType.EC_P384: ec.SECP384R1()}
_DAY = timedelta(days=1)
_T = TypeVar("_T")


class PowerCut(BaseException):
    """Power has gone: no handler for ordinary errors runs, and what is on the disk stays as it is."""


@dataclass
class FakeKey:
    """A key pair of the token in memory."""

    label: str
    id: bytes
    key_type: KeyType
    secret: ec.EllipticCurvePrivateKey
    origin: KeyOrigin = _BORN

    @property
    def public_key_info(self) -> bytes:
        """DER SubjectPublicKeyInfo."""
        return public_key_info(self.secret)

    def sign(self, message: bytes) -> bytes:
        """Sign as the token would."""
        digest = hashes.SHA384() if self.key_type is KeyType.EC_P384 else hashes.SHA256()
        return self.secret.sign(message, ec.ECDSA(digest))


class FakeClock(Clock):
    """A clock that is as far off as is said, and in which waiting takes no time.

    Attributes:
        shift: how far it is ahead of the real one.
        waits: the seconds that were waited, one wait after the other.
    """

    def __init__(self) -> None:
        self.shift = timedelta(0)
        self.waits: list[float] = []

    def now(self) -> datetime:
        """Return the time that it shows."""
        return super().now() + self.shift

    def monotonic(self) -> float:
        """Return how long has been waited."""
        return sum(self.waits)

    def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.waits.append(seconds)


@dataclass
class World:
    """What lies outside the state folder.

    Attributes:
        token: how the token shows itself.
        keys: the token's keys, by label and id.
        requests: the CSRs that reached the API, in order.
        messages: the Things whose messages reached the broker, with one for each message.
        message_keys: CKA_ID of the key with which each of them was sent.
        logins: how often somebody logged in.
        contacts: how often the API was asked for.
        refusal: the problem code that the API answers with; "" issues.
        lifetime: how long a certificate is valid.
        invite: what the API says of the invite, or the error that it has instead.
        broker: what keeps the first message from being sent, try by try; the last one stays.
        time: this machine's clock.
        api_time: what the API's clock shows.
        has_token: whether there is a token already; if not, one may be created.
        said: what whoever watches is told, in order.
        answer: what the API answers instead of what it has issued; None is that.
        may_have_acted: whether the API may have carried out a request that a key signed, see ``ports.ProofTaker``.
        outage: the error that a request which a key signs ends with, before it reaches the API; None is none.
        ledger: what the API knows.
        tpm: this machine's TPM, which is not the token's at first.
        attestations: what the API knows of TPMs.
        attestation: whether the deployment wants attestations.
        remains: how many objects a killed generation has left, as the token says; None if it cannot tell.
        is_open: whether the token is in use: somebody is logged in, or its module is loaded after a login.
        open_at_request: whether it was when the last CSR reached the API.
        calls: what was called, in order, a name each.
        dies_at: the call at which power goes, by its number or name, and whether before or after its effect; None is
            never.
    """

    token: TokenReport = field(default_factory=lambda: report())
    keys: dict[tuple[str, bytes], FakeKey] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    message_keys: list[bytes] = field(default_factory=list)
    logins: int = 0
    contacts: int = 0
    refusal: str = ""
    lifetime: timedelta = 3650 * _DAY
    answer: Issued | None = None
    may_have_acted: bool = False
    outage: HsmEnrollError | None = None
    remains: int | None = 0
    invite: Terms | HsmEnrollError | None = None
    attestations: Attestations = field(default_factory=Attestations)
    attestation: Policy = Policy.OFF
    broker: list[HsmEnrollError | None] = field(default_factory=lambda: [None])
    time: FakeClock = field(default_factory=lambda: FakeClock())
    api_time: datetime | None = None
    has_token: bool = True
    said: list[str] = field(default_factory=list)
    is_open: bool = False
    open_at_request: bool | None = None
    calls: list[str] = field(default_factory=list)
    dies_at: tuple[int | str, bool] | None = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(self._certificate)
        self.tpm = FakeTpm(lambda label, key_id: self._found(label, key_id).public_key_info)

    def ports(self, *, publishes: bool = True) -> Ports:
        """Return the ports of one run."""
        self.calls.clear()
        return Ports(
            tokens=self,
            start_finding=lambda: lambda: self._call("find token", self._find_token),
            pin=lambda _: Secret("1234"),
            client=self._client,
            message=self if publishes else None,
            tpm=self.tpm,
            create_token=None if self.has_token else lambda: self._call("create token", self._create_token),
            audience=self,
            clock=self.time,
        )

    def own_ports(self) -> OwnPorts:
        """Return the ports of one run that the device's own key authorizes."""
        self.calls.clear()
        return OwnPorts(self, lambda _: Secret("1234"), self._client_at, self.tpm, audience=self, clock=self.time)

    @contextmanager
    def progress(self, step: str) -> Iterator[None]:
        """Let power go also at the beginning and at the end of a step."""
        self._call(f"begin {step}", lambda: None)
        yield
        self._call(f"end {step}", lambda: None)

    def say(self, text: str) -> None:
        """Write down what is told."""
        self.said.append(text)

    def detail(self, text: str) -> None:
        """Write down a detail."""
        self.said.append(f"detail: {text}")

    def warn(self, text: str) -> None:
        """Write down what is told, as a warning."""
        self.said.append(f"warning: {text}")

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[None]:
        """Write down what is waited for."""
        self.said.append(f"waiting for {what}, up to {seconds:.0f} s")
        yield

    @property
    def base_url(self) -> str:
        """The API's URL."""
        return "https://api.example"

    def listed(self, module: Path) -> list[TokenReport]:
        """List the one token of the one module."""
        assert module == self.token.name.module
        return [self.token]

    def start_listing(self, modules: Iterable[Path]) -> Callable[[Path], list[TokenReport]]:
        """List the one token of the one module, later."""
        del modules
        return self.listed

    def public_key(self, token: TokenName, *, label: str, key_id: bytes) -> bytes:
        """Show a public key without a login."""
        if token != self.token.name:
            raise TokenNotFoundError("no such token")
        return self._found(label, key_id).public_key_info

    @contextmanager
    def session(
        self,
        token: TokenReport,
        pin: Callable[[TokenName], Secret],
        at_pin_pad: Callable[[TokenName], None],
        *,
        writable: bool = False,
    ) -> Iterator[World]:
        """Log in; this world is its own session."""
        del at_pin_pad, writable
        assert pin(token.name).reveal() == "1234"
        self.logins += 1
        self.is_open = True
        yield self

    def dismiss(self) -> None:
        """End the login and unload the module."""
        self.is_open = False

    def find(self, *, label: str | None, key_id: bytes | None) -> FakeKey:
        """Find a key by label and id."""
        assert label is not None
        assert key_id is not None
        return self._call("find", lambda: self._found(label, key_id))

    def generate(self, key_type: KeyType, *, label: str, key_id: bytes) -> FakeKey:
        """Generate a key; a second one of the same name is a mistake of the caller."""
        assert (label, key_id) not in self.keys

        def make() -> FakeKey:
            return self.keys.setdefault(
                (label, key_id), FakeKey(label, key_id, key_type, ec.generate_private_key(_CURVES[key_type]))
            )

        return self._call("generate", make)

    def is_there(self, *, label: str, key_id: bytes) -> bool:
        """Whether there is a key of this label and id."""
        return (label, key_id) in self.keys

    def destroy(self, *, label: str, key_id: bytes) -> None:
        """Destroy a key."""
        self._call("destroy", lambda: self.keys.pop((label, key_id), None))

    def leftovers(self) -> int | None:
        """Return how many objects a killed generation left."""
        return self.remains

    def clear(self) -> None:
        """Find nothing to destroy."""

    def own_keys(self) -> list[OwnKey]:
        """Return the keys, all of which this program named."""
        return [
            OwnKey(key.label, key.id, ("private", "public"), key.key_type, (key.public_key_info,), False, False)
            for key in self.keys.values()
        ]

    def start_opening(self) -> None:
        """Nothing has to be opened."""

    def policy(self) -> Policy:
        """Say whether the deployment wants attestations."""
        return self.attestation

    def attest(self, tpm: Presented, thing_name: str | None, prove: Prove | None = None) -> Challenge:
        """Challenge a TPM."""
        if prove is not None:
            self._proof(prove, ATTESTATIONS)
        return self.attestations.challenge(tpm, thing_name)

    def renew(
        self,
        csr: str,
        thing_name: str,
        prove: Prove,
        meanwhile: Callable[[], None] | None,
        evidence: Evidence | None,
    ) -> Issued:
        """Issue a pending certificate."""
        del meanwhile
        proof = self._proof(prove, RENEWALS)
        self.requests.append(csr)
        is_attested = self.ledger.things[thing_name].current in self.attestations.attested
        is_required = is_attested or self.attestation is Policy.REQUIRE
        self.attestations.check(evidence, csr, is_required=is_required)
        issued = self._call("renew", lambda: self.ledger.renew(proof, self.base_url + RENEWALS, _key_of(csr)))
        assert issued.thing_name == thing_name
        return self.answer or issued

    def commit(self, prove: Prove) -> None:
        """Make the pending key the current one."""
        proof = self._proof(prove, COMMIT)
        self._call("commit", lambda: self.ledger.commit(proof, self.base_url + COMMIT))

    def recover(self, prove: Prove) -> Issued:
        """Return a key's certificate."""
        proof = self._proof(prove, RECOVERIES)
        return self.answer or self._call("recover", lambda: self.ledger.recover(proof, self.base_url + RECOVERIES))

    def retire(self, prove: Prove) -> None:
        """Retire a key's Thing."""
        proof = self._proof(prove, RETIREMENTS)
        self._call("retire", lambda: self.ledger.retire(proof, self.base_url + RETIREMENTS))

    def _proof(self, prove: Prove, path: str) -> str:
        proof = prove(self.base_url + path, b"{}")
        if self.outage is not None:
            self.may_have_acted |= isinstance(self.outage, BackendUnreachableError)
            raise self.outage
        self.may_have_acted = True
        return proof

    def enroll(
        self, csr: str, thing_name: str, meanwhile: Callable[[], None] | None, evidence: Evidence | None
    ) -> Issued:
        """Issue, once for each key, or refuse."""
        self.open_at_request = self.is_open
        if meanwhile is not None:
            meanwhile()
        return self._call("enroll", lambda: self._issue(csr, thing_name, evidence))

    @property
    def has_invite(self) -> bool:
        """Whether the API was asked for with an invite."""
        return self.invite is not None

    def terms(self) -> Terms | None:
        """Say what the invite says, in another thread."""
        if isinstance(self.invite, HsmEnrollError):
            raise self.invite
        return self.invite

    def clock(self) -> datetime | None:
        """Say what the API's clock shows."""
        return self.api_time

    def _find_token(self) -> TokenReport:
        if not self.has_token:
            raise TokenNotFoundError("no token")
        return self.token

    def _create_token(self) -> TokenReport:
        self.has_token = True
        return self.token

    def _client(self) -> World:
        self.contacts += 1
        return self

    def _client_at(self, api: str) -> World:
        assert api == self.base_url
        self.may_have_acted = False
        return self._client()

    def prepare(self) -> None:
        """Nothing has to be loaded."""

    def send(self, identity: Identity, pin: Secret | None) -> None:
        """Publish a message; a certificate that is not active is refused."""
        assert pin is not None
        if identity.certificate.public_key.dump() not in self.ledger.active:
            raise MqttRefusedError("the broker rejected the certificate", of_certificate=True)
        refusal = self.broker[0] if len(self.broker) == 1 else self.broker.pop(0)
        if refusal is not None:
            raise refusal
        self._call("publish", lambda: self._publish(identity))

    def _publish(self, identity: Identity) -> None:
        self.messages.append(identity.thing_name)
        self.message_keys.append(identity.key_id)

    def _found(self, label: str, key_id: bytes) -> FakeKey:
        if (label, key_id) not in self.keys:
            raise KeyMissingError(f"no key labelled {label!r}")
        return self.keys[label, key_id]

    def _issue(self, csr: str, thing_name: str, evidence: Evidence | None) -> Issued:
        self.requests.append(csr)
        if self.refusal and evidence is None:
            raise BackendRefusedError("refused", problem_code=self.refusal)
        by_invite = isinstance(self.invite, Terms) and self.invite.attestation is Policy.REQUIRE
        is_required = by_invite or self.attestation is Policy.REQUIRE
        self.attestations.check(evidence, csr, is_required=is_required)
        request = x509.load_pem_x509_csr(csr.encode())
        assert request.is_signature_valid
        issued = self.ledger.enroll(_key_of(csr), thing_name)
        return self.answer or issued

    def _certificate(self, key: bytes, thing_name: str) -> Issued:
        issued = self.ledger.certificates
        if key not in issued:
            certificate = certificate_for(key, thing_name, self.lifetime)
            attested = key in self.attestations.attested
            issued[key] = Issued(certificate, "0a" * 32, thing_name, "localhost", 8883, attested=attested)
        return issued[key]

    def _call(self, name: str, effect: Callable[[], _T]) -> _T:
        self.calls.append(name)
        call, has_effect = self.dies_at or (0, False)
        if call not in {len(self.calls), name}:
            return effect()
        if has_effect:
            with suppress(Exception):
                effect()
        raise PowerCut(name)


def report(key_types: tuple[KeyType, ...] = (KeyType.EC_P256, KeyType.EC_P384)) -> TokenReport:
    """Return how the token shows itself before a login."""
    return TokenReport(
        name=TOKEN,
        slot=0,
        initialized=True,
        login_required=True,
        protected_authentication_path=False,
        pin_count_low=False,
        pin_final_try=False,
        pin_locked=False,
        public_keys=(),
        key_types=key_types,
        mqtt_key_types=key_types,
        mqtt_obstacle=None,
    )


def _key_of(csr: str) -> bytes:
    public_key = x509.load_pem_x509_csr(csr.encode()).public_key()
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate_for(public_key_info: bytes, thing_name: str, lifetime: timedelta) -> str:
    """Return a certificate for a public key, in PEM, valid from a day ago."""
    begin = datetime.now(UTC) - _DAY
    builder = x509.CertificateBuilder(
        _name("CA"),
        _name(thing_name),
        load_der_public_key(public_key_info),  # type: ignore[arg-type]
        x509.random_serial_number(),
        begin,
        begin + _DAY + lifetime,
    )
    return builder.sign(_ca_key(), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@cache
def _ca_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
