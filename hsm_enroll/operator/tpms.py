"""The operator's routes about TPMs: which chip is which Thing, and whose EK certificates are trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from hsm_enroll.backend_api.answer import document, unexpected
from hsm_enroll.backend_api.patience import Patience
from hsm_enroll.operator.manifest import ListedChip
from hsm_enroll.operator.members import listed
from hsm_enroll.operator.signed_api import SignedApi, selection
from hsm_enroll.operator.tpm_records import (
    AuthorityRecord,
    EkRecord,
    ImportReport,
    authority_record,
    ek_record,
    import_report,
)

EKS = "/v1/operator/eks"
AUTHORITIES = "/v1/operator/ek-authorities"

# An import has many requests, and each may be repeated, also one that was sent and got no answer.
_PATIENCE = Patience(seconds=60)


class TpmClient(SignedApi):
    """An operator's client of one enrollment API, for what concerns TPMs."""

    def import_eks(self, chips: Sequence[ListedChip]) -> ImportReport:
        """List EKs, up to 100, each once. It can be repeated: what is listed already stays as it is."""
        keys = [{"ekSha256": chip.ek_sha256, "thing": chip.thing} for chip in chips]
        content = json.dumps({"keys": keys}, separators=(",", ":")).encode("utf-8")
        report: ImportReport = self.read(
            import_report, document(self.expected(200, "POST", EKS, content=content, retries=_PATIENCE))
        )
        if report.added + report.unchanged + len(report.conflicts) != len(chips):
            raise unexpected(self.api_url, "it is about other entries")
        return report

    def list_eks(self, prefix: str | None = None, limit: int | None = None) -> Iterator[EkRecord]:
        """Yield the EKs that are listed, the newest first; a page is requested when its first entry is.

        Args:
            prefix: what their Things' names begin with; None for any.
            limit: how many the caller will take, if that is known.
        """
        for page in self.pages("GET", EKS, selection(prefix, limit)):
            yield from self.read(listed, page, "keys", ek_record)

    def forget_ek(self, ek_sha256: str) -> None:
        """Take an EK off the list. What was enrolled because of it stays enrolled.

        Raises:
            BackendRefusedError: with ``ek-not-listed`` if it is not on it.
        """
        self.expected(204, "DELETE", EKS, {"ekSha256": ek_sha256})

    def add_authority(self, certificate_pem: str, sha256: str) -> AuthorityRecord:
        """Trust the EK certificates of a CA, whose certificate in DER has this SHA-256; repeating it changes nothing.

        Raises:
            BackendRefusedError: with ``ek-ca-invalid`` if it is not the certificate of a CA.
        """
        content = json.dumps({"certificate": certificate_pem, "sha256": sha256}).encode("utf-8")
        added: AuthorityRecord = self.read(
            authority_record, document(self.expected(201, "POST", AUTHORITIES, content=content))
        )
        if added.sha256 != sha256:
            raise unexpected(self.api_url, "it is about another certificate")
        return added

    def list_authorities(self) -> list[AuthorityRecord]:
        """Return the CAs whose EK certificates are trusted, in the order of their subjects."""
        found: list[AuthorityRecord] = self.read(
            listed, document(self.expected(200, "GET", AUTHORITIES)), "authorities", authority_record
        )
        return found

    def remove_authority(self, sha256: str) -> None:
        """Trust a CA no more. What was enrolled because of it stays enrolled.

        Raises:
            BackendRefusedError: with ``ek-ca-unknown`` if it is not trusted.
        """
        self.expected(204, "DELETE", AUTHORITIES, {"sha256": sha256})
