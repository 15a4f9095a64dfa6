"""Backward pass (arithmetic specification, section 7): the exact derivative through mean, maxima and minima."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .apply import scale_and_add
from .block import Blocks, Float64, Int, encode, step, to_block_major
from .coefficients import GradTerms, grad_terms, inverse_std
from .formats import BlockFormat
from .forward import (
    OutputTensor,
    channel_major,
    channel_tiles,
    check_channels,
    check_scalar,
    check_tensor,
    check_training,
    elements_per_channel,
    quantized_statistics,
)
from .spec import NormSpec
from .statistics import binned_sum, host_constants
from .wide import multiply, sum_to_odd

__all__ = ["Backward", "backward"]


@dataclass(frozen=True)
class Backward:
    """grad_input: (N, C, *spatial) exact values of `blocks`; the rest: float64 (C,), each exactly a float32."""

    grad_input: NDArray[Any]
    blocks: Blocks
    grad_weight: Float64
    grad_bias: Float64


def _segments(values: NDArray[Any], segment: int, count: int) -> NDArray[Any]:
    """Block-major (block_size, C, blocks) -> (segment, C, count): the same elements in shorter pieces, zeros behind."""
    channels = values.shape[1]
    ordered = values.transpose(1, 2, 0).reshape(channels, -1)[:, : count * segment]
    ordered = np.pad(ordered, ((0, 0), (0, count * segment - ordered.shape[1])))
    return ordered.reshape(channels, count, segment).transpose(2, 0, 1)


def product_sum(x: tuple[Float64, Int], g: tuple[Float64, Int], elements: int) -> list[int]:
    """Exact D = sum of x * g per channel, in units of the product of both formats' steps.

    x, g: block-major significands and shared exponents. Pieces that lie in one block of each have one exponent.
    """
    (x_signed, x_exp), (g_signed, g_exp) = x, g
    segment = math.gcd(len(x_signed), len(g_signed))
    count = -(-elements // segment)
    products = (_segments(x_signed, segment, count) * _segments(g_signed, segment, count)).sum(axis=0)
    x_shift = np.repeat(x_exp, len(x_signed) // segment, axis=1)[:, :count]
    g_shift = np.repeat(g_exp, len(g_signed) // segment, axis=1)[:, :count]
    return binned_sum(products, x_shift + g_shift)


def _set_extrema(
    exact: Float64, signed: Float64, shared_exp: Int, fmt: BlockFormat, scale: Float64, terms: GradTerms,
    max_position: Int, min_position: Int,
) -> None:  # fmt: skip
    """Overwrite the exact values of each chunk's max and min; an element that is both stays ordinary."""
    channel, chunk = np.nonzero(max_position != min_position)
    for position, term in ((max_position, terms.at_max), (min_position, terms.at_min)):
        block, lane = np.divmod(position[channel, chunk], fmt.block_size)
        product = scale[channel] * signed[lane, channel, block] * step(shared_exp, fmt)[channel, block]
        exact[lane, channel, block] = sum_to_odd(product, term[channel])


def backward(
    x: NDArray[Any],
    grad_output: NDArray[Any],
    weight: Any = None,
    *,
    spec: NormSpec,
    eps: float = 1e-5,
    chunks: int = 16,
) -> Backward:
    """Gradients of the training forward of x for grad_output = dL/dy, both (N, C, *spatial), quantized on entry.

    Raises ValueError for what section 8 refuses.
    """
    x = check_tensor("x", x)
    grad_output = check_tensor("grad_output", grad_output, x.shape)
    elements = elements_per_channel(x)
    check_training(elements, chunks)
    weight = check_channels("weight", weight, x.shape[1], 1.0, spec)
    eps = check_scalar("eps", eps, 0.0, np.inf, spec)
    host = host_constants(elements, chunks, spec)

    output = OutputTensor(x, spec.gradient)
    columns: list[tuple[Float64, Float64]] = []
    for tile in channel_tiles(x):
        x_tile = encode(to_block_major(channel_major(x, tile), spec.activation.block_size), spec.activation)
        signed, shared_exp = encode(
            to_block_major(channel_major(grad_output, tile), spec.gradient.block_size), spec.gradient
        )
        mean, sigma, max_position, min_position = quantized_statistics(*x_tile, elements, host, spec)
        invstd = inverse_std(sigma, eps, spec)
        scale = multiply(weight[tile], invstd, spec.scale)
        grad_total = binned_sum(signed.sum(axis=0), shared_exp)
        product_total = product_sum(x_tile, (signed, shared_exp), elements)
        terms = grad_terms(grad_total, product_total, mean, invstd, scale, host.inv_count, host.range_gain, spec)
        exact = scale_and_add(signed.copy(), shared_exp, spec.gradient, scale, terms.ordinary, spec)
        _set_extrema(exact, signed, shared_exp, spec.gradient, scale, terms, max_position, min_position)
        output.encode(tile, exact)
        columns.append((terms.grad_weight, terms.grad_bias))
    grad_weight, grad_bias = map(np.concatenate, zip(*columns, strict=True))
    return Backward(output.values, output.blocks, grad_weight, grad_bias)
