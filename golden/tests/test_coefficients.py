"""Per-channel coefficients against the oracle, one formula at a time, over the whole range of K."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import oracle
import pytest
from comparison import differences, exact_floats, oracle_of
from numpy.typing import NDArray
from test_wide import wide_numbers

from lightnorm_golden import BlockFormat, NormSpec
from lightnorm_golden.coefficients import affine, grad_terms, inverse_std, mean_and_sigma, running

COUNT = 400


def exact(values: NDArray[np.float64]) -> list[Fraction]:
    return [Fraction(float(value)) for value in values]


def assert_same(got: NDArray[np.float64], want: list[Fraction], name: str) -> None:
    bad = np.flatnonzero(differences(got, exact_floats(want)))
    assert not len(bad), f"{name}: {got[bad[:3]]}, oracle {[float(want[i]) for i in bad[:3]]}, at {bad[:3]}"


@pytest.fixture(params=[(8, 1), (15, 7), (15, 15), (23, 7), (23, 23)], ids=str)
def spec(request: pytest.FixtureRequest) -> NormSpec:
    return NormSpec(BlockFormat(5, 4, 16), BlockFormat(6, 3, 16), *request.param)


def operands(spec: NormSpec, count: int) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(spec.coef_man_bits)
    return [wide_numbers(rng, spec.coef, COUNT) for _ in range(count)]


@pytest.mark.parametrize("eps", [0.0, 2.0**-126, 2.0**-17, 1.0, 2.0**127])
def test_affine(spec: NormSpec, eps: float) -> None:
    """invstd, scale and shift; a shift that cancels to nothing among them."""
    mean, sigma, weight, bias = operands(spec, 4)
    sigma = np.abs(sigma)
    reference = oracle_of(spec)
    invstd = [reference.invstd_of(s, Fraction(eps)) for s in exact(sigma)]
    scale = [reference.scale_of(w, i) for w, i in zip(exact(weight), invstd, strict=True)]
    product = [reference.k(s * m) for s, m in zip(scale, exact(mean), strict=True)]
    bias[::3] = exact_floats(product)[::3]  # cancels
    shift = [reference.shift_of(b, s, m) for b, s, m in zip(exact(bias), scale, exact(mean), strict=True)]
    got = affine(mean, sigma, weight, bias, eps, spec)
    assert_same(got.invstd, invstd, "invstd")
    assert_same(got.scale, scale, "scale")
    assert_same(got.shift, shift, "shift")
    assert (got.shift[::3] == 0).all()


def test_inverse_std_ends() -> None:
    """sigma = 0 gives 0 whatever eps is; the largest sigma gives an inverse that underflows to 0 instead of 2^-128."""
    spec = NormSpec(BlockFormat(5, 4), BlockFormat(5, 4))
    sigma = np.array([0.0, 2.0**-126, 1.0, 2.0**126, 2.0**127])
    assert inverse_std(sigma, 0.0, spec).tolist() == [0.0, 2.0**126, 1.0, 2.0**-126, 0.0]
    assert inverse_std(sigma, 1.0, spec).tolist() == [0.0, 1.0, 0.5, 2.0**-126, 0.0]


@pytest.mark.parametrize("momentum", [0.0, 2.0**-126, 0.5, 1.0])
def test_running(spec: NormSpec, momentum: float) -> None:
    """Momentum 0 keeps the old value; momentum 1 takes the new one but for the rounding of the difference."""
    old, new = operands(spec, 2)
    reference = oracle_of(spec)
    want = [reference.running_update(o, Fraction(momentum), n) for o, n in zip(exact(old), exact(new), strict=True)]
    got = running(old, new, momentum, spec)
    assert_same(got, want, "running")
    if momentum == 0:
        assert (got == old).all()


def test_mean_and_sigma(spec: NormSpec) -> None:
    """From sums of up to 300 bits."""
    rng = np.random.default_rng(5)
    sums = [int(rng.integers(-(1 << 40), 1 << 40)) << int(rng.integers(0, 260)) for _ in range(COUNT)]
    ranges = [abs(value) for value in reversed(sums)]
    inv_count, range_gain = 2.0**-7 * 1.25, 0.01171875
    mean, sigma = mean_and_sigma(sums, ranges, inv_count, range_gain, spec)
    k, unit = oracle_of(spec).k, oracle.power_of_two(spec.activation.min_exponent)
    assert_same(mean, [k(k(value * unit) * Fraction(inv_count)) for value in sums], "mean")
    assert_same(sigma, [k(k(value * unit) * Fraction(range_gain)) for value in ranges], "sigma")


def test_grad_terms(spec: NormSpec) -> None:
    """The five outputs of section 7 before dx, from operands anywhere in K."""
    rng = np.random.default_rng(6)
    grad_total, product_total = (
        [int(rng.integers(-(1 << 40), 1 << 40)) << int(rng.integers(0, 60)) for _ in range(COUNT)] for _ in range(2)
    )
    mean, invstd, scale = operands(spec, 3)
    invstd, scale = np.abs(invstd), np.where(rng.random(COUNT) < 0.1, 0.0, np.ldexp(1.0 + (scale > 0) * 0.5, -2))
    inv_count, range_gain = 2.0**-7 * 1.25, 0.01171875
    got = grad_terms(grad_total, product_total, mean, invstd, scale, inv_count, range_gain, spec)

    k = oracle_of(spec).k
    g_unit, x_unit = (oracle.power_of_two(fmt.min_exponent) for fmt in (spec.gradient, spec.activation))
    want: dict[str, list[Fraction]] = {"grad_bias": [], "grad_weight": [], "ordinary": [], "at_max": [], "at_min": []}
    for total, product, m, i, s in zip(
        grad_total, product_total, exact(mean), exact(invstd), exact(scale), strict=True
    ):
        grad_bias = k(total * g_unit)
        grad_weight = k(i * k(k(product * g_unit * x_unit) - k(m * grad_bias)))
        center = k(s * k(grad_bias * Fraction(inv_count)))
        ext = k(s * k(grad_weight * Fraction(range_gain)))
        for name, value in zip(
            want, (grad_bias, grad_weight, -center, k(-center - ext), k(-center + ext)), strict=True
        ):
            want[name].append(value)
    for name, values in want.items():
        assert_same(getattr(got, name), values, name)
