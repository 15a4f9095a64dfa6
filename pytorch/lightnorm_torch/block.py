"""Block floating point in PyTorch (arithmetic specification, sections 1 and 2).

Tensors are "block-major" inside: (block_size, C, blocks), so that what a block shares is a reduction over the first
axis of long contiguous rows. Values of a format are pairs: `signed`, float64 significands with their sign, and `step`,
the int64 (C, blocks) exponents of a significand's last bit. A block of zeros may have any step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightnorm_golden import BlockFormat

from .wide import floor_log2, power_of_two

__all__ = [
    "Quantized",
    "blocks_at",
    "decode",
    "encode",
    "holds",
    "quantize",
    "reblock",
    "round_significands",
    "step_of",
]


def holds(dtype: torch.dtype, fmt: BlockFormat) -> bool:
    """Whether every value of the format is a value of the floating-point dtype."""
    info = torch.finfo(dtype)
    return (
        info.eps <= 2.0**-fmt.man_bits
        and info.smallest_normal * info.eps <= 2.0**fmt.min_exponent
        and info.max >= fmt.max_significand * 2.0 ** (fmt.min_exponent + fmt.max_shared_exp)
    )


def block_major(x: Tensor, block_size: int) -> Tensor:
    """(N, C, *spatial) -> a new float64 (block_size, C, blocks), in (n, h, w) order, padded with zeros."""
    count, channels = x.shape[:2]
    images = count if x[0, 0].numel() % block_size == 0 else 1  # whole blocks in an image: one copy is enough
    flat = x if images == count else x.transpose(0, 1).reshape(1, channels, -1)
    flat = flat.reshape(images, channels, -1)
    if flat.shape[2] % block_size:
        flat = torch.nn.functional.pad(flat, (0, -flat.shape[2] % block_size))
    blocked = flat.view(images, channels, -1, block_size).permute(3, 1, 0, 2)
    blocked = blocked.to(torch.float64, memory_format=torch.contiguous_format, copy=True)
    return blocked.view(block_size, channels, -1)


def decode(signed: Tensor, step: Tensor, like: Tensor) -> Tensor:
    """Significands (overwritten) -> values in the shape, dtype and memory format of `like` (N, C, *spatial)."""
    block_size, channels, _ = signed.shape
    whole = like[0, 0].numel() % block_size == 0
    count = len(like) if whole else 1
    signed *= power_of_two(step)
    ordered = signed.view(block_size, channels, count, -1).permute(2, 1, 3, 0)
    values = ordered.to(like.dtype, memory_format=torch.contiguous_format, copy=True).view(count, channels, -1)
    values += 0.0  # a rounded-off negative is the number 0
    if whole and like.is_contiguous():
        return values.view(like.shape)
    ordered = values[..., : like.numel() // (count * channels)].reshape(count, channels, -1)
    if not whole:
        ordered = ordered.reshape(channels, len(like), -1).transpose(0, 1)
    return torch.empty_like(like).copy_(ordered.reshape(like.shape))


def step_of(largest: Tensor, fmt: BlockFormat) -> Tensor:
    """Exponent of the last bit of blocks whose largest magnitudes (float64, at least 0) these are (section 1)."""
    return floor_log2(largest).clamp(-fmt.bias, fmt.max_shared_exp - fmt.bias) - fmt.man_bits


def round_significands(values: Tensor, fmt: BlockFormat) -> Tensor:
    """RNE to integers, saturating, in place."""
    return values.round_().clamp_(-fmt.max_significand, fmt.max_significand)


def encode(values: Tensor, fmt: BlockFormat) -> tuple[Tensor, Tensor]:
    """Round exact block-major values, in place: -> (signed, step)."""
    step = step_of(torch.maximum(values.amax(0), -values.amin(0)).abs(), fmt)
    values *= power_of_two(-step)
    return round_significands(values, fmt), step


class Quantized(NamedTuple):
    """`signed` and `step`, and the largest and smallest significand of each block, without padding: (C, blocks)."""

    signed: Tensor
    step: Tensor
    high: Tensor
    low: Tensor


def quantize(x: Tensor, fmt: BlockFormat) -> Quantized:
    """x (N, C, *spatial) in the format. Infinities saturate."""
    values = block_major(x, fmt.block_size)
    high, low = values.amax(0), values.amin(0)
    step = step_of(torch.maximum(high, -low).abs(), fmt)
    unit = power_of_two(-step)
    values *= unit  # exact, or infinite, or below every tie
    signed = round_significands(values, fmt)
    high, low = round_significands(high * unit, fmt), round_significands(low * unit, fmt)  # rounding keeps the order
    tail = x.numel() // x.shape[1] - (step.shape[1] - 1) * fmt.block_size
    if tail != fmt.block_size:
        last = signed[:tail, :, -1]
        high[:, -1], low[:, -1] = last.amax(0), last.amin(0)
    return Quantized(signed, step, high, low)


def blocks_at(signed: Tensor, channel: Tensor, block: Tensor) -> Tensor:
    """signed[:, channel, block], for index tensors of one shape (...): (block_size, ...)."""
    flat = (channel * signed.shape[2] + block).flatten()
    return signed.flatten(1).index_select(1, flat).view(len(signed), *block.shape)


def reblock(signed: Tensor, step: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The same values in blocks of `size`, a divisor of the block size."""
    block_size, channels, blocks = signed.shape
    if size == block_size:
        return signed, step
    pieces = signed.permute(1, 2, 0).reshape(channels, blocks * (block_size // size), size).permute(2, 0, 1)
    return pieces, step.repeat_interleave(block_size // size, dim=1)
