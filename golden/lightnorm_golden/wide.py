"""Arithmetic in the wide format K: every operation is exact, then rounded once (arithmetic specification, section 1).

Values are float64 arrays that hold K values exactly. A sum of two K values may need more than 53 bits; it is then kept
rounded to odd, which a second rounding to at least two bits fewer cannot tell from the exact value
(Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 2008).
"""

from __future__ import annotations

import numpy as np

from .block import Float64, round_half_even
from .formats import FloatFormat, WideFormat

__all__ = ["add", "divide", "multiply", "multiply_add", "round_integers", "round_wide", "sum_to_odd"]

AnyFormat = WideFormat | FloatFormat
"""K, or a float format of the conventional machines, which has the same rules with an exponent of other size."""


def round_wide(value: Float64, fmt: AnyFormat) -> Float64:
    """RNE to the format; a magnitude that rounds to below 2^min_exponent becomes +0, above the largest it saturates."""
    fraction, exponent = np.frexp(value)
    rounded = np.ldexp(round_half_even(np.ldexp(fraction, fmt.significand_bits)), exponent - fmt.significand_bits)
    rounded = np.clip(rounded, -fmt.max_value, fmt.max_value)
    return np.where(np.abs(rounded) < 2.0**fmt.min_exponent, 0.0, rounded)


def sum_to_odd(a: Float64, b: Float64) -> Float64:
    """a + b, exact where 53 bits suffice, otherwise rounded to odd."""
    total = a + b
    b_part = total - a
    error = (a - (total - b_part)) + (b - b_part)  # exact (Knuth's TwoSum)
    even = (total.view(np.int64) & 1) == 0
    return np.where((error != 0) & even, np.nextafter(total, np.copysign(np.inf, error)), total)


def add(a: Float64, b: Float64, fmt: AnyFormat) -> Float64:
    """K(a + b)."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return round_wide(sum_to_odd(a, b), fmt)


def multiply(a: Float64, b: Float64 | float, fmt: AnyFormat) -> Float64:
    """K(a * b): the product of two significands of at most 24 bits is exact in float64."""
    return round_wide(a * b, fmt)


def multiply_add(a: Float64, b: Float64 | float, c: Float64 | float, fmt: AnyFormat) -> Float64:
    """K(a * b + c), rounded once."""
    product, addend = np.broadcast_arrays(np.asarray(a * b, np.float64), np.asarray(c, np.float64))
    return round_wide(sum_to_odd(product, addend), fmt)


def divide(a: float, b: Float64, fmt: AnyFormat) -> Float64:
    """K(a / b), b nonzero: a quotient of 24-bit significands is never closer than 2^-49 to a rounding boundary."""
    return round_wide(np.asarray(a / b), fmt)


def drop_to_odd(value: int, count: int) -> int:
    """value / 2^count rounded to odd: what the dropped bits held stays visible in the last bit."""
    return value >> count | (value & ((1 << count) - 1) != 0)


def round_integers(values: list[int], exponent: int, fmt: AnyFormat) -> Float64:
    """K(value * 2^exponent) for integers of any size."""
    excess = [max(value.bit_length() - 53, 0) for value in values]
    kept = np.array([float(drop_to_odd(value, count)) for value, count in zip(values, excess, strict=True)])
    return round_wide(np.ldexp(kept, exponent + np.array(excess)), fmt)
