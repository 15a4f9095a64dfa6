"""The LightNorm authors' arithmetic, from its description: truncation, groups of 4, aligned to the second-largest
exponent, 8 more bits in sums (Noh et al., ICCD 2022, and what is said of their public emulation).

What the description leaves open is decided here, in its favour where there is a choice:

- A number is truncated towards zero to its format's significand, below the smallest normal number to that one's grid.
- In a group of 4 neighbours every element is then truncated to the grid of the second-largest exponent. The element
  above that exponent keeps its own, finer-than-needed significand; `largest="saturates"` is the other reading, in which
  it must fit the significand at the shared exponent.
- Sums are taken in pairs, as by a tree of adders, and every partial sum is truncated to 8 bits more than the format.
- What exists once per channel is in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightnorm_golden import BlockFormat

from ..wide import floor_log2, power_of_two
from .range_norm import Arithmetic

__all__ = ["AuthorsArithmetic", "truncate_groups", "truncated_sum"]

_FRACTION_BITS = 52


def truncate_groups(x: Tensor, fmt: BlockFormat, shared: str = "second", largest: str = "kept") -> Tensor:
    """x (N, C, H, W) in groups of fmt.block_size elements in (n, h, w) order, truncated: the same shape and dtype.

    shared: the group's exponent is its "second" largest or its "largest" one.
    """
    count, channels, *spatial = x.shape
    flat = x.transpose(0, 1).flatten(1).double()
    elements = flat.shape[1]
    padded = torch.nn.functional.pad(flat, (0, -elements % fmt.block_size))
    groups = padded.view(channels, -1, fmt.block_size).permute(2, 0, 1).contiguous()
    own = floor_log2(groups.abs()).clamp(-fmt.bias, fmt.max_shared_exp - fmt.bias)
    common = own.amax(0)
    if shared == "second":
        at_top = own == common
        others = own.masked_fill(at_top, -fmt.bias).amax(0)
        common = torch.where(at_top.sum(0) > 1, common, others)
    used = common if largest == "saturates" else torch.maximum(own, common)
    significands = (groups * power_of_two(fmt.man_bits - used)).trunc_()
    limit = fmt.max_significand
    groups = significands.clamp_(-limit, limit) * power_of_two(used - fmt.man_bits)
    flat = groups.permute(1, 2, 0).reshape(channels, -1).to(x.dtype)
    return flat[:, :elements].view(channels, count, *spatial).transpose(0, 1)


def truncated_sum(values: Tensor, bits: int) -> Tensor:
    """(C, m) -> (C,): sums of pairs, of pairs of pairs, ..., each truncated to `bits` fraction bits; like values."""
    partial = values.double()
    while partial.shape[1] > 1:
        if partial.shape[1] % 2:
            partial = torch.nn.functional.pad(partial, (0, 1))
        partial = partial[:, 0::2] + partial[:, 1::2]
        partial = (partial.view(torch.int64) & -(1 << _FRACTION_BITS - bits)).view(torch.float64)
    return partial[:, 0].to(values.dtype)


@dataclass(frozen=True)
class AuthorsArithmetic(Arithmetic):
    """The description's defaults; `shared` and `largest` as in `truncate_groups`."""

    activations: BlockFormat = BlockFormat(5, 4, 4)
    gradients: BlockFormat = BlockFormat(6, 3, 4)
    extra_bits: int = 8
    shared: str = "second"
    largest: str = "kept"

    def activation(self, x: Tensor) -> Tensor:
        return truncate_groups(x, self.activations, self.shared, self.largest)

    def gradient(self, g: Tensor) -> Tensor:
        return truncate_groups(g, self.gradients, self.shared, self.largest)

    def activation_sum(self, values: Tensor) -> Tensor:
        return truncated_sum(values, self.activations.man_bits + self.extra_bits)

    def gradient_sum(self, values: Tensor) -> Tensor:
        return truncated_sum(values, self.gradients.man_bits + self.extra_bits)
