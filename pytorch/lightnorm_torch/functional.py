"""LightNorm as differentiable functions of tensors (arithmetic specification, sections 3 to 7).

Statistics, coefficients and both passes over the elements equal lightnorm_golden bit for bit; they share descriptions
and the host's constants with it, and no arithmetic. No function looks at values, so nothing waits for a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightnorm_golden import BlockFormat, NormSpec
from lightnorm_golden.statistics import gain_constant

from .apply import extremum_blocks, scale_and_add
from .block import Quantized, blocks_at, decode, encode, quantize, reblock
from .limbs import exact_sum, round_sum
from .processes import Share, merge_extrema, merge_sums, share_of
from .wide import add, divide, multiply, power_of_two, round_scalar, round_wide

__all__ = ["Settings", "affine", "infer", "scale_and_shift", "train", "update_running"]


@dataclass(frozen=True)
class Settings:
    """What a layer computes with besides its tensors. eps is rounded to K where it is used."""

    spec: NormSpec
    eps: float
    chunks: int


@torch.compiler.assume_constant_result
def wide_constant(value: float, spec: NormSpec) -> float:
    """K(value)."""
    return round_scalar(value, spec.coef)


@torch.compiler.assume_constant_result
def inv_count(elements: int, spec: NormSpec) -> float:
    """K(1 / m), section 3."""
    return round_scalar(1 / elements, spec.coef)


@torch.compiler.assume_constant_result
def range_gain(elements: int, chunk_elements: int, chunks: int, spec: NormSpec) -> float:
    """K(C / Gn), section 3."""
    return round_scalar(gain_constant(spec.gain, min(elements, chunk_elements)) / chunks, spec.coef)


# ---------------------------------------------------------------------------------------------------------------------
# Per channel
# ---------------------------------------------------------------------------------------------------------------------


def inverse_std(sigma: Tensor, eps: float, spec: NormSpec) -> Tensor:
    """K(1 / K(sigma + eps)); 0 for a channel without range (section 5)."""
    spread = add(sigma, torch.full_like(sigma, wide_constant(eps, spec)), spec.coef)
    return torch.where(sigma == 0, 0.0, divide(1.0, spread, spec.coef))


def scale_and_shift(
    mean: Tensor, sigma: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """invstd, scale and shift (C,) of y = scale * x + shift (section 5); mean and sigma are float64 K values.

    weight, bias: (C,), None is 1 and 0; they are rounded to K.
    """
    spec = settings.spec
    invstd = inverse_std(sigma, settings.eps, spec)
    weight = torch.ones_like(mean) if weight is None else round_wide(weight.to(torch.float64), spec.coef)
    bias = torch.zeros_like(mean) if bias is None else round_wide(bias.to(torch.float64), spec.coef)
    scale = multiply(weight, invstd, spec.scale)
    return invstd, scale, add(bias, -multiply(scale, mean, spec.coef), spec.coef)


def update_running(old: Tensor, new: Tensor, momentum: float | Tensor, spec: NormSpec) -> None:
    """old := K(old + K(momentum * K(new - old))), in place (section 5); momentum in [0, 1] is rounded to K."""
    if isinstance(momentum, Tensor):
        momentum = round_wide(momentum.to(torch.float64), spec.coef)
    else:
        momentum = wide_constant(momentum, spec)
    start = round_wide(old.to(torch.float64), spec.coef)
    old.copy_(add(start, multiply(add(new, -start, spec.coef), momentum, spec.coef), spec.coef))


# ---------------------------------------------------------------------------------------------------------------------
# Statistics
# ---------------------------------------------------------------------------------------------------------------------


def first_of_largest(signed: Tensor, sign: int, block: Tensor, elements: int) -> Tensor:
    """Position in its channel of the first largest `sign * element` in each block that `block` (C, chunks) names."""
    channel = torch.arange(signed.shape[1], device=signed.device)[:, None].expand_as(block)
    lane = torch.arange(len(signed), device=signed.device)[:, None, None]
    values = sign * blocks_at(signed, channel, block)
    values = torch.where(block * len(signed) + lane < elements, values, -math.inf)
    return block * len(signed) + values.argmax(0)


def poison(terms: Tensor) -> Tensor:
    """(C,): NaN where a channel's terms (C, n) hold one, otherwise 0; integers cannot carry it."""
    return (terms * 0.0).sum(1)


@dataclass(frozen=True)
class Statistics:
    """mean, sigma: (C,). max_position, min_position: (C, chunks), the size of a channel if another process has it."""

    mean: Tensor
    sigma: Tensor
    max_position: Tensor
    min_position: Tensor
    inv_count: float
    range_gain: float


def statistics(z: Quantized, settings: Settings, share: Share) -> Statistics:
    """Of all processes' elements together (sections 2 to 5)."""
    signed, step, high, low = z
    spec, fmt = settings.spec, settings.spec.activation
    blocks = step.shape[1]
    chunk_blocks = -(-share.total_blocks // settings.chunks)
    chunks = -(-share.total_blocks // chunk_blocks)
    count = inv_count(share.total_elements, spec)
    gain = range_gain(share.total_elements, chunk_blocks * fmt.block_size, chunks, spec)

    block_sums = signed.sum(0)
    shift = step - fmt.min_exponent
    total = merge_sums(exact_sum(block_sums, shift, fmt.max_shared_exp), share)

    unit = power_of_two(step)
    before, behind = share.first_block, chunks * chunk_blocks - share.first_block - blocks
    extremes, positions = [], []
    for sign, significands in ((1, high), (-1, low)):
        padded = torch.nn.functional.pad(sign * significands * unit, (before, behind), value=-math.inf)
        extreme, in_chunk = padded.view(len(padded), chunks, chunk_blocks).max(2)  # the first of equals
        block = in_chunk + torch.arange(chunks, device=step.device) * chunk_blocks - share.first_block
        extremes.append(extreme)
        positions.append(first_of_largest(signed, sign, block.clamp(0, blocks - 1), share.elements))
    highest, here = merge_extrema(torch.stack(extremes), share)
    max_position, min_position = torch.where(here, torch.stack(positions), share.elements).unbind(0)

    # every extreme is a value of the format, so that a block of its own holds it exactly
    terms, term_step = encode(torch.cat(list(highest), dim=1)[None], fmt)
    range_total = exact_sum(terms[0], term_step - fmt.min_exponent, fmt.max_shared_exp)

    bad = poison(highest[0])
    mean = multiply(round_sum(total, fmt.min_exponent, spec.coef), count, spec.coef) + bad
    sigma = multiply(round_sum(range_total, fmt.min_exponent, spec.coef), gain, spec.coef) + bad
    return Statistics(mean, sigma, max_position, min_position, count, gain)


# ---------------------------------------------------------------------------------------------------------------------
# Per element
# ---------------------------------------------------------------------------------------------------------------------


def elements_of(x: Tensor) -> int:
    """m: elements per channel of x (N, C, *spatial)."""
    return x.numel() // x.shape[1]


def compact(signed: Tensor, fmt: BlockFormat) -> Tensor:
    """Significands as small integers, to be kept for backward. A NaN becomes a number; the statistics keep it."""
    return signed.to(torch.int8 if fmt.max_significand <= 127 else torch.int16)


def affine(x: Tensor, scale: Tensor, shift: Tensor, spec: NormSpec) -> Tensor:
    """y = scale * x + shift of x (N, C, *spatial), quantized on entry (section 6); scale, shift: float64 (C,) K values.

    Not differentiable.
    """
    fmt = spec.activation
    return decode(*scale_and_add(quantize(x, fmt), scale, shift, fmt, spec), x)


def gradient_sums(
    x: tuple[Tensor, Tensor], g: tuple[Tensor, Tensor], elements: int, spec: NormSpec
) -> tuple[Tensor, Tensor]:
    """Q = sum of g and D = sum of x * g (section 7), limbs in units of the smallest steps."""
    grad_unit, max_grad = spec.gradient.min_exponent, spec.gradient.max_shared_exp
    grad_total = exact_sum(g[0].sum(0), g[1] - grad_unit, max_grad)
    size = math.gcd(spec.activation.block_size, spec.gradient.block_size)
    pieces = -(-elements // size)  # each lies in one block of x and in one of g
    (x_signed, x_step), (g_signed, g_step) = reblock(*x, size), reblock(*g, size)
    bits = spec.activation.significand_bits + spec.gradient.significand_bits + size.bit_length()
    exact = torch.float32 if bits <= 24 else torch.float64  # holds every product and every sum of them
    products = x_signed[..., :pieces].to(exact).mul_(g_signed[..., :pieces].to(exact)).sum(0)
    shift = x_step[:, :pieces] + g_step[:, :pieces] - (grad_unit + spec.activation.min_exponent)
    return grad_total, exact_sum(products, shift, max_grad + spec.activation.max_shared_exp)


def parameter_gradients(
    totals: tuple[Tensor, Tensor], mean: Tensor, invstd: Tensor, spec: NormSpec
) -> tuple[Tensor, Tensor]:
    """grad_weight, grad_bias (C,) from Q and D (section 7)."""
    coef, unit = spec.coef, spec.gradient.min_exponent
    grad_bias = round_sum(totals[0], unit, coef)
    product = round_sum(totals[1], unit + spec.activation.min_exponent, coef)
    return multiply(invstd, add(product, -multiply(mean, grad_bias, coef), coef), coef), grad_bias


class _Train(torch.autograd.Function):
    """(x, weight, bias, settings, share) -> (y, mean, sigma)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings, share: Share
    ) -> tuple[Tensor, Tensor, Tensor]:
        fmt = settings.spec.activation
        z = quantize(x, fmt)
        found = statistics(z, settings, share)
        invstd, scale, shift = scale_and_shift(found.mean, found.sigma, weight, bias, settings)
        ctx.save_for_backward(
            compact(z.signed, fmt),
            z.step,
            found.mean,
            invstd,
            scale,
            found.max_position,
            found.min_position,
            weight,
            bias,
        )
        ctx.settings, ctx.share, ctx.constants = settings, share, (found.inv_count, found.range_gain)
        ctx.mark_non_differentiable(found.mean, found.sigma)
        y = decode(*scale_and_add(z, scale, shift, fmt, settings.spec), x)
        return y, found.mean, found.sigma

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_compact, x_step, mean, invstd, scale, max_position, min_position, weight, bias = ctx.saved_tensors
        spec, share = ctx.settings.spec, ctx.share
        coef, fmt = spec.coef, spec.gradient
        g = quantize(grad_output, fmt)
        bad = poison(g.high)
        totals = gradient_sums((x_compact, x_step), (g.signed, g.step), share.elements, spec)
        own = parameter_gradients(totals, mean, invstd, spec)
        grad_input = None
        if ctx.needs_input_grad[0]:
            merged = (merge_sums(totals[0], share), merge_sums(totals[1], share))
            grad_weight, grad_bias = own if share.group is None else parameter_gradients(merged, mean, invstd, spec)
            center = multiply(scale, multiply(grad_bias, ctx.constants[0], coef), coef) + bad
            ext = multiply(scale, multiply(grad_weight, ctx.constants[1], coef), coef)
            terms = (-center, add(-center, -ext, coef), add(-center, ext, coef))
            positions, alone = (max_position, min_position), share.group is None
            special = extremum_blocks(g, scale, terms, positions, share.elements, fmt, everywhere=alone)
            result, new_step = scale_and_add(g, scale, terms[0], fmt, spec)
            for channel, block, part, part_step in special:
                result[:, channel, block] = part
                new_step[channel, block] = part_step
            grad_input = decode(result, new_step, grad_output)
        return grad_input, *typed(own, bad, weight, bias), None, None


class _Infer(torch.autograd.Function):
    """(x, weight, bias, mean, sigma, settings) -> y."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, sigma: Tensor,
        settings: Settings,
    ) -> Tensor:  # fmt: skip
        fmt = settings.spec.activation
        z = quantize(x, fmt)
        invstd, scale, shift = scale_and_shift(mean, sigma, weight, bias, settings)
        ctx.save_for_backward(compact(z.signed, fmt), z.step, mean + poison(z.high), invstd, scale, weight, bias)
        ctx.settings = settings
        return decode(*scale_and_add(z, scale, shift, fmt, settings.spec), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x_compact, x_step, mean, invstd, scale, weight, bias = ctx.saved_tensors
        spec: NormSpec = ctx.settings.spec
        fmt, elements = spec.gradient, elements_of(grad_output)
        g = quantize(grad_output, fmt)
        totals = gradient_sums((x_compact, x_step), (g.signed, g.step), elements, spec)
        own = parameter_gradients(totals, mean, invstd, spec)
        gradients = typed(own, poison(g.high), weight, bias)
        grad_input = None
        if ctx.needs_input_grad[0]:
            nothing = torch.zeros_like(scale)
            grad_input = decode(*scale_and_add(g, scale, nothing, fmt, spec), grad_output)
        return grad_input, *gradients, None, None, None


def typed(
    gradients: tuple[Tensor, Tensor], bad: Tensor, weight: Tensor | None, bias: Tensor | None
) -> list[Tensor | None]:
    """grad_weight and grad_bias like the parameters, NaN where `bad` is."""
    pairs = zip(gradients, (weight, bias), strict=True)
    return [None if parameter is None else (gradient + bad).to(parameter.dtype) for gradient, parameter in pairs]


def train(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings, group: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Training forward (section 5) of x (N, C, *spatial): y like x, and the batch's mean and sigma, float64 (C,).

    weight, bias: (C,) or None (1, 0). y is differentiable in x, weight and bias (section 7), once. With a process group
    the statistics are those of all its processes' elements, in the order of their ranks, each beginning a block.
    Infinities saturate; a NaN makes its whole channel NaN, as in torch.nn.functional.batch_norm.
    """
    share = share_of(x, settings.spec.activation.block_size, group)
    y, mean, sigma = _Train.apply(x, weight, bias, settings, share)
    return y, mean, sigma


def infer(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor, running_sigma: Tensor,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """Inference (section 6) of x (N, C, *spatial) with running statistics (C,), which are rounded to K: y like x.

    Differentiable once: section 7 with mean and sigma constant, so that dx = scale * g without further terms.
    """
    coef = settings.spec.coef
    mean, sigma = (round_wide(value.to(torch.float64), coef) for value in (running_mean, running_sigma))
    result: Tensor = _Infer.apply(x, weight, bias, mean, sigma, settings)
    return result
