"""Finds RSA keys whose private key can be computed from the public key. Pure.

It tests for the weaknesses that the CA/Browser Forum's Baseline Requirements list (§6.1.1.3, §6.1.6) and that show in
the key alone. Each test takes ten lines; a library for them would add a compiled dependency for its big integers.
"""

from __future__ import annotations

from functools import cache
from math import gcd, isqrt, prod

_SMALLEST_FACTOR = 752  # NIST SP 800-89 §5.3.3: no factor below this
_COMPOSITES = {
    multiple
    for divisor in range(2, isqrt(_SMALLEST_FACTOR) + 1)
    for multiple in range(divisor**2, _SMALLEST_FACTOR, divisor)
}
_SMALL_PRIMES = [number for number in range(2, _SMALLEST_FACTOR) if number not in _COMPOSITES]
_SMALL_PRIMES_PRODUCT = prod(_SMALL_PRIMES)  # one gcd instead of 132 divisions

_FERMAT_ROUNDS = 100  # Baseline Requirements §6.1.1.3, "Close Primes vulnerability"

# "The Return of Coppersmith's Attack" (Nemec et al., ACM CCS 2017), §2: RSALib's primes are k*M + (65537^a mod M),
# where M is the product of the first 39 primes or a multiple of it. So modulo the product of these 39 primes, a modulus
# of any size is a power of 65537. For a key from another generator, the probability of that is 2^-150.
_ROCA_GENERATOR = 65537
_ROCA_PRODUCT = prod(_SMALL_PRIMES[:39])
# The order of 65537 modulo that product, as powers of primes. All are small, which makes the discrete logarithm easy
# (Pohlig and Hellman).
_ROCA_ORDER_PARTS = (16, 81, 25, 7, 11, 13, 17, 23, 29, 37, 41, 53, 83)
_ROCA_ORDER = prod(_ROCA_ORDER_PARTS)


def weakness_of(modulus: int) -> str | None:
    """Return the first weakness found: ``small-factor``, ``close-primes`` or ``roca``; None if there is none.

    Args:
        modulus: n of an RSA public key, positive.

    Does not check that n is the product of two primes, rather than a prime or a power of one: that would cost as much
    as a private-key operation. Does not recognize keys that others have too, such as Debian's of 2006 to 2008, or keys
    that share a prime: that would require a list of such keys.
    """
    if gcd(modulus, _SMALL_PRIMES_PRODUCT) != 1:
        return "small-factor"
    if _fermat_factors(modulus):
        return "close-primes"
    if _is_power_of_roca_generator(modulus):
        return "roca"
    return None


def _fermat_factors(modulus: int) -> bool:
    """Whether n = a² - b² for an a close to √n, as it is if the primes are close to each other, or equal."""
    root = isqrt(modulus - 1) + 1
    differences = (a * a - modulus for a in range(root, root + _FERMAT_ROUNDS))
    return any(isqrt(difference) ** 2 == difference for difference in differences)


def _is_power_of_roca_generator(modulus: int) -> bool:
    """Whether the discrete logarithm exists; it does if it exists in the subgroup of each part of the order."""
    return pow(modulus, _ROCA_ORDER, _ROCA_PRODUCT) == 1 and all(
        pow(modulus, _ROCA_ORDER // part, _ROCA_PRODUCT) in _roca_subgroup(part) for part in _ROCA_ORDER_PARTS
    )


@cache
def _roca_subgroup(part: int) -> frozenset[int]:
    generator = pow(_ROCA_GENERATOR, _ROCA_ORDER // part, _ROCA_PRODUCT)
    return frozenset(pow(generator, exponent, _ROCA_PRODUCT) for exponent in range(part))
