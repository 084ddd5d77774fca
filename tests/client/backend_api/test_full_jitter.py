"""D16: the random part of a wait begins at zero, so that gateways that failed together do not come back together."""

from __future__ import annotations

import pytest

from hsm_enroll.backend_api.patience import Pause


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 7.0), (0.25, 9.0), (1.0, 15.0)])
def test_a_wait_is_what_is_asked_and_a_random_part_from_zero_to_its_limit(drawn: float, seconds: float) -> None:
    """D16: full jitter; what is drawn is a place between zero and the limit."""
    assert Pause(asked=7, jitter=8).seconds(lambda low, high: low + drawn * (high - low)) == seconds


def test_no_wait_goes_beyond_the_end() -> None:
    """D16: the last try is made when the time is up."""
    assert Pause(asked=0, jitter=8, left=2).seconds(lambda _, high: high) == 2
