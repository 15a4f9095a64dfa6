"""Backward against the derivative of float64 range batch norm, within bounds derived from the roundings of section 7.

Where several elements of a chunk attain its maximum, the float64 function has a kink and no derivative. Section 7
means the limit of the derivatives at points where the first of them is a little larger: it takes the whole term (an
element of Clarke's generalized gradient; the sum over the equal elements is the same for each choice). For the minimum
likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from stimulus import to_columns, to_tensor
from test_forward import SPECS, decoded, rounding_bound, units

from lightnorm_golden import BlockFormat, NormSpec, backward, forward, host_constants, quantize
from lightnorm_golden.reference import range_batch_norm, signal_to_noise_db
from lightnorm_golden.statistics import Chunking

Float64 = NDArray[np.float64]

WIDE = BlockFormat(8, 10)
EXACT = NormSpec(WIDE, WIDE, 23, 23)
"""Very wide formats, unblocked, so that dx can be compared element by element."""


@dataclass(frozen=True)
class Layer:
    """Inputs that the formats hold exactly."""

    x: Float64
    grad_output: Float64
    weight: Float64
    bias: Float64
    chunks: int
    spec: NormSpec = EXACT
    eps: float = 2.0**-10

    def loss(self, x: Float64, weight: Float64, bias: Float64) -> Float64:
        """sum(grad_output * y) of each channel, by the float64 forward."""
        fmt = self.spec.activation
        y = range_batch_norm(
            x, weight, bias, block_size=fmt.block_size, chunks=self.chunks, eps=self.eps, gain=self.spec.gain
        )
        return np.asarray((to_columns(self.grad_output) * to_columns(y)).sum(axis=1))


def layer(seed: int, chunks: int, spec: NormSpec = EXACT, shape: tuple[int, ...] = (3, 4, 2, 3)) -> Layer:
    rng = np.random.default_rng(seed)
    return Layer(
        decoded(rng.normal(1, 1, shape), spec.activation),
        decoded(rng.normal(0.2, 1, shape), spec.gradient),
        np.round(rng.normal(size=shape[1]) * 64) / 64,
        np.round(rng.normal(size=shape[1]) * 64) / 64,
        chunks,
        spec,
    )


def central_differences(loss: Callable[[Float64], Float64], at: Float64, width: float) -> Float64:
    """d loss / d at for (C, m) columns; channels are independent, so one element of each is moved at a time."""
    gradient = np.empty_like(at)
    for index in range(at.shape[1]):
        moved = [at.copy(), at.copy()]
        moved[0][:, index] += width
        moved[1][:, index] -= width
        gradient[:, index] = (loss(moved[0]) - loss(moved[1])) / (moved[0][:, index] - moved[1][:, index])
    return gradient


def extrema(case: Layer, last: bool = False) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First (or last) position of each chunk's maximum and minimum, (C, chunks)."""
    columns = to_columns(case.x)
    fmt = case.spec.activation
    length = Chunking(columns.shape[1], fmt.block_size, case.chunks).chunk_blocks * fmt.block_size
    positions = []
    for sign in (1, -1):
        rows = []
        for column in sign * columns:
            parts = [column[start : start + length] for start in range(0, len(column), length)]
            found = [len(part) - 1 - int(part[::-1].argmax()) if last else int(part.argmax()) for part in parts]
            rows.append([start * length + index for start, index in enumerate(found)])
        positions.append(np.array(rows))
    return positions[0], positions[1]


def numerical_gradient(case: Layer, nudge: float = 0.0, width: float = 1e-5, last: bool = False) -> Float64:
    """dL/dx by central differences, at x or with each chunk's first (last) extrema moved outwards by `nudge`."""
    columns = to_columns(case.x).copy()
    channel = np.arange(len(columns))[:, None]
    highest, lowest = extrema(case, last)
    single = highest == lowest
    columns[channel, highest] += np.where(single, 0, nudge)
    columns[channel, lowest] -= np.where(single, 0, nudge)

    def loss(moved: Float64) -> Float64:
        return case.loss(to_tensor(moved, case.x.shape), case.weight, case.bias)

    return central_differences(loss, columns, width)


def analytic_gradient(case: Layer) -> Float64:
    """The same in closed form (section 7 without roundings), for tensors too large for differences."""
    x, g = to_columns(case.x), to_columns(case.grad_output)
    host = host_constants(
        x.shape[1], case.chunks, NormSpec(case.spec.activation, case.spec.gradient, 23, gain=case.spec.gain)
    )
    highest, lowest = extrema(case)
    channel = np.arange(len(x))[:, None]
    sigma = (x[channel, highest] - x[channel, lowest]).sum(1, keepdims=True) * host.range_gain
    inverse = np.where(sigma == 0, 0, 1 / (sigma + case.eps))
    scale = case.weight[:, None] * inverse
    grad_weight = inverse * (g * (x - x.mean(1, keepdims=True))).sum(1, keepdims=True)
    dx = scale * (g - g.mean(1, keepdims=True))
    np.add.at(dx, (channel, highest), -scale * grad_weight * host.range_gain)
    np.add.at(dx, (channel, lowest), scale * grad_weight * host.range_gain)
    return np.asarray(dx)


def coefficient_bounds(case: Layer) -> tuple[Float64, Float64, Float64]:
    """Bounds of the errors of dx (before its rounding), grad_weight and grad_bias from the roundings of section 7.

    With u = 2^-(coef_man_bits + 1) and scale_man_bits = coef_man_bits, to first order, Q and D exact:
        grad_bias   u                               mean 3u, invstd 5u, scale 7u (see coefficient_bound of test_forward)
        grad_weight |invstd| (u |D| + 5u |mean Q|)  K(D), K(mean * grad_bias): absolute, for their difference may cancel
                    + 7u |grad_weight|              invstd, the difference's rounding, the product
        center      11u                             scale 7u, K(grad_bias * inv_count) 3u, the product
        ext         10u + the error of grad_weight  scale 7u, range_gain, two products
        dx          7u |scale g| + 12u |center| + 11u |ext| + |scale| range_gain * (error of grad_weight)
    """
    u = 2.0 ** -(case.spec.coef_man_bits + 1)
    x, g = to_columns(case.x), to_columns(case.grad_output)
    result = forward(case.x, case.weight, case.bias, spec=case.spec, eps=case.eps, chunks=case.chunks)
    gain = host_constants(x.shape[1], case.chunks, case.spec).range_gain
    total, product = g.sum(axis=1), (g * x).sum(axis=1)
    weight_error = result.invstd * u * (np.abs(product) + 5 * np.abs(x.mean(axis=1) * total))
    grad_weight = result.invstd * (product - x.mean(axis=1) * total)
    weight_error = weight_error + 7 * u * np.abs(grad_weight)
    scale = np.abs(result.scale)
    per_channel = scale * (
        12 * u * np.abs(total) / x.shape[1] + 11 * u * np.abs(grad_weight) * gain + gain * weight_error
    )
    dx = 7 * u * scale[:, None] * np.abs(g) + per_channel[:, None]
    return np.asarray(1.01 * dx), np.asarray(1.01 * weight_error), np.asarray(1.01 * u * np.abs(total))


@pytest.mark.parametrize("chunks", [1, 3, 5, 9])
@pytest.mark.parametrize("seed", range(3))
def test_backward_is_the_derivative_of_forward(seed: int, chunks: int) -> None:
    """grad_input, grad_weight and grad_bias; 9 wanted chunks of 18 elements leave chunks of 2, 5 a shorter last one."""
    case = layer(seed, chunks)
    got = backward(case.x, case.grad_output, case.weight, spec=case.spec, eps=case.eps, chunks=chunks)
    dx_bound, weight_bound, bias_bound = coefficient_bounds(case)
    slack = 1e-8  # of the central differences: truncation and cancellation, both far below u = 6e-8

    want = numerical_gradient(case)
    error = np.abs(to_columns(got.grad_input) - want)
    bound = rounding_bound(got.blocks, want.shape[1]) + dx_bound + slack
    assert (error <= bound).all(), f"dx: error up to {(error / bound).max():.2f} times its bound"

    weight = central_differences(lambda w: case.loss(case.x, w[:, 0], case.bias), case.weight[:, None], 1e-3)[:, 0]
    bias = central_differences(lambda b: case.loss(case.x, case.weight, b[:, 0]), case.bias[:, None], 1e-3)[:, 0]
    assert (np.abs(got.grad_weight - weight) <= weight_bound + slack).all()
    assert (np.abs(got.grad_bias - bias) <= bias_bound + slack).all()


@pytest.mark.parametrize("chunks", [1, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_first_of_equal_extrema_takes_the_term(seed: int, chunks: int) -> None:
    """x of three different values. Nudging by 1e-6 moves the derivative by a few 1e-6 of it, far below an ulp of dx."""
    rng = np.random.default_rng([seed, 4])
    plain = layer(seed, chunks)
    case = Layer(rng.choice([-1.0, 0.5, 2.0], plain.x.shape), plain.grad_output, plain.weight, plain.bias, chunks)
    got = backward(case.x, case.grad_output, case.weight, spec=case.spec, eps=case.eps, chunks=chunks)
    first, last = (numerical_gradient(case, nudge=1e-6, width=1e-7, last=choice) for choice in (False, True))
    slack = 1e-4 * np.abs(first).max(axis=1, keepdims=True)
    bound = rounding_bound(got.blocks, first.shape[1]) + coefficient_bounds(case)[0] + slack
    assert (np.abs(to_columns(got.grad_input) - first) <= bound).all()
    assert (np.abs(to_columns(got.grad_input) - last) > bound).any()
    assert first.sum(axis=1) == pytest.approx(last.sum(axis=1), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_closed_form_is_the_derivative(seed: int) -> None:
    """So that the tests below may use it on tensors that are too large for differences."""
    case = layer(seed, 3)
    assert analytic_gradient(case) == pytest.approx(numerical_gradient(case), rel=1e-6, abs=1e-8)


def test_gradient_orthogonality() -> None:
    """y does not change when a constant is added to x, so dx sums to zero but for its roundings."""
    case = layer(5, 4, shape=(8, 3, 6, 6))
    got = backward(case.x, case.grad_output, case.weight, spec=case.spec, eps=case.eps, chunks=case.chunks)
    dx = to_columns(got.grad_input)
    bound = (rounding_bound(got.blocks, dx.shape[1]) + coefficient_bounds(case)[0]).sum(axis=1)
    assert (np.abs(dx.sum(axis=1)) <= bound).all()


@pytest.mark.parametrize("name", ["e5m4 in 16", "e5m4 in 4", "e8m10, widest coefficients"])
def test_signal_to_noise_on_normal_data(name: str) -> None:
    """The noise of dx is that of two roundings, uniform in one unit each: of g (times scale) and of dx.

    Against the derivative for the unquantized g at the x that the machine sees (with few mantissa bits, equal maxima
    are common, and which is first depends on how x is quantized). Scales are kept away from 1, where the second
    rounding would find most values on its grid already.
    """
    spec = SPECS[name]
    rng = np.random.default_rng(3)
    x, grad_output = (rng.normal(size=(16, 8, 14, 14)) for _ in range(2))
    weight = rng.uniform(1.2, 1.8, 8)
    got = backward(x, grad_output, weight, spec=spec)
    scale = forward(x, weight, spec=spec).scale
    exact = analytic_gradient(Layer(decoded(x, spec.activation), grad_output, weight, 0 * weight, 16, spec, eps=1e-5))
    columns = to_columns(grad_output)
    noise_in = (units(quantize(columns, spec.gradient), columns.shape[1]) * scale[:, None]) ** 2 / 12
    noise_out = units(got.blocks, columns.shape[1]) ** 2 / 12
    predicted = 10 * np.log10((exact**2).mean() / (noise_in.mean() + noise_out.mean()))
    assert signal_to_noise_db(exact, to_columns(got.grad_input)) == pytest.approx(predicted, abs=0.5)


def test_channel_without_range_has_no_gradient() -> None:
    """Section 5: grad_weight = 0 and dx = 0; grad_bias is the plain sum."""
    case = layer(0, 3)
    for eps in (0.0, 1e-5):
        got = backward(np.full_like(case.x, 3.0), case.grad_output, case.weight, spec=EXACT, eps=eps, chunks=3)
        assert (got.grad_input == 0).all() and (got.grad_weight == 0).all()
        assert got.grad_bias == pytest.approx(to_columns(case.grad_output).sum(axis=1), rel=1e-6)


def test_gradient_blocks_are_independent_of_activation_blocks() -> None:
    """Chunks are counted in activation blocks; the gradient's own blocks straddle them."""
    case = layer(1, 3, NormSpec(BlockFormat(8, 10, 2), BlockFormat(8, 10, 5), 23, 23), (3, 4, 7))
    got = backward(case.x, case.grad_output, case.weight, spec=case.spec, eps=case.eps, chunks=3)
    want = numerical_gradient(case)
    bound = rounding_bound(got.blocks, want.shape[1]) + coefficient_bounds(case)[0] + 1e-8
    assert (np.abs(to_columns(got.grad_input) - want) <= bound).all()
