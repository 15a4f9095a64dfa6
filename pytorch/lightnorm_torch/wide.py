"""The wide format K in PyTorch (arithmetic specification, section 1): every operation is exact, then rounded once.

Tensors are float64 and hold K values exactly. All bits are made with integer operations on the words of float64, which
every device does alike; nothing here depends on a library's logarithm or power. A NaN stays a NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightnorm_golden import WideFormat

__all__ = ["add", "divide", "floor_log2", "multiply", "power_of_two", "round_scalar", "round_wide", "sum_to_odd"]

_FRACTION_BITS = 52
_BIAS = 1023


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float64, for int64 exponents in [-1022, 1023]."""
    return ((exponent + _BIAS) << _FRACTION_BITS).view(torch.float64)


def floor_log2(magnitude: Tensor) -> Tensor:
    """Exponent (int64) of float64 values of at least 0: -1023 for 0 and subnormals, 1024 for infinity and NaN."""
    return (magnitude.view(torch.int64) >> _FRACTION_BITS) - _BIAS


def round_wide(value: Tensor, fmt: WideFormat) -> Tensor:
    """RNE to the format; a magnitude that rounds to below 2^-126 becomes +0, above the largest value it saturates."""
    drop = _FRACTION_BITS - fmt.man_bits
    word = value.view(torch.int64)
    # half a unit less one bit, and that bit for an odd significand; a carry into the exponent is the right exponent
    word = (word + ((1 << drop - 1) - 1) + (word >> drop & 1)) & -(1 << drop)
    rounded = word.view(torch.float64).clamp(-fmt.max_value, fmt.max_value)
    rounded = torch.where(rounded.abs() < 2.0**fmt.min_exponent, 0.0, rounded)
    return torch.where(value.isnan(), value, rounded)  # the word of a NaN may be any, and overflow


def round_scalar(value: float, fmt: WideFormat) -> float:
    """`round_wide` of a host's number; Python's `round` is RNE too."""
    fraction, exponent = math.frexp(value)
    rounded = math.ldexp(round(math.ldexp(fraction, fmt.significand_bits)), exponent - fmt.significand_bits)
    rounded = min(max(rounded, -fmt.max_value), fmt.max_value)
    return rounded if abs(rounded) >= 2.0**fmt.min_exponent else 0.0


def sum_to_odd(a: Tensor, b: Tensor) -> Tensor:
    """a + b of float64 tensors, exact where 53 bits suffice, otherwise rounded to odd.

    A later rounding to at least two bits fewer gives the bits of the exact sum (Boldo and Melquiond, "Emulation of FMA
    and correctly rounded sums", IEEE TC 2008). The error of the sum is Knuth's TwoSum.
    """
    total = a + b
    b_part = total - a
    error = (b - b_part) + (a - (total - b_part))
    word = total.view(torch.int64)
    # of the two neighbours of an inexact sum one is odd: the one towards the error, if the sum itself is even
    outward = torch.where((error > 0) == (total > 0), 1, -1)
    move = (error != 0) & (word & 1 == 0)
    return (word + outward * move).view(torch.float64)


def add(a: Tensor, b: Tensor, fmt: WideFormat) -> Tensor:
    """K(a + b)."""
    return round_wide(sum_to_odd(a, b), fmt)


def multiply(a: Tensor, b: Tensor | float, fmt: WideFormat) -> Tensor:
    """K(a * b): the product of two significands of at most 24 bits is exact in float64."""
    return round_wide(a * b, fmt)


def divide(a: float, b: Tensor, fmt: WideFormat) -> Tensor:
    """K(a / b), b nonzero: a quotient of significands of at most 24 bits is never a tie, nor within 2^-49 of one."""
    return round_wide(a / b, fmt)
