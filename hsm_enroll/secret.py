"""A string that does not show itself."""

from __future__ import annotations

import hmac


class Secret:
    """A PIN, an invite code or an authorisation value on its way to the one call that needs it.

    ``repr``, ``str`` and formatting give ``[redacted]``, and it cannot be pickled; only :meth:`reveal` tells.
    Does *not* erase the value from memory: Python cannot promise that.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value; call it in the argument list of the call that needs it, and nowhere else."""
        return self._value

    def __repr__(self) -> str:
        return "[redacted]"

    def __format__(self, specification: str) -> str:
        return format(repr(self), specification)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # An environment variable that is not UTF-8 arrives with surrogates (PEP 383); they compare like the rest.
        return hmac.compare_digest(
            self._value.encode(errors="surrogatepass"), other._value.encode(errors="surrogatepass")
        )

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not serialised")
