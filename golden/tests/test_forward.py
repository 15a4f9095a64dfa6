"""Forward and inference against float64 range batch norm, within bounds derived from the roundings of section 5."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from stimulus import to_columns, to_tensor

from lightnorm_golden import BlockFormat, Blocks, Forward, NormSpec, decode, forward, infer, quantize
from lightnorm_golden.block import step
from lightnorm_golden.reference import range_batch_norm, signal_to_noise_db

Float64 = NDArray[np.float64]

SPECS = {
    "e5m4 in 16": NormSpec(BlockFormat(5, 4, 16), BlockFormat(6, 3, 16)),
    "e5m4 in 4": NormSpec(BlockFormat(5, 4, 4), BlockFormat(6, 3, 4)),
    "e5m10": NormSpec(BlockFormat(5, 10), BlockFormat(6, 3)),
    "e8m10, widest coefficients": NormSpec(BlockFormat(8, 10), BlockFormat(8, 10), 23, 23),
    "e8m7 in 3, narrowest coefficients": NormSpec(BlockFormat(8, 7, 3), BlockFormat(8, 7, 3), 8, 8),
    "e6m6 in 64, rangebn": NormSpec(BlockFormat(6, 6, 64), BlockFormat(6, 6, 64), gain="rangebn"),
    "e6m6 in 8, lightnorm": NormSpec(BlockFormat(6, 6, 8), BlockFormat(6, 6, 8), gain="lightnorm"),
}


def units(blocks: Blocks, count: int) -> Float64:
    """Value of the last bit of each element, (C, count)."""
    steps = np.repeat(step(blocks.shared_exp.astype(np.int64), blocks.format), blocks.format.block_size, axis=1)
    return np.asarray(steps[:, :count])


def rounding_bound(blocks: Blocks, count: int) -> Float64:
    """What the one rounding into the block format may cost, below its top binade.

    Half a unit of the block; a value beyond the last tie of the block's binade saturates, which costs up to one unit.
    """
    full = (blocks.significand == blocks.format.max_significand).reshape(len(blocks.significand), -1)[:, :count]
    return np.asarray(units(blocks, count) * np.where(full, 1.0, 0.5))


def decoded(x: NDArray[np.floating], fmt: BlockFormat) -> Float64:
    """The tensor that the machine sees."""
    columns = to_columns(x)
    return to_tensor(decode(quantize(columns, fmt), columns.shape[1]), x.shape)


def coefficient_bound(result: Forward, x: Float64, bias: Float64, spec: NormSpec) -> Float64:
    """Bound of |exact y of the model - y of float64| from the roundings of the coefficients, (C, m), x decoded.

    With u = 2^-(coef_man_bits + 1), a = 2^-(scale_man_bits + 1), relative errors to first order, no under- or overflow:
        mean: K(S), inv_count, product: 3u          sigma: K(T - U), range_gain, product: 3u
        invstd: sigma, eps, their sum, inverse: 5u  scale: weight, invstd, product, A instead of K: 6u + a
        |y' - y| <= |scale| (6u + a) |x - mean| + |scale| 3u |mean|           scale * (x - mean) with both errors
                    + u |bias| + u |scale mean| + u (|bias| + |scale mean|)   bias, K(scale * mean), K(shift)
    The error of scale multiplies x - mean, not x: section 5 makes the shift with the rounded scale. Second-order terms
    are below a part 2a + 16u of this.
    """
    u, a = 2.0 ** -(spec.coef_man_bits + 1), 2.0 ** -(spec.scale_man_bits + 1)
    columns = to_columns(x)
    mean = columns.mean(axis=1, keepdims=True)
    scale = np.abs(result.scale)[:, None]
    terms = scale * ((6 * u + a) * np.abs(columns - mean) + 5 * u * np.abs(mean)) + 2 * u * np.abs(bias)[:, None]
    return np.asarray(terms * (1 + 2 * a + 16 * u))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("mean_over_sigma", [0, 3, 100])
@pytest.mark.parametrize("shape, chunks", [((4, 3, 8, 8), 4), ((16, 2, 7, 7), 16), ((2, 2, 5), 7)])
def test_forward_within_analytic_bound(name: str, mean_over_sigma: int, shape: tuple[int, ...], chunks: int) -> None:
    spec, eps = SPECS[name], 1e-3
    rng = np.random.default_rng([mean_over_sigma, len(shape), chunks])
    x = rng.normal(mean_over_sigma, 1, shape)
    weight, bias = rng.normal(size=shape[1]) + 2, rng.normal(size=shape[1])
    result = forward(x, weight, bias, spec=spec, eps=eps, chunks=chunks)
    seen = decoded(x, spec.activation)
    exact = range_batch_norm(
        seen, weight, bias, block_size=spec.activation.block_size, chunks=chunks, eps=eps, gain=spec.gain
    )
    assert (result.blocks.shared_exp < spec.activation.max_shared_exp).all()
    error = np.abs(to_columns(result.output) - to_columns(exact))
    bound = rounding_bound(result.blocks, error.shape[1]) + coefficient_bound(result, seen, bias, spec)
    assert (error <= bound).all(), f"error up to {(error / bound).max():.2f} times its bound"
    assert error.max() > 0.05 * bound.max()  # the bound is not idle either


@pytest.mark.parametrize("name", SPECS)
def test_inference_within_analytic_bound(name: str) -> None:
    """As above with mean and sigma from the host: fewer roundings, the same bound."""
    spec, eps = SPECS[name], 1e-3
    rng = np.random.default_rng(1)
    x = rng.normal(3, 1, (4, 3, 6, 6))
    weight, bias = rng.normal(size=3) + 2, rng.normal(size=3)
    mean, sigma = to_columns(x).mean(axis=1), np.array([0.5, 1.0, 2.0])
    result = infer(x, weight, bias, mean, sigma, spec=spec, eps=eps)
    seen = to_columns(decoded(x, spec.activation))
    exact = (seen - mean[:, None]) / (sigma + eps)[:, None] * weight[:, None] + bias[:, None]
    u, a = 2.0 ** -(spec.coef_man_bits + 1), 2.0 ** -(spec.scale_man_bits + 1)
    scale = np.abs(result.scale)[:, None]
    terms = scale * ((6 * u + a) * np.abs(seen - mean[:, None]) + 5 * u * np.abs(mean)[:, None])
    terms = (terms + 2 * u * np.abs(bias)[:, None]) * (1 + 2 * a + 16 * u)
    bound = rounding_bound(result.blocks, seen.shape[1]) + terms
    error = np.abs(to_columns(result.output) - exact)
    assert (error <= bound).all(), f"error up to {(error / bound).max():.2f} times its bound"


@pytest.mark.parametrize("name", ["e5m4 in 16", "e5m4 in 4", "e8m10, widest coefficients"])
def test_signal_to_noise_on_normal_data(name: str) -> None:
    """The noise on normal data is that of two roundings, uniform in one unit each: of x (times scale) and of y.

    Against float64 range batch norm of the unquantized x. Measured and predicted agree within half a decibel; the
    prediction leaves out the scale's own rounding (below 2^-8), the rounding of the extrema, and saturation.
    """
    spec = SPECS[name]
    rng = np.random.default_rng(2)
    x, weight, bias = rng.normal(1, 1, (16, 16, 14, 14)), rng.uniform(0.7, 1.4, 16), rng.normal(size=16)
    result = forward(x, weight, bias, spec=spec)
    exact = range_batch_norm(x, weight, bias, block_size=spec.activation.block_size, chunks=16)
    columns = to_columns(x)
    noise_in = (units(quantize(columns, spec.activation), columns.shape[1]) * result.scale[:, None]) ** 2 / 12
    noise_out = units(result.blocks, columns.shape[1]) ** 2 / 12
    measured = signal_to_noise_db(exact, result.output)
    predicted = 10 * np.log10((exact**2).mean() / (noise_in.mean() + noise_out.mean()))
    assert measured == pytest.approx(predicted, abs=0.5)


def test_channel_without_range_yields_the_bias() -> None:
    """Section 5: y = bias exactly, with eps 0 as with any eps, also where the mean is not a value of K."""
    fmt = BlockFormat(8, 10)
    spec = NormSpec(fmt, fmt, coef_man_bits=8)
    x = np.full((4, 2, 3), 2.0**20 + 2.0**10)
    for eps in (0.0, 1e-5):
        result = forward(x, np.array([3.0, -1e30]), np.array([1.25, -0.5]), spec=spec, eps=eps)
        assert (result.sigma == 0).all() and (result.invstd == 0).all() and (result.scale == 0).all()
        assert (result.output == np.array([1.25, -0.5])[:, None]).all()


def test_chunks_of_one_element_have_no_range() -> None:
    fmt = BlockFormat(5, 4)
    x = np.random.default_rng(0).normal(size=(8, 2))
    result = forward(x, bias=np.array([0.5, -1.0]), spec=NormSpec(fmt, fmt), chunks=8)
    assert (result.sigma == 0).all()
    assert (result.output == [0.5, -1.0]).all()


def test_running_statistics_are_an_exponential_average() -> None:
    rng = np.random.default_rng(0)
    spec = SPECS["e8m10, widest coefficients"]
    x = rng.normal(2, 3, (8, 4, 6, 6))
    old_mean, old_sigma = rng.normal(size=4), rng.uniform(1, 2, 4)
    result = forward(x, spec=spec, momentum=0.25, running_mean=old_mean, running_sigma=old_sigma)
    assert result.running_mean == pytest.approx(0.75 * old_mean + 0.25 * result.mean, rel=1e-6)
    assert result.running_sigma == pytest.approx(0.75 * old_sigma + 0.25 * result.sigma, rel=1e-6)


def test_inference_repeats_training_with_its_statistics() -> None:
    """infer with a batch's mean and sigma yields the bits of that batch's forward (sections 5 and 6 share the rest)."""
    rng = np.random.default_rng(0)
    spec = SPECS["e5m4 in 16"]
    x, weight, bias = rng.normal(2, 3, (4, 4, 6, 6)), rng.normal(size=4), rng.normal(size=4)
    trained = forward(x, weight, bias, spec=spec)
    inferred = infer(x, weight, bias, trained.mean, trained.sigma, spec=spec)
    for name in ("invstd", "scale", "shift", "output"):
        assert (getattr(trained, name) == getattr(inferred, name)).all(), name
