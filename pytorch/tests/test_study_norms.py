"""What the study compares with: range batch norm in floats, the authors' arithmetic, Ising configurations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lightnorm_golden import GAINS, BlockFormat
from lightnorm_golden.reference import range_batch_norm, range_batch_norm_backward
from lightnorm_torch import LightNorm2d
from lightnorm_torch.modules import DEFAULT_SPEC
from lightnorm_torch.study.authors import AuthorsArithmetic, truncate_groups, truncated_sum
from lightnorm_torch.study.ising import configurations, energy
from lightnorm_torch.study.range_norm import BlockArithmetic, RangeNorm2d

SHAPE = (5, 3, 4, 6)


def tensors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def layer_of(**options: object) -> RangeNorm2d:
    layer = RangeNorm2d(3, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -1.5, 2.0]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
    return layer


@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("chunks", [1, 4, 16])
def test_float_range_norm(gain: str, chunks: int) -> None:
    """Forward and derivative are the float64 reference's; 120 values make blocks and chunks that end short."""
    x, grad = tensors(chunks)
    layer = layer_of(gain=gain, chunks=chunks)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    options = {"block_size": 16, "chunks": chunks, "gain": gain}
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    y.backward(grad)
    want = range_batch_norm(x.double().numpy(), weight, bias, **options)
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-4, atol=1e-5)
    want = range_batch_norm_backward(x.double().numpy(), grad.double().numpy(), weight, **options)
    np.testing.assert_allclose(leaf.grad.numpy(), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.bias.grad.numpy(), grad.sum((0, 2, 3)).numpy(), rtol=1e-4, atol=1e-5)


def slope(layer: RangeNorm2d, x: torch.Tensor, grad: torch.Tensor, direction: torch.Tensor) -> tuple[float, float]:
    """Derivative of (layer(x) * grad).sum() in a direction: measured, and from backward."""
    step = 1e-2
    with torch.no_grad():
        sides = [(layer(x + sign * step * direction).double() * grad).sum() for sign in (1, -1)]
    leaf = x.clone().requires_grad_()
    layer(leaf).backward(grad)
    return float(sides[0] - sides[1]) / (2 * step), float((leaf.grad * direction).sum())


def test_dropped_extremum_terms() -> None:
    """Along x itself y does not change; without the extremum terms backward says that it does."""
    x, _ = tensors(3)
    grad = x * torch.tensor([1.0, -1.0, 1.0])[:, None, None]
    measured, said = slope(layer_of(), x, grad, x)
    assert abs(measured) < 0.1 and abs(said) < 0.1
    measured, said = slope(layer_of(extremum_terms=False), x, grad, x)
    assert abs(measured) < 0.1 and said > 100


def test_block_arithmetic_is_the_default_within_its_rounding() -> None:
    """The layer that drops extremum terms in the default formats differs from LightNorm2d by what K and A round."""
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(8, 3, 8, 8, generator=generator) for _ in range(2))
    results = []
    for layer in (RangeNorm2d(3, arithmetic=BlockArithmetic(DEFAULT_SPEC)), LightNorm2d(3, spec=DEFAULT_SPEC)):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(grad)
        results.append((y.detach(), leaf.grad))
    for ours, theirs, most in zip(*results, (0.03, 0.06), strict=True):
        assert (ours - theirs).norm() / theirs.norm() < most


# ---------------------------------------------------------------------------------------------------------------------
# The authors' arithmetic
# ---------------------------------------------------------------------------------------------------------------------


def slow_truncation(values: list[float], fmt: BlockFormat, shared: str, largest: str) -> list[float]:
    """A group at a time, a number at a time."""

    def exponent(value: float) -> int:
        found = math.frexp(abs(value))[1] - 1 if value else -10_000
        return min(max(found, -fmt.bias), 2**fmt.exp_bits - 1 - fmt.bias)

    result = []
    for first in range(0, len(values), fmt.block_size):
        group = values[first : first + fmt.block_size]
        group_padded = group + [0.0] * (fmt.block_size - len(group))
        falling = sorted((exponent(value) for value in group_padded), reverse=True)
        common = falling[1] if shared == "second" else falling[0]
        for value in group:
            grid = 2.0 ** ((common if largest == "saturates" else max(common, exponent(value))) - fmt.man_bits)
            steps = min(int(abs(value) / grid), 2 ** (fmt.man_bits + 1) - 1)
            result.append(math.copysign(steps * grid, value))
    return result


@pytest.mark.parametrize("shared", ["second", "largest"])
@pytest.mark.parametrize("largest", ["kept", "saturates"])
@pytest.mark.parametrize("fmt", [BlockFormat(5, 4, 4), BlockFormat(3, 2, 4), BlockFormat(6, 3, 8)])
def test_truncation(fmt: BlockFormat, shared: str, largest: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3, 2, 3, 5)) * 2.0 ** rng.integers(-8, 8, (3, 2, 3, 5))
    x[rng.random(x.shape) < 0.2] = 0
    got = truncate_groups(torch.from_numpy(x), fmt, shared, largest).numpy()
    for channel in range(2):
        want = slow_truncation(x[:, channel].flatten().tolist(), fmt, shared, largest)
        assert got[:, channel].flatten().tolist() == want


def test_truncation_by_hand() -> None:
    """e5m4 has 5 bits: 7.9 is 7.75; beside it 0.99 is 0.75 on 7.75's grid of 1/4, and 0.96875 on its own."""
    x = torch.tensor([7.9, 7.9, 0.99, 0.0, 7.9, 0.99, 0.1, 0.0]).view(1, 1, 2, 4)
    fmt = BlockFormat(5, 4, 4)
    assert truncate_groups(x, fmt).flatten().tolist() == [7.75, 7.75, 0.75, 0.0, 7.75, 0.96875, 0.09375, 0.0]
    saturated = truncate_groups(x, fmt, largest="saturates").flatten().tolist()
    assert saturated == [7.75, 7.75, 0.75, 0.0, 0.96875, 0.96875, 0.09375, 0.0]
    assert truncate_groups(x, fmt, shared="largest").flatten().tolist()[4:] == [7.75, 0.75, 0.0, 0.0]


def slow_sum(values: list[float], bits: int) -> float:
    while len(values) > 1:
        values = values + [0.0] * (len(values) % 2)
        pairs = [values[i] + values[i + 1] for i in range(0, len(values), 2)]
        values = []
        for value in pairs:
            grid = 2.0 ** (math.frexp(value)[1] - 1 - bits) if value else 1.0
            values.append(int(value / grid) * grid)
    return values[0]


@pytest.mark.parametrize("elements", [1, 2, 7, 64, 120])
def test_truncated_sum(elements: int) -> None:
    x = np.random.default_rng(elements).normal(size=(3, elements))
    got = truncated_sum(torch.from_numpy(x), 11)
    assert got.tolist() == [slow_sum(row.tolist(), 11) for row in x]
    assert elements < 3 or got.tolist() != x.sum(1).tolist()


def test_authors_layer_truncates() -> None:
    """Every output is on e5m4's grid, every input gradient on e6m3's, and towards zero of the float layer's."""
    x, grad = tensors(9)
    layer = layer_of(gain="lightnorm", block_size=4, arithmetic=AuthorsArithmetic())
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    y.backward(grad)
    for values, fmt in ((y.detach(), BlockFormat(5, 4, 4)), (leaf.grad, BlockFormat(6, 3, 4))):
        assert torch.equal(truncate_groups(values, fmt), values)
    assert layer.running_sigma.tolist() != layer_of().running_sigma.tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Ising
# ---------------------------------------------------------------------------------------------------------------------


def test_ising_equilibrium() -> None:
    """Mean energy and magnetization of 4 x 4 spins are those of all 65,536 states, weighted by Boltzmann."""
    states = np.array(list(itertools.product((-1, 1), repeat=16)), np.int8).reshape(-1, 4, 4)
    energies = energy(states)
    magnetization = np.abs(states.astype(int).sum(axis=(1, 2)))
    for temperature in (1.8, 2.5, 3.8):
        weights = np.exp(-(energies - energies.min()) / temperature)
        found = configurations(temperature, 4000, 4, 60, np.random.default_rng(3))
        for exact, sampled in (
            (energies, energy(found)),
            (magnetization, np.abs(found.astype(int).sum(axis=(1, 2)))),
        ):
            mean = np.average(exact, weights=weights)
            deviation = np.average((exact - mean) ** 2, weights=weights) ** 0.5
            assert abs(sampled.mean() - mean) < 5 * deviation / 4000**0.5
    with pytest.raises(ValueError, match="^side must be even, for two sublattices on a periodic lattice, not 5$"):
        configurations(2.0, 1, 5, 1, np.random.default_rng(0))
