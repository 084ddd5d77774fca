"""Power that goes at each call of a use case in turn, in a world in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from tests.support.world import PowerCut, World


def cut_off(
    home: Path, made: Callable[[Path], World], run: Callable[[World, Path], object], *, has_effect: bool, least: int
) -> Iterator[tuple[World, Path]]:
    """Cut a use case off at its first call, then in a new folder at its second one, and so on until it ends.

    Args:
        home: where the folders are.
        made: returns the world for a folder.
        run: runs the use case in both.
        has_effect: whether power goes after the call's effect, or before.
        least: the fewest calls that the whole use case has.

    Yields:
        The world and the folder as the cut has left them; power is back.
    """
    for number in count(1):
        folder = home / str(number)
        world = made(folder)
        world.dies_at = (number, has_effect)
        try:
            run(world, folder)
        except PowerCut:
            pass
        else:
            assert number > len(world.calls) >= least
            return
        world.dies_at = None
        yield world, folder
