"""Can this RSA key be computed from its public half? A number in, the name of its weakness out.

The weaknesses are the ones for which the CA/Browser Forum's Baseline Requirements name a test that needs the key alone
(§6.1.1.3, §6.1.6). It takes ten lines each; a library for it brings a compiled one along for its big integers.
"""

from __future__ import annotations

from functools import cache
from math import gcd, isqrt, prod

_SMALLEST_FACTOR = 752  # NIST SP 800-89 §5.3.3: no factor below it
_COMPOSITES = {
    multiple
    for divisor in range(2, isqrt(_SMALLEST_FACTOR) + 1)
    for multiple in range(divisor**2, _SMALLEST_FACTOR, divisor)
}
_SMALL_PRIMES = [number for number in range(2, _SMALLEST_FACTOR) if number not in _COMPOSITES]
_SMALL_PRIMES_PRODUCT = prod(_SMALL_PRIMES)  # one gcd in the place of 132 divisions

_FERMAT_ROUNDS = 100  # Baseline Requirements §6.1.1.3, "Close Primes vulnerability"

# "The Return of Coppersmith's Attack" (Nemec et al., ACM CCS 2017), §2: RSALib's primes are k*M + (65537^a mod M), M
# being the product of the first 39 primes or a multiple of it. So modulo the product of these 39, whatever the key's
# size, the modulus is a power of 65537: for a key made otherwise that happens once in 2^150 times.
_ROCA_GENERATOR = 65537
_ROCA_PRODUCT = prod(_SMALL_PRIMES[:39])
# The order of 65537 modulo that product, split into powers of primes. Each is small: that is what makes the discrete
# logarithm easy (Pohlig and Hellman).
_ROCA_ORDER_PARTS = (16, 81, 25, 7, 11, 13, 17, 23, 29, 37, 41, 53, 83)
_ROCA_ORDER = prod(_ROCA_ORDER_PARTS)


def weakness_of(modulus: int) -> str | None:
    """Name the first weakness found: ``small-factor``, ``close-primes`` or ``roca``; None if there is none.

    Args:
        modulus: n of an RSA public key, positive.

    Does not check whether n has two prime factors or is one prime or a power of one: that takes a modular power as
    costly as a private key's use. Does not know keys that others have too, such as Debian's of 2006 to 2008, or those
    that share a prime: that takes a list of them.
    """
    if gcd(modulus, _SMALL_PRIMES_PRODUCT) != 1:
        return "small-factor"
    if _fermat_factors(modulus):
        return "close-primes"
    if _is_power_of_roca_generator(modulus):
        return "roca"
    return None


def _fermat_factors(modulus: int) -> bool:
    """Look for n = a² - b² with a near √n: that finds primes close to each other, and equal ones at once."""
    root = isqrt(modulus - 1) + 1
    differences = (a * a - modulus for a in range(root, root + _FERMAT_ROUNDS))
    return any(isqrt(difference) ** 2 == difference for difference in differences)


def _is_power_of_roca_generator(modulus: int) -> bool:
    """Look for a discrete logarithm: there is one if there is one in the subgroup of each part of the order."""
    return pow(modulus, _ROCA_ORDER, _ROCA_PRODUCT) == 1 and all(
        pow(modulus, _ROCA_ORDER // part, _ROCA_PRODUCT) in _roca_subgroup(part) for part in _ROCA_ORDER_PARTS
    )


@cache
def _roca_subgroup(part: int) -> frozenset[int]:
    generator = pow(_ROCA_GENERATOR, _ROCA_ORDER // part, _ROCA_PRODUCT)
    return frozenset(pow(generator, exponent, _ROCA_PRODUCT) for exponent in range(part))
