"""Batch norm in ordinary floating point: what the hardware approximates, for error bounds and benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .statistics import Chunking, gain_constant

__all__ = ["batch_norm_two_pass", "range_batch_norm", "signal_to_noise_db"]


def _per_channel(values: NDArray[Any], ndim: int) -> NDArray[Any]:
    return values.reshape(1, -1, *[1] * (ndim - 2))


def range_batch_norm(
    x: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any],
    *,
    block_size: int,
    chunks: int,
    eps: float = 1e-5,
    gain: str = "d2",
) -> NDArray[np.float64]:
    """Range batch norm of x (N, C, *spatial) in float64, unquantized: Banner et al. (2018) with the page's chunks."""
    channels = x.shape[1]
    flat = np.moveaxis(x, 1, 0).reshape(channels, -1).astype(np.float64)
    chunking = Chunking(flat.shape[1], block_size, chunks)
    length = chunking.chunk_blocks * block_size
    starts = np.arange(0, flat.shape[1], length)
    ranges = np.maximum.reduceat(flat, starts, axis=1) - np.minimum.reduceat(flat, starts, axis=1)
    sigma = ranges.mean(axis=1) * gain_constant(gain, min(length, flat.shape[1]))
    inverse = np.where(sigma == 0, 0.0, 1 / np.where(sigma == 0, 1.0, sigma + eps))
    centered = x - _per_channel(flat.mean(axis=1), x.ndim)
    return np.asarray(centered * _per_channel(weight * inverse, x.ndim) + _per_channel(bias, x.ndim), np.float64)


def batch_norm_two_pass(
    x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any], eps: float = 1e-5
) -> NDArray[Any]:
    """Conventional batch norm in the dtype of x, written plainly: the yardstick of the golden model's speed."""
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes, keepdims=True)
    centered = x - mean
    variance = (centered * centered).mean(axis=axes, keepdims=True)
    normalized = centered / np.sqrt(variance + x.dtype.type(eps))
    return np.asarray(normalized * _per_channel(weight, x.ndim) + _per_channel(bias, x.ndim))


def signal_to_noise_db(reference: NDArray[Any], approximation: NDArray[Any]) -> float:
    """10 log10 of the energy of the reference over the energy of the difference."""
    exact = reference.astype(np.float64)
    return float(10 * np.log10((exact**2).sum() / ((approximation - exact) ** 2).sum()))
