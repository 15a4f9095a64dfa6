"""The conventional machines' model: near float64 batch norm and its derivative, as near as the formats allow."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from lightnorm_golden.baseline import (
    SEED_INDEX_BITS,
    FloatNormSpec,
    FloatStatistics,
    backward_lanes,
    coefficients,
    decode_floats,
    encode_floats,
    float_constants,
    forward_lanes,
    gradient_coefficients,
    reduce_lanes,
    seed_table,
)
from lightnorm_golden.formats import FloatFormat
from lightnorm_golden.reference import (
    batch_norm_two_pass,
    range_batch_norm,
    range_batch_norm_backward,
    signal_to_noise_db,
)
from lightnorm_golden.wide import round_wide

Float64 = NDArray[np.float64]
LANES, CHUNKS, EPS, MOMENTUM = 8, 5, 1e-5, 0.1
SINGLE, HALF, BRAIN = FloatFormat(8, 23), FloatFormat(5, 10), FloatFormat(8, 7)

# With the signal-to-noise that y and dx have at least, in dB: 6.02 for each bit of a fraction, and some.
SPECS = {
    "l2 fp32": (FloatNormSpec("l2", SINGLE, SINGLE), 138),
    "l2 bfloat16": (FloatNormSpec("l2", BRAIN, BRAIN, 23, 7), 48),
    "range fp32": (FloatNormSpec("range", SINGLE, SINGLE), 138),
    "range fp16": (FloatNormSpec("range", HALF, HALF, 23, 10), 66),
    "range fp10": (FloatNormSpec("range", FloatFormat(5, 4), FloatFormat(6, 3), 15, 7), 26),
}


def layer(spec: FloatNormSpec, channels: int = 6, elements: int = 1003) -> tuple[Float64, ...]:
    """Values and gradients that the formats hold, weight and bias."""
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((channels, elements)) * 3 + rng.standard_normal((channels, 1)) * 2
    grad = rng.standard_normal((channels, elements)) + 0.3 * x
    weight, bias = rng.standard_normal(channels) + 3, rng.standard_normal(channels)
    return (round_wide(x, spec.activation), round_wide(grad, spec.gradient), round_wide(weight, spec.coef),
            round_wide(bias, spec.coef))  # fmt: skip


def step(spec: FloatNormSpec, x: Float64, grad: Float64, weight: Float64, bias: Float64, **given: Any) -> Any:
    """(y, dx, words of training, words of backward)."""
    constants = float_constants(x.shape[1], CHUNKS, LANES, spec)
    shape = {"lanes": LANES, "chunk_beats": constants.chunk_beats, "spec": spec}
    zeros = np.zeros(len(x))
    found = coefficients(reduce_lanes(x, None, **shape), constants, weight, bias, zeros, zeros + 1,
                         eps=given.get("eps", float(round_wide(np.float64(EPS), spec.coef))),
                         momentum=float(round_wide(np.float64(MOMENTUM), spec.coef)), spec=spec)  # fmt: skip
    statistics: FloatStatistics = reduce_lanes(x, grad, **shape)
    made = gradient_coefficients(statistics, constants, found["mean"], found["invstd"], weight, spec=spec)
    return forward_lanes(x, found, spec), backward_lanes(x, grad, made, statistics, spec), found, made


def reference(spec: FloatNormSpec, x: Float64, weight: Float64, bias: Float64) -> Float64:
    if spec.statistic == "l2":
        return np.asarray(batch_norm_two_pass(x[None], weight, bias, EPS))[0]
    return range_batch_norm(x[None], weight, bias, block_size=LANES, chunks=CHUNKS, eps=EPS)[0]


def reference_backward(spec: FloatNormSpec, x: Float64, grad: Float64, weight: Float64) -> Float64:
    if spec.statistic == "range":
        return range_batch_norm_backward(x[None], grad[None], weight, block_size=LANES, chunks=CHUNKS, eps=EPS)[0]
    inverse = 1 / np.sqrt(x.var(axis=1, keepdims=True) + EPS)
    normal = (x - x.mean(axis=1, keepdims=True)) * inverse
    parts = grad.mean(axis=1, keepdims=True) + normal * (grad * normal).mean(axis=1, keepdims=True)
    return np.asarray(weight[:, None] * inverse * (grad - parts))


@pytest.mark.parametrize("name", SPECS)
def test_near_float64(name: str) -> None:
    spec, decibels = SPECS[name]
    x, grad, weight, bias = layer(spec)
    y, dx, found, made = step(spec, x, grad, weight, bias)
    assert signal_to_noise_db(reference(spec, x, weight, bias), y) > decibels
    assert signal_to_noise_db(reference_backward(spec, x, grad, weight), dx) > decibels
    few = 4 * 2.0**-spec.coef_man_bits
    assert np.allclose(found["mean"], x.mean(axis=1), rtol=8 * few)
    assert np.allclose(made["grad_bias"], grad.sum(axis=1), rtol=8 * few, atol=few * len(x[0]))
    if spec.statistic == "l2":
        variance = x.var(axis=1)
        assert np.allclose(found["invstd"], 1 / np.sqrt(variance + EPS), rtol=8 * few)
        assert np.allclose(found["new_running_spread"], 0.9 + 0.1 * variance, rtol=8 * few)
    assert np.allclose(found["new_running_mean"], 0.1 * x.mean(axis=1), rtol=16 * few)


def test_the_derivative_is_one() -> None:
    """Central differences of the float64 function that forward is compared with."""
    spec = SPECS["l2 fp32"][0]
    x, grad, weight, bias = layer(spec, 2, 20)
    got = reference_backward(spec, x, grad, weight)
    for index in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[index] = 1e-6
        above, below = (reference(spec, x + sign * moved, weight, bias) for sign in (1, -1))
        assert got[index] == pytest.approx((grad * (above - below)).sum() / 2e-6, abs=1e-6)


@pytest.mark.parametrize("statistic", ["l2", "range"])
def test_seed_table(statistic: str) -> None:
    """Its relative error, over the whole domain."""
    m = np.linspace(1, 4 if statistic == "l2" else 2, 100_000, endpoint=False)
    binade = (m >= 2).astype(int)
    index = ((m / 2.0**binade - 1) * (1 << SEED_INDEX_BITS)).astype(int) + (binade << SEED_INDEX_BITS)
    offset, slope = np.array(seed_table(statistic))[index].T
    exact = 1 / np.sqrt(m) if statistic == "l2" else 1 / m
    assert np.abs((offset + slope * m) / exact - 1).max() < 2.0**-12.8


@pytest.mark.parametrize("statistic", ["l2", "range"])
def test_inverse_of_every_magnitude(statistic: str) -> None:
    """invstd is within 2^-22 of exact over all exponents that have an inverse; 0 gives something finite."""
    spec = SPECS[f"{statistic} fp32"][0]
    limit = 120
    eps = np.ldexp(1 + np.arange(0, 64) / 64, np.linspace(-limit, limit, 64).astype(int))
    for value in eps:
        x = np.zeros((1, 4))
        found = step(spec, x, x, np.ones(1), np.zeros(1), eps=float(value))[2]
        exact = 1 / np.sqrt(value) if statistic == "l2" else 1 / value
        assert found["invstd"][0] == pytest.approx(exact, rel=2.0**-22)
    assert np.isfinite(step(spec, x, x, np.ones(1), np.zeros(1), eps=0.0)[2]["invstd"]).all()


@pytest.mark.parametrize(("fmt", "dtype"), [(SINGLE, np.float32), (HALF, np.float16), (BRAIN, ml_dtypes.bfloat16)])
def test_words(fmt: FloatFormat, dtype: Any) -> None:
    """Words are IEEE's."""
    values = round_wide(np.random.default_rng(0).standard_normal(1000) * 10, fmt)
    words = encode_floats(values, fmt)
    container = np.uint32 if fmt.bits == 32 else np.uint16
    assert np.array_equal(words.astype(container).view(dtype).astype(np.float64), values)
    assert np.array_equal(decode_floats(words, fmt), values)


def test_sums_do_not_lose_what_their_format_holds() -> None:
    """Alternating terms cancel; what is left of 2^16 of them is the sum of their rounding to the sum's last place."""
    spec = SPECS["l2 fp32"][0]
    x = np.tile([1.0, -1.0], (1, 1 << 15))
    x[0, -1] = -1 + 2.0**-20
    statistics = reduce_lanes(x, None, lanes=LANES, chunk_beats=1, spec=spec)
    assert statistics.total[0] == 2.0**-20
    assert statistics.product_total[0] == round_wide(np.float64((x**2).sum()), spec.coef)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("l3", SINGLE, SINGLE), "statistic must be one of l2, range, not 'l3'"),
        (("l2", SINGLE, SINGLE, 14, 7), "coef_man_bits must be an integer between 15 and 23, not 14"),
        (("l2", SINGLE, SINGLE, 20, 21), "scale_man_bits must be an integer between 1 and 20, not 21"),
    ],
)
def test_what_a_spec_refuses(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FloatNormSpec(*given)
