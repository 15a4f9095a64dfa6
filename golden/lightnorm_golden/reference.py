"""Batch norm in ordinary floating point: what the hardware approximates, for error bounds and benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .statistics import Chunking, gain_constant

__all__ = ["batch_norm_two_pass", "range_batch_norm", "range_batch_norm_backward", "signal_to_noise_db"]


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
    flat = _channel_major(x)
    mean, inverse, *_ = _statistics(flat, block_size, chunks, eps, gain)
    normalized = (x - _per_channel(mean, x.ndim)) * _per_channel(inverse, x.ndim)
    return np.asarray(normalized * _per_channel(weight, x.ndim) + _per_channel(bias, x.ndim), np.float64)


def range_batch_norm_backward(
    x: NDArray[Any],
    grad_output: NDArray[Any],
    weight: NDArray[Any],
    *,
    block_size: int,
    chunks: int,
    eps: float = 1e-5,
    gain: str = "d2",
) -> NDArray[np.float64]:
    """dL/dx of `range_batch_norm` in float64, through mean, maxima and minima (the first of equals)."""
    flat, grad = _channel_major(x), _channel_major(grad_output)
    mean, inverse, starts, range_gain = _statistics(flat, block_size, chunks, eps, gain)
    normalized = (flat - mean[:, None]) * inverse[:, None]
    of_sigma = -(grad * normalized).sum(axis=1) * weight * inverse  # dL/dsigma
    result = (grad - grad.mean(axis=1, keepdims=True)) * (weight * inverse)[:, None]
    rows = np.arange(len(flat))
    for start, stop in zip(starts, [*starts[1:], flat.shape[1]], strict=True):
        result[rows, start + flat[:, start:stop].argmax(axis=1)] += of_sigma * range_gain
        result[rows, start + flat[:, start:stop].argmin(axis=1)] -= of_sigma * range_gain
    ordered = result.reshape(x.shape[1], x.shape[0], *x.shape[2:])
    return np.ascontiguousarray(np.moveaxis(ordered, 0, 1))


def _channel_major(x: NDArray[Any]) -> NDArray[np.float64]:
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(np.float64)


def _statistics(
    flat: NDArray[np.float64], block_size: int, chunks: int, eps: float, gain: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], float]:
    """Per channel mean and 1 / (sigma + eps), where chunks start, and sigma over the sum of ranges."""
    chunking = Chunking(flat.shape[1], block_size, chunks)
    length = chunking.chunk_blocks * block_size
    starts = np.arange(0, flat.shape[1], length)
    ranges = np.maximum.reduceat(flat, starts, axis=1) - np.minimum.reduceat(flat, starts, axis=1)
    range_gain = gain_constant(gain, min(length, flat.shape[1])) / len(starts)
    sigma = ranges.sum(axis=1) * range_gain
    inverse = np.where(sigma == 0, 0.0, 1 / np.where(sigma == 0, 1.0, sigma + eps))
    return flat.mean(axis=1), inverse, starts, range_gain


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
