"""Range batch norm in ordinary floating point, with a choice of how numbers are rounded: what the study compares with.

Written apart from the layers of this package: it can be in plain float32, in the LightNorm authors' arithmetic, or in
a block format, and it can leave out a part of the derivative that must not be left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightnorm_golden import BlockFormat, NormSpec
from lightnorm_golden.statistics import gain_constant

from ..block import decode, quantize

__all__ = ["Arithmetic", "BlockArithmetic", "RangeNorm2d"]


class Arithmetic:
    """How a layer rounds: here not at all, beyond the float32 it computes in."""

    def activation(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) as the machine stores it."""
        return x

    def gradient(self, g: Tensor) -> Tensor:
        """A gradient (N, C, H, W) as the machine stores it."""
        return g

    def activation_sum(self, values: Tensor) -> Tensor:
        """(C, m) -> (C,)."""
        return values.sum(1)

    def gradient_sum(self, values: Tensor) -> Tensor:
        """(C, m) -> (C,)."""
        return values.sum(1)


@dataclass(frozen=True)
class BlockArithmetic(Arithmetic):
    """Stored in this project's block formats; sums in float64. Not bit for bit: for that there is LightNorm2d."""

    spec: NormSpec

    def activation(self, x: Tensor) -> Tensor:
        return _quantized(x, self.spec.activation)

    def gradient(self, g: Tensor) -> Tensor:
        return _quantized(g, self.spec.gradient)

    def activation_sum(self, values: Tensor) -> Tensor:
        return values.double().sum(1).to(values.dtype)

    gradient_sum = activation_sum


def _quantized(x: Tensor, fmt: BlockFormat) -> Tensor:
    found = quantize(x, fmt)
    return decode(found.signed, found.step, x)


@dataclass(frozen=True)
class _Settings:
    gain: str
    chunk: int
    arithmetic: Arithmetic
    extremum_terms: bool
    eps: float


def _flat(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (C, m), in (n, h, w) order."""
    return x.transpose(0, 1).flatten(1)


def _column(values: Tensor) -> Tensor:
    """(C,) -> something that (N, C, H, W) tensors multiply with."""
    return values[:, None, None]


def _extrema(flat: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of chunks of (C, m): places (C, chunks) of max and min, and the sum of their differences (C,)."""
    missing = -flat.shape[1] % chunk
    sides = []
    for sign in (1, -1):
        padded = torch.nn.functional.pad(sign * flat, (0, missing), value=-math.inf)
        sides.append(padded.view(len(flat), -1, chunk).max(2))
    (highest, at_max), (lowest, at_min) = sides
    first = torch.arange(at_max.shape[1], device=flat.device) * chunk
    return at_max + first, at_min + first, (highest + lowest).sum(1)


class _RangeNorm(torch.autograd.Function):
    """(x, weight, bias, settings) -> (y, mean, sigma)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, settings: _Settings) -> tuple[Tensor, ...]:
        x = settings.arithmetic.activation(x)
        flat = _flat(x)
        elements = flat.shape[1]
        mean = settings.arithmetic.activation_sum(flat) / elements
        at_max, at_min, spread = _extrema(flat, settings.chunk)
        ctx.range_gain = gain_constant(settings.gain, min(settings.chunk, elements)) / at_max.shape[1]
        sigma = spread * ctx.range_gain
        inverse = torch.where(sigma == 0, 0.0, 1 / (sigma + settings.eps))
        y = settings.arithmetic.activation((x - _column(mean)) * _column(inverse * weight) + _column(bias))
        ctx.save_for_backward(x, weight, mean, inverse, at_max, at_min)
        ctx.settings = settings
        ctx.mark_non_differentiable(mean, sigma)
        return y, mean, sigma

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, at_max, at_min = ctx.saved_tensors
        arithmetic: Arithmetic = ctx.settings.arithmetic
        g = arithmetic.gradient(grad_output)
        flat, elements = _flat(g), g.numel() // g.shape[1]
        grad_bias = arithmetic.gradient_sum(flat)
        normalized = (_flat(x) - mean[:, None]) * inverse[:, None]
        grad_weight = arithmetic.gradient_sum(flat * normalized)
        scale = weight * inverse
        dx = (flat - (grad_bias / elements)[:, None]) * scale[:, None]
        if ctx.settings.extremum_terms:
            ext = (scale * grad_weight * ctx.range_gain)[:, None].expand_as(at_max)
            dx = dx.scatter_add(1, at_max, -ext).scatter_add(1, at_min, ext)
        count, channels, *spatial = g.shape
        dx = arithmetic.gradient(dx.view(channels, count, *spatial).transpose(0, 1))
        return dx, grad_weight, grad_bias, None


class RangeNorm2d(nn.Module):
    """torch.nn.BatchNorm2d with sigma from ranges: (N, C, H, W) float32 -> the same.

    gain: one of lightnorm_golden.GAINS. chunks: wanted number of pieces of a channel whose ranges are averaged, each a
    whole number of `block_size` elements. extremum_terms=False drops the derivative through maxima and minima.
    """

    running_mean: Tensor
    running_sigma: Tensor

    def __init__(
        self, channels: int, *, gain: str = "d2", chunks: int = 16, block_size: int = 16,
        arithmetic: Arithmetic | None = None, extremum_terms: bool = True, eps: float = 1e-5, momentum: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.gain, self.chunks, self.block_size, self.eps, self.momentum = gain, chunks, block_size, eps, momentum
        self.arithmetic, self.extremum_terms = arithmetic or Arithmetic(), extremum_terms
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_sigma", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            scale = self.weight / (self.running_sigma + self.eps)
            centered = self.arithmetic.activation(x) - _column(self.running_mean)
            return self.arithmetic.activation(centered * _column(scale) + _column(self.bias))
        blocks = -(-x.numel() // (x.shape[1] * self.block_size))
        chunk = -(-blocks // self.chunks) * self.block_size
        settings = _Settings(self.gain, chunk, self.arithmetic, self.extremum_terms, self.eps)
        y, mean, sigma = _RangeNorm.apply(x, self.weight, self.bias, settings)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_sigma.lerp_(sigma, self.momentum)
        return y
