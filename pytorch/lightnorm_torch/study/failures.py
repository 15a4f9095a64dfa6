"""What goes wrong in a layer, without training anything: numbers behind docs/training.md, each from one function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightnorm_golden import BlockFormat
from lightnorm_golden.reference import signal_to_noise_db
from lightnorm_golden.statistics import gain_constant

from ..block import quantize
from ..modules import DEFAULT_SPEC, LightNorm2d

__all__ = ["constant_channel", "failures", "large_mean", "sigma_spread", "underflow"]


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def constant_channel(layer: Any, value: float = 3.0) -> tuple[float, float]:
    """Largest |y - bias| and largest |dx| of a channel whose elements are all `value`, under gradients of size 1."""
    x = torch.full((8, 1, 8, 8), value, requires_grad=True)
    y = layer(x)
    y.backward(_normal(*x.shape))
    assert x.grad is not None
    return float((y - layer.bias).abs().max().detach()), float(x.grad.abs().max())


def large_mean(ratio: float) -> float:
    """Signal-to-noise of y in dB, for normal values whose mean is `ratio` times their sigma; float64 is the truth."""
    x = _normal(8, 16, 16, 16) + ratio
    channels = (0, 2, 3)
    exact = (x.double() - x.double().mean(channels, keepdim=True)) / x.double().std(channels, keepdim=True)
    y = LightNorm2d(16, spec=DEFAULT_SPEC)(x).detach().double()
    scale = (y * exact).sum() / y.square().sum()  # what the next layers take out: sigma's estimate
    return signal_to_noise_db(exact.numpy(), (y * scale).numpy())


def underflow(fmt: BlockFormat, exponent: int) -> float:
    """Share of normal gradients of standard deviation 2^exponent that become 0 in the format."""
    found = quantize(_normal(8, 16, 16, 16) * 2.0**exponent, fmt)
    return float((found.signed == 0).double().mean())


def sigma_spread(elements: int, draws: int = 20_000) -> tuple[float, float]:
    """Relative standard deviation of sigma over batches of so many normal values: from ranges, from squares.

    Ranges are those of the default: blocks of 16, at most 16 chunks.
    """
    values = _normal(draws, elements)
    blocks = -(-elements // 16)
    chunk = -(-blocks // 16) * 16
    pieces = values.split(chunk, dim=1)
    gain = gain_constant("d2", min(chunk, elements)) / len(pieces)
    ranges = torch.stack([piece.amax(1) - piece.amin(1) for piece in pieces]).sum(0) * gain
    found = [ranges.std() / ranges.mean(), (squares := values.std(1, correction=0)).std() / squares.mean()]
    return float(found[0]), float(found[1])


def failures() -> list[dict[str, Any]]:
    """Tables: title, header, rows of text."""
    layers = {"nn.BatchNorm2d": nn.BatchNorm2d(1), "LightNorm2d": LightNorm2d(1)}
    constant = [[name, *(f"{value:.3g}" for value in constant_channel(layer))] for name, layer in layers.items()]
    means = [[f"{ratio:g}", f"{large_mean(ratio):.1f}"] for ratio in (0, 1, 2, 4, 8, 16, 32)]
    formats = [BlockFormat(bits, 3, 16) for bits in (6, 5, 4)]
    lost = [
        [f"2^{exponent}", *(f"{100 * underflow(fmt, exponent):.0f} %" for fmt in formats)]
        for exponent in (-4, -8, -12, -16, -20, -28, -36)
    ]
    spread = [[str(m), *(f"{100 * value:.1f} %" for value in sigma_spread(m))] for m in (8, 16, 32, 64, 256, 2048)]
    return [
        {"title": "A constant channel", "header": ["", "largest error of y", "largest dx"], "rows": constant},
        {
            "title": "Mean over sigma",
            "header": ["mean / sigma", "signal-to-noise of y, default formats, dB"],
            "rows": means,
        },
        {
            "title": "Gradients that become 0",
            "header": ["standard deviation", *(str(fmt) for fmt in formats)],
            "rows": lost,
        },
        {
            "title": "Spread of sigma from batch to batch",
            "header": ["values per channel", "from ranges (default)", "from squares"],
            "rows": spread,
        },
    ]
