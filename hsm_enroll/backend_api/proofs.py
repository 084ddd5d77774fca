"""The device's side of the enrollment API (``lambda/openapi.yaml``): requests that its own key signs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hsm_enroll.backend_api import attestation
from hsm_enroll.backend_api.answer import Answer, refusal
from hsm_enroll.backend_api.attestation import ATTESTATIONS, Challenge, Evidence, Presented
from hsm_enroll.backend_api.client import Issued, issued
from hsm_enroll.backend_api.hints import hint
from hsm_enroll.backend_api.patient_client import PatientClient, refuse_earlier_release
from hsm_enroll.x509.jws import MEDIA_TYPE

RENEWALS = "/v1/renewals"
COMMIT = "/v1/renewals/commit"
RECOVERIES = "/v1/recoveries"
RETIREMENTS = "/v1/retirements"

Prove = Callable[[str, bytes], str]
"""Returns a new proof, see ``jws.build``, for a URL and a payload; called for each try, since a proof counts once."""


class ProofClient(PatientClient):
    """A device's client of one enrollment API, for a key that is enrolled already.

    Each request may be repeated, as by :meth:`PatientClient.exchange`: one that was carried out is answered as it was
    the first time.
    """

    def attest(self, tpm: Presented, thing_name: str, prove: Prove) -> Challenge:
        """Ask for a challenge for the TPM that is to hold the Thing's next key (``POST /v1/attestations``).

        Args:
            tpm: how the TPM presents itself.
            thing_name: name of the Thing.
            prove: signs with the current key.

        Raises:
            HsmEnrollError: as for :meth:`renew`.
        """
        answer = self._proven(ATTESTATIONS, lambda: attestation.request(tpm), prove)
        return attestation.challenge(answer, thing_name)

    def renew(
        self,
        csr: str,
        thing_name: str,
        prove: Prove,
        meanwhile: Callable[[], None] | None = None,
        evidence: Evidence | None = None,
    ) -> Issued:
        """Ask for a certificate for another key (``POST /v1/renewals``); it is pending until :meth:`commit`.

        Args:
            csr: PEM, of the new key.
            thing_name: name of the Thing.
            prove: signs with the current key.
            meanwhile: as for :meth:`PatientClient.exchange`.
            evidence: proves that a TPM holds the new key; None sends none.

        Raises:
            HsmEnrollError: as for ``EnrollmentClient.enroll``.
        """

        def payload() -> dict[str, Any]:
            return {"csr": csr, **({} if evidence is None else {"evidence": evidence.members})}

        answer = self._proven(RENEWALS, payload, prove, meanwhile)
        if answer.status not in {200, 201}:
            raise refusal(answer, hint)
        return issued(answer, thing_name)

    def commit(self, prove: Prove) -> None:
        """Make the new key the current one (``POST /v1/renewals/commit``): the old certificate goes.

        Args:
            prove: signs with the new key.

        Raises:
            HsmEnrollError: as for :meth:`renew`.
        """
        self._done(COMMIT, prove)

    def recover(self, prove: Prove) -> Issued:
        """Return the certificate that the key has (``POST /v1/recoveries``); nothing is issued.

        Args:
            prove: signs with the key.

        Raises:
            HsmEnrollError: as for :meth:`renew`.
        """
        answer = self._proven(RECOVERIES, dict, prove)
        if answer.status != 200:
            raise refusal(answer, hint)
        return issued(answer, None)

    def retire(self, prove: Prove) -> None:
        """Have the Thing retired (``POST /v1/retirements``): its certificate goes for good.

        Args:
            prove: signs with the current key.

        Raises:
            HsmEnrollError: as for :meth:`renew`.
        """
        self._done(RETIREMENTS, prove)

    def _done(self, path: str, prove: Prove) -> None:
        answer = self._proven(path, dict, prove)
        if answer.status != 204:
            raise refusal(answer, hint)

    def _proven(
        self,
        path: str,
        payload: Callable[[], Mapping[str, Any]],
        prove: Prove,
        meanwhile: Callable[[], None] | None = None,
    ) -> Answer:
        def proof() -> bytes:
            return prove(self.base_url + path, json.dumps(payload()).encode("utf-8")).encode("ascii")

        answer = self.exchange("POST", path, proof, meanwhile, MEDIA_TYPE)
        refuse_earlier_release(answer, path)
        return answer
