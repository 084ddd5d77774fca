"""S6: which RSA moduli give their factors away, and, as much, which do not."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import gcd, isqrt, lcm, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrollment_backend.weak_keys import weakness_of
from tests.support import csr_factory as make

PRIMES = [number for number in range(2, 752) if all(number % divisor for divisor in range(2, number))]
ROCA_PRIMES = PRIMES[:39]  # 2 to 167: "The Return of Coppersmith's Attack", §2
STRONG = make.rsa_key().public_key().public_numbers().n


def without_small_factors(modulus_of: Callable[[], int]) -> int:
    """Return the first of many numbers that has no factor below 752."""
    while gcd(modulus := modulus_of(), prod(PRIMES)) != 1:
        pass
    return modulus


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_s6_an_honest_key_has_no_weakness(bits: int) -> None:
    """S6: what a proper generator makes is let through, at every size there is."""
    assert weakness_of(make.rsa_key(bits).public_key().public_numbers().n) is None


@pytest.mark.parametrize("prime", PRIMES)
def test_s6_a_factor_below_752_is_found(prime: int) -> None:
    """S6: each of the 132 small primes (NIST SP 800-89 §5.3.3)."""
    assert weakness_of(STRONG * prime) == "small-factor"


@pytest.mark.parametrize("factor", [757, 761, 65537])
def test_s6_a_factor_beyond_the_bound_is_not_looked_for(factor: int) -> None:
    """S6: the bound is where the standard has it."""
    assert weakness_of(STRONG * factor) is None


def factored_in(rounds: int, bits: int = 2048) -> int:
    """Return a modulus that Fermat's method factors in exactly that many rounds.

    The method starts at the first a not below √n. For n = A² - B² that is about B²/2A below A, and A is where it ends.
    """
    numbers = iter(range(3 << bits // 2 - 2, 4 << bits // 2 - 2))

    def modulus() -> int:
        a = next(numbers)
        b = isqrt(2 * a * rounds - a)
        return a**2 - b**2

    found = without_small_factors(modulus)
    assert found.bit_length() == bits
    return found


@pytest.mark.parametrize(
    ("rounds", "weakness"), [(1, "close-primes"), (2, "close-primes"), (100, "close-primes"), (101, None)]
)
@pytest.mark.parametrize("bits", [2048, 4096])
def test_s6_fermat_gets_one_hundred_rounds(bits: int, rounds: int, weakness: str | None) -> None:
    """S6: close primes are found in the hundred rounds the Baseline Requirements ask for, and there are no more."""
    assert weakness_of(factored_in(rounds, bits)) == weakness


def test_s6_a_square_is_the_closest_of_all() -> None:
    """S6: p = q is found."""
    assert weakness_of(STRONG**2) == "close-primes"


def roca_prime(bits: int, factors: int, random_: random.Random) -> int:
    """Return k*M + (65537^a mod M), M the product of so many primes. Prime or not: the form is what counts."""
    primes = [number for number in range(2, 1500) if all(number % divisor for divisor in range(2, isqrt(number) + 1))]
    product = prod(primes[:factors])
    k = random_.randrange((3 << bits - 2) // product + 1, (1 << bits) // product)
    return k * product + pow(65537, random_.getrandbits(62), product)


@pytest.mark.parametrize(("bits", "factors"), [(2048, 126), (3072, 126), (4096, 225)])
@pytest.mark.parametrize("seed", range(5))
def test_s6_a_modulus_of_rsalibs_form_is_found(bits: int, factors: int, seed: int) -> None:
    """S6: the form of RSALib's primes, with as many factors in M as the paper's §2 gives for the size."""
    random_ = random.Random(seed)

    def modulus() -> int:
        return roca_prime(bits // 2, factors, random_) * roca_prime(bits // 2, factors, random_)

    assert weakness_of(without_small_factors(modulus)) == "roca"


def with_residues(residues: dict[int, int]) -> int:
    """Return a number of 2048 bits with these residues modulo the 39 primes (Chinese remainder theorem)."""
    product = prod(residues)
    least = sum(rest * (product // prime) * pow(product // prime, -1, prime) for prime, rest in residues.items())
    random_ = random.Random(39)
    return without_small_factors(lambda: least % product + random_.getrandbits(2048 - product.bit_length()) * product)


def powers(prime: int) -> list[int]:
    """Return the powers of 65537 modulo a prime, from 65537^0 on."""
    found = [1 % prime]
    while (power := found[-1] * 65537 % prime) != found[0]:
        found.append(power)
    return found


@settings(max_examples=200, deadline=None)
@given(exponent=st.integers(0, lcm(*(len(powers(prime)) for prime in ROCA_PRIMES)) - 1))
def test_s6_every_power_of_65537_modulo_the_39_primes_is_found(exponent: int) -> None:
    """S6: the fingerprint itself, whatever the discrete logarithm is."""
    assert weakness_of(with_residues({prime: pow(65537, exponent, prime) for prime in ROCA_PRIMES})) == "roca"


@pytest.mark.parametrize("prime", [prime for prime in ROCA_PRIMES if len(powers(prime)) < prime - 1])
def test_s6_a_residue_off_the_powers_at_one_prime_is_not_roca(prime: int) -> None:
    """S6: each of the primes that can tell does tell; one is enough to clear a key."""
    residues = {each: pow(65537, 2017, each) for each in ROCA_PRIMES}
    residues[prime] = min(set(range(1, prime)) - set(powers(prime)))
    assert weakness_of(with_residues(residues)) is None


def telling(factor: int) -> list[int]:
    """Return the primes at which the exponent of 65537 is known modulo that factor."""
    return [prime for prime in ROCA_PRIMES if len(powers(prime)) % factor == 0]


@pytest.mark.parametrize("factor", [factor for factor in PRIMES if len(telling(factor)) > 1])
def test_s6_powers_with_exponents_that_disagree_are_not_roca(factor: int) -> None:
    """S6: a power at each prime, as the first public detectors had it, is not enough: it must be the same power."""
    residues = {prime: pow(65537, 2017, prime) for prime in ROCA_PRIMES}
    shift = len(powers(telling(factor)[0]))
    while shift % factor == 0:
        shift //= factor
    residues[telling(factor)[0]] *= pow(65537, shift, telling(factor)[0])
    assert weakness_of(with_residues(residues)) is None
