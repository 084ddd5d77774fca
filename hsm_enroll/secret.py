"""A string that is redacted wherever it is shown."""

from __future__ import annotations

import hmac

PIN_VARIABLE = "HSM_ENROLL_PIN"
"""The variable that may have the PIN: programs that this one starts on a device do not get it."""


class Secret:
    """A PIN, an invite code or an authorisation value on its way to the one call that needs it.

    ``repr``, ``str`` and formatting give ``[redacted]``, and it cannot be pickled; only :meth:`reveal` returns the
    value. Does *not* erase the value from memory: Python cannot guarantee that.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value; call this only in the argument list of the call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "[redacted]"

    def __format__(self, specification: str) -> str:
        return format(repr(self), specification)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # An environment variable that is not valid UTF-8 contains surrogates (PEP 383).
        return hmac.compare_digest(
            self._value.encode(errors="surrogatepass"), other._value.encode(errors="surrogatepass")
        )

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret cannot be serialised")


def keep_out_of_core_dumps() -> None:
    """Have this process, and those that it starts, leave no core dump, which would hold PIN and invite (core(5)).

    Changes only the soft limit, which a program that is started may raise again. Does *not* prevent what a debugger
    reads.
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
