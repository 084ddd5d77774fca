"""What a connection has done without, as one value."""

from __future__ import annotations

from typing import NamedTuple


class Fallbacks(NamedTuple):
    """What the first attempts to connect asked for and did not get; a sentence each, or None where nothing was missed.

    Attributes:
        tls: how the handshake that offered TLS 1.3 failed; the connection offered TLS 1.2 alone.
        client_id: how the client id of the connection's own was refused; it has the Thing's name instead.
    """

    tls: str | None = None
    client_id: str | None = None

    @property
    def warnings(self) -> list[str]:
        """The same for a person."""
        warnings = []
        if self.tls is not None:
            warnings.append(f"TLS 1.3 failed, this connection has TLS 1.2: {self.tls}")
        if self.client_id is not None:
            warnings.append(
                f"connected under the Thing's name, which ends any other connection of that name: {self.client_id}"
            )
        return warnings
