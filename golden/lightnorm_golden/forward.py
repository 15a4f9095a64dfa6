"""Forward pass in training and inference (arithmetic specification, sections 5 and 6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .apply import scale_and_add
from .block import Blocks, Float64, Int, encode, fill_padding, is_floating, step, to_block_major, to_blocks
from .coefficients import affine, mean_and_sigma, running
from .formats import BlockFormat
from .spec import MAX_ELEMENTS, NormSpec
from .statistics import HostConstants, host_constants, range_statistics
from .wide import round_wide

__all__ = ["Forward", "Inference", "forward", "infer"]

_TILE_ELEMENTS = 1 << 17  # channels are processed in groups of about this many elements, which stay in the cache


@dataclass(frozen=True)
class Inference:
    """output: (N, C, *spatial) exact values of `blocks`; the rest: float64 (C,), each exactly a float32."""

    output: NDArray[Any]
    blocks: Blocks
    invstd: Float64
    scale: Float64
    shift: Float64


@dataclass(frozen=True)
class Forward(Inference):
    """Training: adds the batch statistics and the updated running ones, float64 (C,), each exactly a float32."""

    mean: Float64
    sigma: Float64
    running_mean: Float64
    running_sigma: Float64


def check_tensor(name: str, tensor: Any, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """A floating-point (N, C, *spatial) array without NaN, or a ValueError that says what is wrong."""
    if not isinstance(tensor, np.ndarray) or not is_floating(tensor):
        kind = f"an array of {tensor.dtype}" if isinstance(tensor, np.ndarray) else type(tensor).__name__
        raise ValueError(f"{name} must be a NumPy array of float16, float32 or float64, not {kind}")
    if tensor.ndim < 2 or tensor.size == 0:
        raise ValueError(f"{name} must have the shape (N, C, *spatial) and at least one element, not {tensor.shape}")
    if shape is not None and tensor.shape != shape:
        raise ValueError(f"{name} must have the shape of x, {shape}, not {tensor.shape}")
    elements = elements_per_channel(tensor)
    if elements > MAX_ELEMENTS:
        raise ValueError(f"{name} must have at most {MAX_ELEMENTS} values per channel, not {elements}")
    if np.isnan(np.min(tensor)):
        index = tuple(map(int, np.argwhere(np.isnan(tensor))[0]))
        raise ValueError(f"{name} must not hold NaN; the first is at index {index}")
    return tensor


def check_channels(name: str, values: Any, channels: int, default: float, spec: NormSpec) -> Float64:
    """A per-channel vector rounded to K, or a ValueError."""
    if values is None:
        return np.full(channels, default)
    array = np.asarray(values)
    if array.shape != (channels,) or not is_floating(array):
        allowed = f"an array of float16, float32 or float64 of shape ({channels},)"
        raise ValueError(f"{name} must be {allowed}, not {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite; channel {bad} is {array[bad]}")
    return round_wide(array.astype(np.float64), spec.coef)


def check_scalar(name: str, value: Any, low: float, high: float, spec: NormSpec) -> float:
    """A number in [low, high] rounded to K, or a ValueError."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not low <= value <= high or not np.isfinite(value):
        allowed = f"in [{low:g}, {high:g}]" if np.isfinite(high) else f"finite and at least {low:g}"
        raise ValueError(f"{name} must be a number {allowed}, not {value!r}")
    return float(round_wide(np.asarray(value, np.float64), spec.coef))


def check_training(elements: int, chunks: Any) -> None:
    if elements < 2:
        raise ValueError("training needs more than one value per channel, not 1")
    if isinstance(chunks, bool) or not isinstance(chunks, (int, np.integer)) or chunks < 1:
        raise ValueError(f"chunks must be an integer of at least 1, not {chunks!r}")


def elements_per_channel(tensor: NDArray[Any]) -> int:
    """N times the spatial size."""
    return int(tensor.size // tensor.shape[1])


def channel_tiles(tensor: NDArray[Any]) -> Iterator[slice]:
    """Slices of channels whose elements fit the cache together."""
    channels = max(1, _TILE_ELEMENTS // elements_per_channel(tensor))
    for first in range(0, tensor.shape[1], channels):
        yield slice(first, min(first + channels, tensor.shape[1]))


def channel_major(tensor: NDArray[Any], tile: slice) -> NDArray[Any]:
    """(N, C, *spatial) -> (channels of the tile, m) in (n, h, w) order."""
    part = tensor[:, tile]
    return np.moveaxis(part, 1, 0).reshape(part.shape[1], -1)


class OutputTensor:
    """Collects encoded tiles: the decoded tensor and its `Blocks`."""

    def __init__(self, like: NDArray[Any], fmt: BlockFormat) -> None:
        channels, self._elements = like.shape[1], elements_per_channel(like)
        blocks = -(-self._elements // fmt.block_size)
        self._format = fmt
        # float32 holds every value of a format of up to 7 exponent bits exactly
        self.values: NDArray[Any] = np.empty(like.shape, np.float32 if fmt.exp_bits < 8 else np.float64)
        self.blocks = Blocks(
            fmt,
            np.empty((channels, blocks), np.uint8),
            np.empty((channels, blocks, fmt.block_size), np.bool_),
            np.empty((channels, blocks, fmt.block_size), np.uint16),
        )

    def encode(self, tile: slice, exact: Float64) -> None:
        """Round the tile's exact block-major values (overwritten) and store them; padding is written as zero."""
        fmt = self._format
        fill_padding(exact, self._elements, 0.0)
        signed, shared_exp = encode(exact, fmt)
        part = to_blocks(signed, shared_exp, fmt)
        self.blocks.shared_exp[tile] = part.shared_exp
        self.blocks.sign[tile] = part.sign
        self.blocks.significand[tile] = part.significand
        signed *= step(shared_exp, fmt)
        signed += 0.0  # a rounded-off negative is the number 0
        ordered = signed.astype(self.values.dtype).transpose(1, 2, 0).reshape(len(part.sign), -1)[:, : self._elements]
        target = np.moveaxis(self.values[:, tile], 1, 0)
        target[...] = ordered.reshape(target.shape)


def quantized_statistics(
    signed: Float64, shared_exp: Int, elements: int, host: HostConstants, spec: NormSpec
) -> tuple[Float64, Float64, Int, Int]:
    """mean, sigma (channels,) and the positions of the chunks' extrema (channels, chunks)."""
    found = range_statistics(signed, shared_exp, elements, host.chunk_blocks, spec.activation)
    mean, sigma = mean_and_sigma(found.total, found.range_total, host.inv_count, host.range_gain, spec)
    return mean, sigma, found.max_position, found.min_position


def forward(
    x: NDArray[Any],
    weight: Any = None,
    bias: Any = None,
    *,
    spec: NormSpec,
    eps: float = 1e-5,
    momentum: float = 0.1,
    chunks: int = 16,
    running_mean: Any = None,
    running_sigma: Any = None,
) -> Forward:
    """Training forward of x (N, C, *spatial), quantized on entry into `spec.activation`.

    weight, bias, running_mean, running_sigma: (C,) or None (1, 0, 0, 1); they, eps and momentum are rounded to K.
    Raises ValueError for what section 8 refuses.
    """
    x = check_tensor("x", x)
    channels, elements = x.shape[1], elements_per_channel(x)
    check_training(elements, chunks)
    weight = check_channels("weight", weight, channels, 1.0, spec)
    bias = check_channels("bias", bias, channels, 0.0, spec)
    running_mean = check_channels("running_mean", running_mean, channels, 0.0, spec)
    running_sigma = check_channels("running_sigma", running_sigma, channels, 1.0, spec)
    eps = check_scalar("eps", eps, 0.0, np.inf, spec)
    momentum = check_scalar("momentum", momentum, 0.0, 1.0, spec)
    host = host_constants(elements, chunks, spec)
    fmt = spec.activation

    output = OutputTensor(x, fmt)
    columns: list[tuple[Float64, ...]] = []
    for tile in channel_tiles(x):
        signed, shared_exp = encode(to_block_major(channel_major(x, tile), fmt.block_size), fmt)
        mean, sigma, _, _ = quantized_statistics(signed, shared_exp, elements, host, spec)
        coef = affine(mean, sigma, weight[tile], bias[tile], eps, spec)
        output.encode(tile, scale_and_add(signed, shared_exp, fmt, coef.scale, coef.shift, spec))
        columns.append((mean, sigma, coef.invstd, coef.scale, coef.shift))
    mean, sigma, invstd, scale, shift = map(np.concatenate, zip(*columns, strict=True))
    return Forward(
        output=output.values,
        blocks=output.blocks,
        invstd=invstd,
        scale=scale,
        shift=shift,
        mean=mean,
        sigma=sigma,
        running_mean=running(running_mean, mean, momentum, spec),
        running_sigma=running(running_sigma, sigma, momentum, spec),
    )


def infer(
    x: NDArray[Any],
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_sigma: Any,
    *,
    spec: NormSpec,
    eps: float = 1e-5,
) -> Inference:
    """Inference of x (N, C, *spatial) with running statistics (section 6); arguments as in `forward`."""
    x = check_tensor("x", x)
    channels = x.shape[1]
    weight = check_channels("weight", weight, channels, 1.0, spec)
    bias = check_channels("bias", bias, channels, 0.0, spec)
    mean = check_channels("running_mean", running_mean, channels, 0.0, spec)
    sigma = check_channels("running_sigma", running_sigma, channels, 1.0, spec)
    if running_sigma is not None and (np.asarray(running_sigma) < 0).any():  # as given: K could make it 0
        bad = int(np.flatnonzero(np.asarray(running_sigma) < 0)[0])
        raise ValueError(f"running_sigma must not be negative; channel {bad} is {np.asarray(running_sigma)[bad]}")
    eps = check_scalar("eps", eps, 0.0, np.inf, spec)
    fmt = spec.activation

    output = OutputTensor(x, fmt)
    coef = affine(mean, sigma, weight, bias, eps, spec)
    for tile in channel_tiles(x):
        signed, shared_exp = encode(to_block_major(channel_major(x, tile), fmt.block_size), fmt)
        output.encode(tile, scale_and_add(signed, shared_exp, fmt, coef.scale[tile], coef.shift[tile], spec))
    return Inference(output.values, output.blocks, coef.invstd, coef.scale, coef.shift)
