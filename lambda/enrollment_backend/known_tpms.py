"""The TPMs that the operator knows: the manifest of endorsement keys (EKs), and the CAs of EK certificates.

An entry of the manifest says which Thing the TPM with an EK is. It is found by the EK's fingerprint: the SHA-256 of its
DER SubjectPublicKeyInfo, or of its certificate in DER.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from enrollment_backend import log
from enrollment_backend.attestation.certificates import Certificate, read_pem
from enrollment_backend.aws_errors import ConditionFailedError
from enrollment_backend.errors import EkAuthorityInvalidError, EkAuthorityUnknownError, EkUnlistedError
from enrollment_backend.table import Item, Position, Selection, Table, Write

_LISTED, _AUTHORITY = "ek", "ek-ca"
_NEW, _EXISTS = "attribute_not_exists(#id)", "attribute_exists(#id)"
_ATTEMPTS = 3  # at a transaction, while somebody else imports the same entries


@dataclass(frozen=True)
class ListedKey:
    """An entry of the manifest.

    Attributes:
        ek_sha256: the EK's fingerprint, in hexadecimal.
        thing: the Thing that its TPM is.
        created: when it was listed, in seconds since the epoch; importing it again does not change that.
        created_by: ARN of the IAM identity that listed it.
    """

    ek_sha256: str
    thing: str
    created: int
    created_by: str


@dataclass(frozen=True)
class Imported:
    """The outcome of an import.

    Attributes:
        added: number of entries that are new.
        unchanged: number of entries that were listed already.
        conflicts: the entries that the manifest has for other Things; they were left as they are.
    """

    added: int
    unchanged: int
    conflicts: list[ListedKey]


@dataclass(frozen=True)
class Authority:
    """A CA whose EK certificates are trusted.

    Attributes:
        sha256: SHA-256 of its certificate in DER, in hexadecimal.
        subject: its subject (RFC 4514).
        root: whether it is self-signed; a chain has to end in such a certificate.
        not_after: when it expires, in seconds since the epoch.
        created, created_by: as in `ListedKey`.
    """

    sha256: str
    subject: str
    root: bool
    not_after: int
    created: int
    created_by: str


@dataclass(frozen=True)
class KnownTpms:
    """The operator's use cases about TPMs.

    Args:
        table: the ledger's table.
        now: the time, in seconds since the epoch.

    Every method raises the errors of `aws.call`.
    """

    table: Table
    now: Callable[[], float]

    def import_keys(self, things: dict[str, str], caller: str) -> Imported:
        """Add entries to the manifest. It can be repeated, also after a call that was interrupted.

        Args:
            things: up to a hundred Things (TransactWriteItems), by the fingerprints of their TPMs' EKs. A Thing may
                have several: a TPM usually has an RSA and an ECC one.
            caller: ARN of the caller's IAM identity.

        Raises:
            ConditionFailedError: others keep importing the same entries.
        """
        attempts_left = _ATTEMPTS
        while True:
            listed = self.table.get((_LISTED, fingerprint) for fingerprint in things)
            entry = {"created": int(self.now()), "created_by": caller}
            missing = [
                Write((_LISTED, fingerprint), {"thing": thing, **entry}, _NEW, {}, replace=True)
                for fingerprint, thing in things.items()
                if (_LISTED, fingerprint) not in listed
            ]
            attempts_left -= 1
            try:
                if missing:
                    self.table.transact(missing)
            except ConditionFailedError:
                if not attempts_left:
                    raise
                continue
            break
        conflicts = [_listed_key(item) for item in listed.values() if item["thing"] != things[item["id"]]]
        log.note(caller=caller, eks=str(len(missing)))
        return Imported(len(missing), len(listed) - len(conflicts), conflicts)

    def list_keys(
        self, prefix: str | None, after: Position | None, size: int
    ) -> tuple[list[ListedKey], Position | None]:
        """Return a page of the manifest, the newest first, and the position after which the next starts, if any.

        Args:
            prefix: what the names of the Things begin with; None for any.
            after: the position after which the page starts; None for the first page.
            size: the maximum number of entries. A page may have fewer, even none, and be followed by another.
        """
        selected = Selection() if prefix is None else Selection("begins_with(#thing, :prefix)", {"prefix": prefix})
        items, position = self.table.page(_LISTED, selected, after, size)
        return [_listed_key(item) for item in items], position

    def forget_key(self, fingerprint: str, caller: str) -> None:
        """Remove an entry from the manifest. What was enrolled because of it stays enrolled.

        Raises:
            EkUnlistedError: the manifest does not have it.
        """
        try:
            self.table.transact([Write((_LISTED, fingerprint), {}, _EXISTS, {}, delete=True)])
        except ConditionFailedError as error:
            raise EkUnlistedError from error
        log.note(caller=caller, ekSha256=fingerprint)

    def add_authority(self, certificate_pem: str, sha256: str, caller: str) -> Authority:
        """Trust the EK certificates of a CA; one that is trusted already stays as it is.

        Args:
            certificate_pem: the CA's certificate: a root, or an intermediate that EK certificates come without.
            sha256: what the operator expects the SHA-256 of its DER to be, in hexadecimal.
            caller: ARN of the caller's IAM identity.

        Raises:
            EkAuthorityInvalidError: it is not the certificate of a CA, or not the expected one.

        Does not check who issued it, nor when it expires: a chain is checked when it is used.
        """
        certificate = _read_authority(certificate_pem)
        if certificate.sha256 != sha256:
            raise EkAuthorityInvalidError
        item = {
            "thing": _AUTHORITY,  # the index needs it
            "created": int(self.now()),
            "created_by": caller,
            "pem": certificate.pem,
        }
        key = (_AUTHORITY, sha256)
        try:
            self.table.transact([Write(key, item, _NEW, {}, replace=True)])
        except ConditionFailedError:
            item = self.table.get([key])[key]
        log.note(caller=caller, authority=sha256)
        return _authority({"id": sha256, **item})

    def list_authorities(self) -> list[Authority]:
        """Return the CAs whose EK certificates are trusted, in the order of their subjects."""
        found = [_authority(item) for item in self.table.of_kind(_AUTHORITY)]
        return sorted(found, key=lambda one: (one.subject, one.sha256))

    def authorities(self) -> Sequence[Certificate]:
        """Return their certificates."""
        return [certificate for item in self.table.of_kind(_AUTHORITY) for certificate in read_pem(item["pem"])]

    def remove_authority(self, sha256: str, caller: str) -> None:
        """Trust a CA no more. What was enrolled because of it stays enrolled.

        Raises:
            EkAuthorityUnknownError: it is not trusted.
        """
        try:
            self.table.transact([Write((_AUTHORITY, sha256), {}, _EXISTS, {}, delete=True)])
        except ConditionFailedError as error:
            raise EkAuthorityUnknownError from error
        log.note(caller=caller, authority=sha256)


def _listed_key(item: Item) -> ListedKey:
    return ListedKey(item["id"], item["thing"], item["created"], item["created_by"])


def _read_authority(certificate_pem: str) -> Certificate:
    try:
        (certificate,) = read_pem(certificate_pem)
    except ValueError as error:
        raise EkAuthorityInvalidError from error
    constraints = certificate.constraints()
    if constraints is None or not constraints.is_ca:
        raise EkAuthorityInvalidError
    return certificate


def _authority(item: Item) -> Authority:
    (certificate,) = read_pem(item["pem"])
    return Authority(
        sha256=item["id"],
        subject=certificate.subject_text,
        root=certificate.is_self_issued,
        not_after=int(certificate.ends.timestamp()),
        created=item["created"],
        created_by=item["created_by"],
    )
