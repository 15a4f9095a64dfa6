"""scale * z + term per element, exact before its one rounding (arithmetic specification, sections 5 and 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightnorm_golden import BlockFormat, NormSpec

from .block import Quantized, blocks_at, encode, round_significands, step_of
from .wide import power_of_two, sum_to_odd

__all__ = ["extremum_blocks", "scale_and_add"]

_FLOAT64_BITS = 53


def scale_and_add(z: Quantized, scale: Tensor, term: Tensor, fmt: BlockFormat, spec: NormSpec) -> tuple[Tensor, Tensor]:
    """Values of a format (overwritten), scale and term (C,) -> scale * z + term, rounded to the format: signed, step.

    In a block the result grows (or falls) with the significand, so that its largest magnitude, and with it the new
    step, come from one of the block's ends: the one on the side of zero where their middle is. The rest
    is computed in units of the new step: n * factor + offset.
    """
    signed, step, high, low = z
    factor = scale[:, None] * power_of_two(step)
    term = term[:, None]
    positive_middle = (high + low) * factor + 2 * term >= 0  # a rounded sum has the sign of the exact one
    end = torch.where(positive_middle == (factor >= 0), high, low)
    new_step = step_of(sum_to_odd(end * factor, term).abs(), fmt)
    factor, offset = factor * power_of_two(-new_step), term * power_of_two(-new_step)
    if 2 * fmt.man_bits + spec.scale_man_bits + spec.coef_man_bits + 9 <= _FLOAT64_BITS:
        # With P, a, c the fraction bits of the format, the scale and the term: near a tie, thus at 1/4 or more, the
        # offset lies on a tie or at least 2^-(c+2) beside it, n * factor at least 2^-(a+P+3), and no element exceeds
        # 2^(P+2) but by saturating or by parts that cancel exactly. A part below these distances decides ties by its
        # sign alone: raised to a fixed tiny size, it leaves sums of at most 2P+a+c+9 bits, which float64 holds.
        signed *= _at_least(factor, 2.0 ** -(spec.coef_man_bits + fmt.man_bits + 4))
        signed += _at_least(offset, 2.0 ** -(spec.scale_man_bits + fmt.man_bits + 5))
    else:
        signed = sum_to_odd(signed * factor, offset)
    return round_significands(signed, fmt), new_step


def _at_least(values: Tensor, smallest: float) -> Tensor:
    """Nonzero values with their magnitude raised to the smallest."""
    return torch.where(values == 0, values, torch.copysign(values.abs().clamp(min=smallest), values))


def extremum_blocks(
    z: Quantized, scale: Tensor, terms: tuple[Tensor, Tensor, Tensor],
    positions: tuple[Tensor, Tensor], elements: int, fmt: BlockFormat, *, everywhere: bool,
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:  # fmt: skip
    """scale * z + term of the blocks that hold a chunk's max, then of those that hold its min.

    terms (C,): ordinary, at a max, at a min; an element that is both is ordinary. positions (C, chunks): of the max and
    the min; one that is not below `elements` is left out unless they are `everywhere`. -> channel and block (...),
    significands (block_size, ...), step (...).
    """
    signed, step = z.signed, z.step
    unit, each_term = scale[:, None] * power_of_two(step), torch.stack(terms)
    both = positions[0] == positions[1]
    kind = torch.zeros_like(signed, dtype=torch.uint8)
    places = []
    for number, position in enumerate(positions, start=1):
        channel = torch.arange(len(scale), device=scale.device)[:, None].expand_as(position)
        number_here = torch.where(both, 0, number).to(torch.uint8)
        if not everywhere:  # as many as there are: this waits for the device
            here = position < elements
            position, channel, number_here = position[here], channel[here], number_here[here]
        block = position // len(signed)
        kind[position % len(signed), channel, block] = number_here
        places.append((channel, block))
    found = []
    for channel, block in places:
        term = each_term[blocks_at(kind, channel, block).to(torch.int64), channel]
        exact = sum_to_odd(blocks_at(signed, channel, block) * unit[channel, block], term)
        lane = torch.arange(len(signed), device=scale.device).view(-1, *[1] * block.dim())
        exact = torch.where(block * len(signed) + lane < elements, exact, 0.0)
        found.append((channel, block, *encode(exact, fmt)))
    return found
