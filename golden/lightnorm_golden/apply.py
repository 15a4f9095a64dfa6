"""scale * z + b per element, exact, before its one rounding (arithmetic specification, sections 5 and 7)."""

from __future__ import annotations

import numpy as np

from .block import Float64, Int, floor_log2, step
from .formats import BlockFormat
from .spec import NormSpec
from .wide import sum_to_odd

__all__ = ["scale_and_add"]

_FLOAT64_BITS = 53


def scale_and_add(
    signed: Float64, shared_exp: Int, fmt: BlockFormat, scale: Float64, term: Float64, spec: NormSpec
) -> Float64:
    """Block-major significands (block_size, C, blocks), scale and term (C,) -> scale * z + term, in place.

    The result is exact, or rounded to odd where 53 bits do not hold it: one later rounding gives the same bits.
    """
    factor = scale[:, None] * step(shared_exp, fmt)  # a power of two times 8 bits: exact
    signed *= factor
    if _span(factor, term, fmt, spec) <= _FLOAT64_BITS:
        signed += term[:, None]
        return signed
    return sum_to_odd(signed, np.broadcast_to(term[:, None], signed.shape))


def _span(factor: Float64, term: Float64, fmt: BlockFormat, spec: NormSpec) -> int:
    """Most bits an exact sum can need: from the lower of the two last bits to above the higher of the first bits."""
    both = (factor != 0) & (term[:, None] != 0)
    if not both.any():
        return 0
    factor_exp = floor_log2(np.abs(factor))
    term_exp = floor_log2(np.abs(term))[:, None]
    low = np.minimum(factor_exp - spec.scale_man_bits, term_exp - spec.coef_man_bits)
    high = np.maximum(factor_exp + fmt.significand_bits, term_exp) + 2
    return int((high - low)[both].max())
