"""Block floating point: quantize, decode, and packed bits (arithmetic specification, section 1).

Inside the model a tensor is "block-major": an array (block_size, channels, blocks), so that everything a block shares
is a reduction over axis 0 of long contiguous rows. The public `Blocks` is in the order of the elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import BlockFormat

__all__ = [
    "Blocks", "Float64", "Int", "decode", "encode", "fill_padding", "is_floating", "pack", "quantize",
    "round_half_even", "to_block_major", "unpack",
]  # fmt: skip

Float64 = NDArray[np.float64]
Int = NDArray[np.int64]

_HUGE = 2.0**300  # beyond every format, so an infinite block maximum saturates like a large finite one


@dataclass(frozen=True)
class Blocks:
    """Encoded tensor: `shared_exp` (C, blocks), `sign` and `significand` (C, blocks, block_size), all unsigned."""

    format: BlockFormat
    shared_exp: NDArray[np.uint8]
    sign: NDArray[np.bool_]
    significand: NDArray[np.uint16]


def is_floating(values: NDArray[Any]) -> bool:
    """Whether values are floating-point numbers that float64 holds exactly."""
    return bool(np.issubdtype(values.dtype, np.floating)) and values.dtype.itemsize <= 8


def to_block_major(values: NDArray[Any], block_size: int) -> Float64:
    """(C, m) in element order -> a new (block_size, C, blocks) float64 array, the last block padded with zeros."""
    channels, count = values.shape
    blocks = -(-count // block_size)
    if blocks * block_size != count:
        values = np.pad(values, ((0, 0), (0, blocks * block_size - count)))
    return np.array(values.reshape(channels, blocks, block_size).transpose(2, 0, 1), dtype=np.float64, order="C")


def fill_padding(values: Float64, elements: int, fill: float) -> None:
    """Set what lies behind the first `elements` of each channel of a block-major array, in place."""
    block_size, _, blocks = values.shape
    values[elements - (blocks - 1) * block_size :, :, -1] = fill


def round_half_even(values: Float64, out: Float64 | None = None) -> Float64:
    """RNE to integers."""
    return np.rint(values, out=out)


def floor_log2(magnitude: Float64) -> Int:
    """Exponent of each finite positive value, from its bits (never from a floating log2, wrong just below 2^k)."""
    return np.frexp(magnitude)[1].astype(np.int64) - 1


def encode(values: Float64, fmt: BlockFormat) -> tuple[Float64, Int]:
    """Encode block-major values in place: -> (signed significands as exact floats, shared exponents (C, blocks)).

    `values` may hold infinities (they saturate) but no NaN; the array is overwritten by the significands.
    """
    largest = np.minimum(np.maximum(values.max(axis=0), -values.min(axis=0)), _HUGE)
    shared_exp = np.clip(floor_log2(largest) + fmt.bias, 0, fmt.max_shared_exp)
    steps_per_unit = np.ldexp(1.0, -(shared_exp + fmt.min_exponent))
    with np.errstate(over="ignore"):  # what overflows float64 saturates below
        values *= steps_per_unit
    round_half_even(values, out=values)  # exact: RNE of an exact quotient
    np.clip(values, -fmt.max_significand, fmt.max_significand, out=values)
    shared_exp[(largest == 0) | (round_half_even(largest * steps_per_unit) == 0)] = 0
    return values, shared_exp


def step(shared_exp: Int, fmt: BlockFormat) -> Float64:
    """Value of a significand's last bit for each block."""
    return np.ldexp(1.0, shared_exp + fmt.min_exponent)


def to_blocks(signed: Float64, shared_exp: Int, fmt: BlockFormat) -> Blocks:
    """Block-major signed significands -> public `Blocks`."""
    ordered = np.ascontiguousarray(signed.astype(np.int16).transpose(1, 2, 0))
    return Blocks(fmt, shared_exp.astype(np.uint8), ordered < 0, np.abs(ordered).view(np.uint16))


def quantize(values: NDArray[Any], fmt: BlockFormat) -> Blocks:
    """Encode `values` (C, m) in blocks of consecutive elements; the last block of a channel is padded with zeros.

    Infinities saturate. Raises ValueError for a NaN (naming its index) or another shape or dtype.
    """
    if values.ndim != 2 or not is_floating(values):
        kind = f"{values.dtype} {values.shape}"
        raise ValueError(f"values must be an array (C, m) of float16, float32 or float64, not {kind}")
    if np.isnan(values).any():
        index = tuple(map(int, np.argwhere(np.isnan(values))[0]))
        raise ValueError(f"values must not hold NaN; the first is at index {index}")
    return to_blocks(*encode(to_block_major(values, fmt.block_size), fmt), fmt)


def decode(blocks: Blocks, count: int | None = None) -> Float64:
    """Exact values (C, m) of the first `count` elements of each channel (default: all, padding included)."""
    values = np.where(blocks.sign, -1.0, 1.0) * blocks.significand.astype(np.float64)
    values *= step(blocks.shared_exp.astype(np.int64), blocks.format)[..., None]
    return values.reshape(len(values), -1)[:, :count] + 0.0  # + 0.0: a negative zero decodes to the number 0


def pack(blocks: Blocks) -> NDArray[np.uint8]:
    """Bits (C, blocks, block_bits), first bit lowest: shared_exp, then per element its significand and its sign."""
    fmt = blocks.format
    exp_bits = blocks.shared_exp[..., None] >> np.arange(fmt.exp_bits, dtype=np.uint8) & 1
    words = blocks.significand | blocks.sign.astype(np.uint16) << fmt.significand_bits
    elements = words[..., None] >> np.arange(fmt.element_bits, dtype=np.uint16) & 1
    return np.concatenate([exp_bits, elements.reshape(*words.shape[:2], -1)], axis=-1).astype(np.uint8)


def unpack(bits: NDArray[np.uint8], fmt: BlockFormat) -> Blocks:
    """Inverse of `pack`, for every bit pattern."""
    if bits.ndim != 3 or bits.shape[-1] != fmt.block_bits:
        raise ValueError(f"bits of {fmt} must have the shape (C, blocks, {fmt.block_bits}), not {bits.shape}")
    shared_exp = (bits[..., : fmt.exp_bits].astype(np.uint16) << np.arange(fmt.exp_bits, dtype=np.uint16)).sum(-1)
    elements = bits[..., fmt.exp_bits :].reshape(*bits.shape[:2], fmt.block_size, fmt.element_bits).astype(np.uint16)
    significand = (elements[..., :-1] << np.arange(fmt.significand_bits, dtype=np.uint16)).sum(-1)
    return Blocks(fmt, shared_exp.astype(np.uint8), elements[..., -1].astype(np.bool_), significand.astype(np.uint16))
