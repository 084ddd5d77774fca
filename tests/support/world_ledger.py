"""The API's side of the world in memory: which key each Thing has, and what a key's proof gets."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_enroll.backend_api.client import Issued
from hsm_enroll.errors import BackendRefusedError


@dataclass
class Thing:
    """A Thing: its keys as DER SubjectPublicKeyInfo.

    Attributes:
        current: the key that it has.
        pending: the key of a renewal that is not committed; None if there is none.
        old: the keys that it had.
        undone: the keys of renewals that were undone.
        is_revoked: whether it was revoked or retired.
    """

    current: bytes
    pending: bytes | None = None
    old: set[bytes] = field(default_factory=set)
    undone: set[bytes] = field(default_factory=set)
    is_revoked: bool = False


@dataclass
class Ledger:
    """What the API knows, and how it answers.

    Attributes:
        issue: returns the certificate for a key and a Thing, the same one each time while it is in `certificates`.
        certificates: those that were issued and not undone, by key.
        things: by name.
        active: the keys whose certificates are active.
        proofs: the proofs that were accepted, by their unique ids.
    """

    issue: Callable[[bytes, str], Issued]
    certificates: dict[bytes, Issued] = field(default_factory=dict)
    things: dict[str, Thing] = field(default_factory=dict)
    active: set[bytes] = field(default_factory=set)
    proofs: set[str] = field(default_factory=set)

    def enroll(self, key: bytes, name: str) -> Issued:
        """Give a Thing a key; one that it had before goes on, as nobody has revoked it."""
        self.things[name] = Thing(key)
        self.active.add(key)
        return self.issue(key, name)

    def renew(self, proof: str, url: str, new_key: bytes) -> Issued:
        """Issue a pending certificate, or repeat it."""
        name, thing, key = self._proven(proof, url)
        if key != thing.current:
            raise _refused("key-not-current")
        if thing.pending not in {None, new_key}:
            raise _refused("renewal-in-progress")
        thing.pending = new_key
        self.active.add(new_key)
        return self.issue(new_key, name)

    def commit(self, proof: str, url: str) -> None:
        """Make the pending key the current one; a repeated call is answered alike."""
        _, thing, key = self._proven(proof, url)
        if key == thing.current:
            return
        if key != thing.pending:
            raise _refused("key-not-current" if key in thing.old else "renewal-unknown")
        thing.old.add(thing.current)
        self.active.discard(thing.current)
        thing.current, thing.pending = key, None

    def undo(self, name: str) -> None:
        """Undo the Thing's renewal, as the API does after an hour; its key stays bound to the Thing."""
        thing = self.things[name]
        pending, thing.pending = thing.pending, None
        if pending is not None:
            thing.undone.add(pending)
            self.active.discard(pending)
            self.certificates.pop(pending, None)

    def recover(self, proof: str, url: str) -> Issued:
        """Return the certificate of a current key."""
        name, thing, key = self._proven(proof, url)
        if key != thing.current:
            raise _refused("key-not-current")
        return self.issue(key, name)

    def retire(self, proof: str, url: str) -> None:
        """Retire the Thing of a current key."""
        name, thing, key = self._proven(proof, url, revoked_too=True)
        if key != thing.current:
            raise _refused("key-not-current")
        self.revoke(name)

    def revoke(self, name: str) -> None:
        """Revoke a Thing."""
        thing = self.things[name]
        self.undo(name)
        thing.is_revoked = True
        self.active.discard(thing.current)

    def _proven(self, proof: str, url: str, *, revoked_too: bool = False) -> tuple[str, Thing, bytes]:
        """Return the Thing and the key that made a proof, which counts once."""
        content, _, encoded = proof.rpartition(".")
        header = json.loads(_decoded(content.partition(".")[0]))
        assert header["url"] == url
        known = {
            hashlib.sha256(key).hexdigest(): (name, thing, key)
            for name, thing in self.things.items()
            for key in (thing.current, thing.pending, *thing.old, *thing.undone)
            if key is not None
        }
        if header["kid"] not in known:
            raise _refused("proof-invalid")
        name, thing, key = known[header["kid"]]
        _verify(key, content.encode(), _decoded(encoded))
        assert header["jti"] not in self.proofs
        self.proofs.add(header["jti"])
        if thing.is_revoked and not revoked_too:
            raise _refused("thing-revoked")
        return name, thing, key


def _refused(code: str) -> BackendRefusedError:
    return BackendRefusedError(f"refused ({code})", problem_code=code)


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _verify(key: bytes, content: bytes, signature: bytes) -> None:
    public = load_der_public_key(key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
    digest = hashes.SHA384() if half == 48 else hashes.SHA256()
    public.verify(encode_dss_signature(r, s), content, ec.ECDSA(digest))
