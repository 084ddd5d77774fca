"""Some more looks where a token of SoftHSM is missing: it is during every login of any other program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from hsm_enroll import softhsm
from hsm_enroll.errors import ModuleUnusableError
from hsm_enroll.key import TokenName
from hsm_enroll.token import modules


class _Named(Protocol):
    @property
    def name(self) -> TokenName: ...


_Token = TypeVar("_Token", bound=_Named)

# Another program may log in again and again.
_MORE_LOOKS = 3


def tokens(module: Path, look: Callable[[], list[_Token]]) -> list[_Token]:
    """Return a module's tokens; if one of SoftHSM's is missing, or cannot be read, initialise it and look again.

    Args:
        module: the module; there is no session yet.
        look: returns its tokens.

    Raises:
        ModuleMissingError, ModuleUnusableError: what `look` raises the last time.
    """
    for _ in range(_MORE_LOOKS):
        try:
            found = look()
        except ModuleUnusableError:
            if modules.maker(module) != softhsm.MAKER:
                raise
        else:
            if not _is_one_away(found):
                return found
        modules.shut_down(module)
    return look()


def _is_one_away(tokens: Iterable[_Named]) -> bool:
    """Whether a token of SoftHSM is missing, and not for ever."""
    ours = [token.name for token in tokens if token.name.manufacturer == softhsm.MANUFACTURER]
    folders = softhsm.missing(name.serial for name in ours) if ours else []
    return any(not softhsm.is_lost(folder) for folder in folders)
