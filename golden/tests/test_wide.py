"""Arithmetic in the wide format K against the oracle and against float32 hardware."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import oracle
import pytest
from comparison import differences, exact_floats
from numpy.typing import NDArray

from lightnorm_golden import WideFormat
from lightnorm_golden.wide import add, divide, multiply, round_integers, round_wide

Float64 = NDArray[np.float64]


def boundary_reals(rng: np.random.Generator, man_bits: int, size: int) -> Float64:
    """Around both ends of K, at ties and next to them, and at the ends of float64."""
    ulp = 2.0**-man_bits
    tie = 1 + (rng.integers(0, 1 << man_bits, size) + 0.5) * ulp
    ends = [1, 1.5, 2 - ulp, 2 - ulp / 2, np.nextafter(2, 0)]
    significand = rng.choice(np.concatenate([tie, np.nextafter(tie, 0), np.nextafter(tie, 2), ends]), size)
    exponent = rng.choice([-1022, -150, -128, -127, -126, -125, -1, 0, 1, 126, 127, 128, 1000], size)
    return np.asarray(np.ldexp(significand * rng.choice([-1.0, 1.0], size), exponent))


def wide_numbers(rng: np.random.Generator, fmt: WideFormat, size: int) -> Float64:
    """Values of K, many of them close to each other in magnitude or equal, so that sums cancel and meet ties."""
    exponent = rng.choice([-126, -125, -64, -fmt.man_bits - 2, -fmt.man_bits - 1, -1, 0, 1, 64, 127], size)
    fraction = rng.choice([0, 1, 2, (1 << fmt.man_bits) - 1, (1 << fmt.man_bits - 1)], size)
    fraction = np.where(rng.random(size) < 0.5, fraction, rng.integers(0, 1 << fmt.man_bits, size))
    values = np.ldexp(rng.choice([-1.0, 1.0], size) * (1 + fraction * 2.0**-fmt.man_bits), exponent)
    return np.asarray(np.where(rng.random(size) < 0.05, 0.0, values))


def assert_same(got: Float64, want: list[Fraction], context: object) -> None:
    bad = np.flatnonzero(differences(got, exact_floats(want)))
    assert not len(bad), f"{context}: {got[bad[:3]]}, oracle {[float(want[i]) for i in bad[:3]]}, at {bad[:3]}"


@pytest.mark.parametrize("man_bits", range(1, 24))
def test_round_wide(man_bits: int) -> None:
    values = boundary_reals(np.random.default_rng(man_bits), man_bits, 300)
    got = round_wide(values, WideFormat(man_bits))
    assert_same(got, [oracle.round_wide(Fraction(float(v)), man_bits) for v in values], man_bits)


@pytest.mark.parametrize("man_bits", [8, 12, 15, 22, 23])
def test_operations(man_bits: int) -> None:
    """add, multiply and divide: every pair of boundary exponents occurs; none needs more than its one rounding."""
    fmt, rng = WideFormat(man_bits), np.random.default_rng(man_bits)
    a, b = wide_numbers(rng, fmt, 1500), wide_numbers(rng, fmt, 1500)
    b[::5] = -a[::5] * rng.choice([1, 1 + 2.0**-man_bits, 2.0**-man_bits, 0.5], 300)
    b = round_wide(b, fmt)
    exact = [(Fraction(float(p)), Fraction(float(q))) for p, q in zip(a, b, strict=True)]
    assert_same(add(a, b, fmt), [oracle.round_wide(p + q, man_bits) for p, q in exact], "add")
    assert_same(multiply(a, b, fmt), [oracle.round_wide(p * q, man_bits) for p, q in exact], "multiply")
    nonzero = b[b != 0]
    quotients = [oracle.round_wide(1 / Fraction(float(q)), man_bits) for q in nonzero]
    assert_same(divide(1.0, nonzero, fmt), quotients, "divide")


def test_reciprocals_exhaustively() -> None:
    """1 / b for every fraction of a K of 8 and of 15 bits: the quotient is never near a boundary."""
    for man_bits in (8, 15):
        b = np.asarray(1 + np.arange(1 << man_bits) * 2.0**-man_bits, np.float64)
        want = [oracle.round_wide(1 / Fraction(float(v)), man_bits) for v in b]
        assert_same(divide(1.0, b, WideFormat(man_bits)), want, man_bits)


@pytest.mark.parametrize("man_bits", [8, 15, 23])
def test_round_integers(man_bits: int) -> None:
    """Integers of any size: ties that only a bit far below decides, and exponents that over- or underflow."""
    rng = np.random.default_rng(man_bits)
    values = [0, 1, -1]
    for bits in (10, 30, 53, 54, 64, 100, 300):
        for _ in range(20):
            head = (1 << man_bits | int(rng.integers(1 << man_bits))) << 1 | 1  # a tie of K
            shift = max(bits - man_bits - 2, 0)
            values += [sign * ((head << shift) + tail) for tail in (-1, 0, 1) for sign in (-1, 1)]
    for exponent in (-400, -140, -126 - man_bits - 1, 0, 100):
        want = [oracle.round_wide(Fraction(value) * oracle.power_of_two(exponent), man_bits) for value in values]
        assert_same(round_integers(values, exponent, WideFormat(man_bits)), want, exponent)


def test_float32_hardware_agrees() -> None:
    """K of 23 bits is binary32 on its normal numbers: any float64 in that range rounds to the same word."""
    rng = np.random.default_rng(0)
    values = np.ldexp(rng.uniform(1, 2, 20000) * rng.choice([-1.0, 1.0], 20000), rng.integers(-125, 127, 20000))
    low = values[::4].astype(np.float32)
    values[::4] = (low.astype(float) + np.nextafter(low, np.float32(np.inf))) / 2  # ties
    assert (round_wide(values, WideFormat(23)) == values.astype(np.float32)).all()
    for operation, reference in ((add, np.add), (multiply, np.multiply)):
        a, b = (np.ldexp(rng.uniform(-2, 2, 20000), rng.integers(-30, 30, 20000)).astype(np.float32) for _ in range(2))
        assert (operation(a.astype(float), b.astype(float), WideFormat(23)) == reference(a, b)).all()
