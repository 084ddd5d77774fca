"""What a connection was refused and went on without, as one value."""

from __future__ import annotations

from typing import NamedTuple


class Fallbacks(NamedTuple):
    """What earlier attempts to connect asked for and did not get; each a sentence, or None if they got it.

    Attributes:
        tls: how the handshake that offered TLS 1.3 failed; this connection offered only TLS 1.2.
        client_id: how the connection's own client id was refused; this connection uses the Thing's name instead.
    """

    tls: str | None = None
    client_id: str | None = None

    @property
    def warnings(self) -> list[str]:
        """The same as messages for a person."""
        warnings = []
        if self.tls is not None:
            warnings.append(f"TLS 1.3 failed, this connection uses TLS 1.2: {self.tls}")
        if self.client_id is not None:
            warnings.append(
                "connected with the Thing's name as client id, which ends any other connection that uses it: "
                f"{self.client_id}"
            )
        return warnings
