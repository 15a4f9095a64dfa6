"""Exact per-channel statistics and the host's constants (arithmetic specification, sections 2 to 4).

Sums are Python integers in units of the format's smallest step: block sums are binned by exponent in float64 (every bin
stays below 2^53 for 2^24 elements), then the few bins of a channel are put together without rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from .block import Float64, Int, fill_padding
from .formats import BlockFormat
from .spec import NormSpec
from .wide import round_wide

__all__ = ["Chunking", "HostConstants", "RangeStatistics", "binned_sum", "expected_range", "gain_constant",
           "host_constants", "range_statistics"]


@dataclass(frozen=True)
class Chunking:
    """How `elements` of a channel fall into blocks and chunks for a wanted number of chunks (section 2)."""

    elements: int
    block_size: int
    wanted: int

    @property
    def blocks(self) -> int:
        return -(-self.elements // self.block_size)

    @property
    def chunk_blocks(self) -> int:
        return -(-self.blocks // self.wanted)

    @property
    def chunks(self) -> int:
        return -(-self.blocks // self.chunk_blocks)


@cache
def expected_range(count: int) -> float:
    """d2(count): expected range of `count` standard normals, integral of 1 - Phi^n - (1 - Phi)^n over the real line.

    Source: L. H. C. Tippett, Biometrika 17 (1925). The trapezoidal rule converges exponentially here; twice the
    integral over x > 0 is taken, where the upper tail Phi(-x) is exact from erfc.
    """
    points = np.linspace(0.0, 12.0, 6001)
    tail = np.array([0.5 * math.erfc(x / math.sqrt(2)) for x in points])
    integrand = -np.expm1(count * np.log1p(-tail)) - tail**count
    return float(2 * (points[1] - points[0]) * (integrand.sum() - (integrand[0] + integrand[-1]) / 2))


def gain_constant(gain: str, count: int) -> float:
    """C for chunks of `count` elements: sigma is C times the mean range; 0 for one element, which has no range.

    `d2`: unbiased for normal data. `rangebn`: Banner et al.'s code (NeurIPS 2018). `lightnorm`: Noh et al.'s (2022).
    """
    if count == 1:
        return 0.0
    if gain == "d2":
        return 1 / expected_range(count)
    if gain == "rangebn":
        return 0.5 * 0.35 * (1 + math.sqrt(math.pi * math.log(4))) / math.sqrt(2 * math.log(count))
    if gain == "lightnorm":
        return 1 / math.sqrt(2 * math.log(count))
    raise ValueError(f"gain must be one of d2, rangebn, lightnorm, not {gain!r}")


@dataclass(frozen=True)
class HostConstants:
    """What a host computes once per layer: `chunk_blocks`, and K values that are exactly float32."""

    chunk_blocks: int
    chunks: int
    inv_count: float
    range_gain: float


def host_constants(elements: int, chunks: int, spec: NormSpec) -> HostConstants:
    """Constants for channels of `elements` and a wanted number of chunks (section 3)."""
    chunking = Chunking(elements, spec.activation.block_size, int(chunks))
    gain = gain_constant(spec.gain, min(elements, chunking.chunk_blocks * chunking.block_size))
    inv_count, range_gain = round_wide(np.array([1 / elements, gain / chunking.chunks]), spec.coef)
    return HostConstants(chunking.chunk_blocks, chunking.chunks, float(inv_count), float(range_gain))


def binned_sum(terms: Float64, shifts: Int) -> list[int]:
    """Exact sum over axis 1 of `terms * 2^shifts` for each row; terms are integers below 2^25 in magnitude."""
    rows, bins = len(terms), int(shifts.max()) + 1
    keys = (np.arange(rows)[:, None] * bins + shifts).ravel()
    sums = np.bincount(keys, weights=terms.ravel(), minlength=rows * bins).reshape(rows, bins)
    return [sum(int(row[shift]) << int(shift) for shift in np.flatnonzero(row)) for row in sums]


@dataclass(frozen=True)
class RangeStatistics:
    """Exact S and T - U of each channel in units of 2^min_exponent, and where each chunk's extrema are.

    `max_position`, `min_position` (C, chunks): element index in the channel, the first in order that attains it.
    """

    total: list[int]
    range_total: list[int]
    max_position: Int
    min_position: Int


def first_argmax(values: Float64, axis: int) -> Int:
    """Where along the axis the first of the largest values is."""
    positions: Int = values.argmax(axis=axis)
    return positions


def _chunk_extreme(signed: Float64, shared_exp: Int, chunk_blocks: int, block_size: int) -> tuple[list[int], Int]:
    """Sum over chunks of each chunk's maximum and its positions; padding must be -inf. signed is block-major."""
    channels, blocks = shared_exp.shape
    chunks = -(-blocks // chunk_blocks)
    block_max = signed.max(axis=0)
    values = np.full((channels, chunks * chunk_blocks), -np.inf)
    values[:, :blocks] = np.ldexp(block_max, shared_exp)
    in_chunk = first_argmax(values.reshape(channels, chunks, chunk_blocks), axis=2)
    block = in_chunk + np.arange(chunks) * chunk_blocks
    channel = np.arange(channels)[:, None]
    total = binned_sum(block_max[channel, block], shared_exp[channel, block])
    element = first_argmax(signed[:, channel, block], axis=0)
    return total, block * block_size + element


def range_statistics(
    signed: Float64, shared_exp: Int, elements: int, chunk_blocks: int, fmt: BlockFormat
) -> RangeStatistics:
    """Statistics of block-major significands (block_size, C, blocks), `elements` per channel without the padding."""
    total = binned_sum(signed.sum(axis=0), shared_exp)
    fill_padding(signed, elements, -np.inf)
    max_total, max_position = _chunk_extreme(signed, shared_exp, chunk_blocks, fmt.block_size)
    fill_padding(signed, elements, np.inf)
    negated_min_total, min_position = _chunk_extreme(-signed, shared_exp, chunk_blocks, fmt.block_size)
    fill_padding(signed, elements, 0.0)
    range_total = [high + low for high, low in zip(max_total, negated_min_total, strict=True)]
    return RangeStatistics(total, range_total, max_position, min_position)
