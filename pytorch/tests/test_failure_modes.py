"""What docs/training.md says goes wrong, reproduced in single layers; the numbers of trainings are in docs/study."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightnorm_golden import BlockFormat
from lightnorm_torch import LightNorm2d
from lightnorm_torch.study.failures import constant_channel, failures, large_mean, sigma_spread, underflow


def test_constant_channel() -> None:
    """Nothing at all with the hardware's arithmetic; BatchNorm multiplies what it rounds off by 1 / sqrt(eps)."""
    assert constant_channel(LightNorm2d(1)) == (0.0, 0.0)
    _, gradient = constant_channel(nn.BatchNorm2d(1))
    assert gradient > 100


def test_large_mean_costs_a_bit_per_doubling() -> None:
    """About 6 dB each time; at last the quantized channel is constant, and says nothing."""
    noise = [large_mean(ratio) for ratio in (0, 4, 8, 16, 32)]
    assert noise[0] > 27 and noise == sorted(noise, reverse=True)
    for nearer, farther in zip(noise[1:], noise[2:], strict=False):
        assert 4 < nearer - farther < 7
    y = LightNorm2d(1)(torch.rand(8, 1, 8, 8) / 1000 + 100)
    assert not y.any()


def test_gradients_below_the_range() -> None:
    """Format by format, 2^(bias - 1) down or more; scaled up, they are back."""
    for exp_bits, bias in ((6, 31), (5, 15), (4, 7)):
        fmt = BlockFormat(exp_bits, 3, 16)
        assert underflow(fmt, -bias + 3) < 0.1
        assert underflow(fmt, -bias - 5) > 0.9
    assert underflow(BlockFormat(5, 3, 16), -20) > 0.9 > 0.1 > underflow(BlockFormat(5, 3, 16), -20 + 10)


def test_loss_scaling_is_exact() -> None:
    """A power of two changes no gradient bit but the exponent, while no block leaves the range."""
    torch.manual_seed(2)
    x, grad = torch.randn(8, 4, 8, 8), torch.randn(8, 4, 8, 8) * 2.0**-8
    results = []
    for scale in (1.0, 1024.0):
        layer, leaf = LightNorm2d(4), x.clone().requires_grad_()
        layer(leaf).backward(grad * scale)
        results.append([value / scale for value in (leaf.grad, layer.weight.grad, layer.bias.grad)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("elements", [16, 64])
def test_tiny_batches(elements: int) -> None:
    """With few values sigma differs from batch to batch, from squares as 1 / sqrt(2 m), from ranges a little more."""
    ranges, squares = sigma_spread(elements)
    assert squares == pytest.approx((2 * elements) ** -0.5, rel=0.1)
    assert squares < ranges < 1.4 * squares


def test_tables() -> None:
    """Every row is as long as its header."""
    tables = failures()
    assert [table["title"] for table in tables] == [
        "A constant channel", "Mean over sigma", "Gradients that become 0", "Spread of sigma from batch to batch",
    ]  # fmt: skip
    assert all(len(row) == len(table["header"]) for table in tables for row in table["rows"])
