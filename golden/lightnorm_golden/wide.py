"""Arithmetic in the wide format K: every operation is exact, then rounded once (arithmetic specification, section 1).

Values are float64 arrays that hold K values exactly. A sum of two K values may need more than 53 bits; it is then kept
rounded to odd, which a second rounding to at least two bits fewer cannot tell from the exact value
(Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 2008).
"""

from __future__ import annotations

import numpy as np

from .block import Float64
from .formats import WideFormat

__all__ = ["add", "divide", "multiply", "round_integer", "round_wide", "sum_to_odd"]


def round_wide(value: Float64, fmt: WideFormat) -> Float64:
    """RNE to the format; magnitudes below 2^-126 after rounding become +0, above the largest finite value it saturates."""
    fraction, exponent = np.frexp(value)
    rounded = np.ldexp(np.rint(np.ldexp(fraction, fmt.significand_bits)), exponent - fmt.significand_bits)
    rounded = np.clip(rounded, -fmt.max_value, fmt.max_value)
    return np.where(np.abs(rounded) < 2.0**fmt.min_exponent, 0.0, rounded)


def sum_to_odd(a: Float64, b: Float64) -> Float64:
    """a + b, exact where 53 bits suffice, otherwise rounded to odd."""
    total = a + b
    b_part = total - a
    error = (a - (total - b_part)) + (b - b_part)  # exact (Knuth's TwoSum)
    even = (total.view(np.int64) & 1) == 0
    return np.where((error != 0) & even, np.nextafter(total, np.copysign(np.inf, error)), total)


def add(a: Float64, b: Float64, fmt: WideFormat) -> Float64:
    """K(a + b)."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return round_wide(sum_to_odd(a, b), fmt)


def multiply(a: Float64, b: Float64 | float, fmt: WideFormat) -> Float64:
    """K(a * b): the product of two significands of at most 24 bits is exact in float64."""
    return round_wide(a * b, fmt)


def divide(a: float, b: Float64, fmt: WideFormat) -> Float64:
    """K(a / b), b nonzero: a quotient of 24-bit significands is never closer than 2^-49 to a rounding boundary."""
    return round_wide(np.asarray(a / b), fmt)


def round_integer(value: int, exponent: int, fmt: WideFormat) -> float:
    """K(value * 2^exponent) for an integer of any size."""
    magnitude = abs(value)
    excess = max(magnitude.bit_length() - 53, 0)
    if excess:
        sticky = magnitude & ((1 << excess) - 1) != 0
        magnitude = magnitude >> excess | sticky
    exact = np.ldexp(float(magnitude), exponent + excess)
    return float(np.copysign(1.0, value) * round_wide(np.asarray(exact), fmt)) + 0.0
