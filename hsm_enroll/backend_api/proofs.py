"""The device's side of the enrollment API (``lambda/openapi.yaml``): requests that its own key signs."""

from __future__ import annotations

import json
from collections.abc import Callable

from hsm_enroll.backend_api.answer import JSON, Answer, refusal
from hsm_enroll.backend_api.client import Issued, issued
from hsm_enroll.backend_api.hints import hint
from hsm_enroll.backend_api.patient_client import PatientClient
from hsm_enroll.errors import UnexpectedResponseError
from hsm_enroll.x509.jws import MEDIA_TYPE

RENEWALS = "/v1/renewals"
COMMIT = "/v1/renewals/commit"
RECOVERIES = "/v1/recoveries"
RETIREMENTS = "/v1/retirements"

_EARLIER_RELEASE_HINT = (
    "The backend may be of an earlier release: ask the operator to update it. Else check the API's address."
)

Prove = Callable[[str, bytes], str]
"""Returns a new proof, see ``jws.build``, for a URL and a payload; called for each try, since a proof counts once."""


class ProofClient(PatientClient):
    """A device's client of one enrollment API, for a key that is enrolled already.

    Each request may be repeated, as by :meth:`PatientClient.exchange`: one that was carried out is answered as it was
    the first time.
    """

    def renew(self, csr: str, thing_name: str, prove: Prove, meanwhile: Callable[[], None] | None = None) -> Issued:
        """Ask for a certificate for another key (``POST /v1/renewals``); it is pending until :meth:`commit`.

        Args:
            csr: PEM, of the new key.
            thing_name: name of the Thing.
            prove: signs with the current key.
            meanwhile: as for :meth:`PatientClient.exchange`.

        Raises:
            HsmEnrollError: as for ``EnrollmentClient.enroll``.
        """
        answer = self._proven(RENEWALS, {"csr": csr}, prove, meanwhile)
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
        answer = self._proven(RECOVERIES, {}, prove)
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
        answer = self._proven(path, {}, prove)
        if answer.status != 204:
            raise refusal(answer, hint)

    def _proven(
        self, path: str, payload: dict[str, str], prove: Prove, meanwhile: Callable[[], None] | None = None
    ) -> Answer:
        content = json.dumps(payload).encode("utf-8")

        def proof() -> bytes:
            return prove(self.base_url + path, content).encode("ascii")

        answer = self.exchange("POST", path, proof, meanwhile, MEDIA_TYPE)
        if answer.status == 404 and answer.media_type == JSON:
            # API Gateway's own answer.
            raise UnexpectedResponseError(f"{answer.url} has no {path}", hint=_EARLIER_RELEASE_HINT)
        return answer
