"""Exact sums of integers times powers of two, and their one rounding to K (arithmetic specification, section 4).

A sum is a row of int64 limbs, `sum of limb[i] * 2^(16 i)`: no order of addition, on no device and over no number of
processes, changes it, and limbs of several sums may be added. Up to 2^24 terms below 2^22 each (section 7's D, the
largest), shifted by up to 15 bits inside their limb, stay below 2^61, so int64 never overflows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightnorm_golden import WideFormat

from .wide import power_of_two, round_wide

__all__ = ["exact_sum", "round_sum"]

_LIMB_BITS = 16
_SPARE_LIMBS = 3  # for carries: 46 bits of a sum of unshifted terms
_ENOUGH = 1 << 30  # 24 bits of K and two more for its rounding, with room


def exact_sum(terms: Tensor, shifts: Tensor, max_shift: int) -> Tensor:
    """Sum over the last axis of `terms * 2^shifts` -> int64 (rows, limbs).

    terms: (rows, n) integers, of any dtype. shifts: (rows, n) int64 in [0, max_shift].
    """
    rows, limbs = len(terms), max_shift // _LIMB_BITS + 1 + _SPARE_LIMBS
    values = terms.to(torch.int64) << (shifts & (_LIMB_BITS - 1))
    row = torch.arange(rows, device=terms.device)[:, None] * limbs
    sums = torch.zeros(rows * limbs, dtype=torch.int64, device=terms.device)
    sums = sums.index_add(0, ((shifts >> _LIMB_BITS.bit_length() - 1) + row).flatten(), values.flatten())
    return sums.view(rows, limbs)


def round_sum(limbs: Tensor, exponent: int, fmt: WideFormat) -> Tensor:
    """K(number * 2^exponent) of each row, float64 (rows,)."""
    *lower, kept = _carry(limbs).unbind(1)
    dropped = torch.zeros_like(kept)  # limbs
    sticky = torch.zeros_like(kept, dtype=torch.bool)
    for limb in reversed(lower):
        full = kept.abs() >= _ENOUGH
        sticky = sticky | (full & (limb != 0))
        dropped = dropped + full
        kept = torch.where(full, kept, (kept << _LIMB_BITS) + limb)
    # what was dropped lies between 0 and 1 unit above `kept`: setting the last bit rounds to odd, for both signs
    return round_wide((kept | sticky).to(torch.float64) * power_of_two(dropped * _LIMB_BITS + exponent), fmt)


def _carry(limbs: Tensor) -> Tensor:
    """The same numbers with every limb but the last in [0, 2^16); the last one has the sign."""
    result, carried = [], torch.zeros_like(limbs[:, 0])
    for limb in limbs.unbind(1)[:-1]:
        total = limb + carried
        result.append(total & ((1 << _LIMB_BITS) - 1))
        carried = total >> _LIMB_BITS
    return torch.stack([*result, limbs[:, -1] + carried], dim=1)
