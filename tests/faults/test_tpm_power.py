"""A few of what ``scripts/kill-matrix --power`` does: a TPM that loses its power in one of a renewal's commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.devices import Cloud
from tests.support.tpm_power import PowerLife, cut, power_life


@pytest.fixture(scope="module")
def life(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PowerLife]:
    """An enrolled device whose TPM's power can be cut."""
    with power_life(cloud, tmp_path_factory.mktemp("power")) as made:
        yield made


@pytest.fixture(scope="module")
def names(life: PowerLife) -> list[str]:
    """The TPM commands of a renewal."""
    return life.tpm_commands("renew")


def test_d10_power_cuts_of_the_tpm_in_a_renewal(life: PowerLife, names: list[str]) -> None:
    """D10: a TPM that loses its power as it makes the new key, or as that key signs the commit, costs one more run."""
    made, signs = names.index("CreateLoaded"), [at for at, name in enumerate(names) if name == "Sign"]
    assert life.killed("renew", cut(names, made, is_executed=True)) == ""
    assert life.killed("renew", cut(names, signs[-1], is_executed=True)) == ""
    assert set(life.failed_tries) == {1}


def test_d10_power_cuts_of_the_tpm_in_a_login_do_not_make_its_pin_wrong(life: PowerLife, names: list[str]) -> None:
    """D10, D3: tpm2-pkcs11 calls the PIN incorrect then; two cuts in a row leave it the certain PIN that it is."""
    # In the worker of the token, and for MQTT.
    logins = [at for at, name in enumerate(names) if name == "Unseal"]
    before = life.statuses.copy()
    life.prepare("renew")
    for login in logins:
        assert life.interrupt("renew", cut(names, login, is_executed=True)) == ""
    assert life.statuses - before == {10: len(logins)}
    assert (len(logins), life.failed_tries[2]) == (2, 1)
    assert life.repeat("renew") == ""
