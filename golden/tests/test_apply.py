"""scale * z + b keeps what its one rounding needs to know, also where float64 cannot hold the exact sum."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import oracle
import pytest
from comparison import actual_blocks, expected_blocks, oracle_format

from lightnorm_golden import BlockFormat, NormSpec
from lightnorm_golden.apply import scale_and_add
from lightnorm_golden.block import encode, to_blocks
from lightnorm_golden.wide import sum_to_odd

FMT = BlockFormat(8, 10)


def unit_exp(fmt: BlockFormat) -> int:
    """The shared_exp at which a significand counts in ones."""
    return fmt.man_bits + fmt.bias


def round_to_odd(exact: Fraction) -> Fraction:
    """To 53 bits: the value itself if it has no more, else the neighbour with an odd last bit (normal range)."""
    if exact == 0:
        return exact
    unit = oracle.power_of_two(oracle.floor_log2(abs(exact)) - 52)
    lower = exact / unit
    integer = lower.numerator // lower.denominator
    return exact if integer == lower else (integer | 1) * unit


def test_sum_to_odd() -> None:
    """Both signs, exponents 0 to 120 apart, sums that cancel and sums just below a power of two."""
    rng = np.random.default_rng(0)
    bits = rng.choice([1, 2, 8, 24, 35, 53], (2, 4000))
    significand = np.floor(np.ldexp(rng.random((2, 4000)) + 1, bits - 1)) * rng.choice([-1.0, 1.0], (2, 4000))
    a, b = np.ldexp(significand, np.array([[0], [-1]]) * rng.integers(0, 120, 4000))
    b[:20], a[20:40] = -a[:20], 0
    for p, q, *totals in zip(a, b, sum_to_odd(a, b), sum_to_odd(b, a), strict=True):
        want = round_to_odd(Fraction(float(p)) + Fraction(float(q)))
        assert [Fraction(float(total)) for total in totals] == [want, want], (p, q)


def long_products(fmt: BlockFormat) -> list[tuple[int, int]]:
    """(M, scale) of P+1 and 24 bits whose product is T * 2^22 + 1, T odd of P+2 bits: a tie of the format, plus 1."""
    found = []
    top = fmt.max_significand + 1
    for significand in range(top // 2 + 1, top, 2):
        residue = -pow(1 << 22, -1, significand) % significand
        for tie in range(residue, 2 * top, significand):
            scale, rest = divmod((tie << 22) + 1, significand)
            assert rest == 0
            if tie >= top and tie % 2 and 1 << 23 <= scale < 1 << 24:
                found.append((significand, scale))
    return found


def assert_rounds_correctly(significand: int, shared_exp: int, scale: float, term: float, fmt: BlockFormat) -> None:
    """With scales and terms of 23 fraction bits."""
    exact = Fraction(significand) * oracle_format(fmt).unit(shared_exp) * Fraction(scale) + Fraction(term)
    want = oracle.quantize([exact], oracle_format(fmt))
    signed, spec = np.full((1, 1, 1), float(significand)), NormSpec(fmt, fmt, 23, 23)
    result = scale_and_add(signed, np.array([[shared_exp]]), fmt, np.array([scale]), np.array([term]), spec)
    got = actual_blocks("", to_blocks(*encode(result, fmt), fmt))
    for name, values in expected_blocks("", [want]).items():
        assert (got[name] == values).all(), f"{name}: {got[name]}, oracle {values}; {significand} * {scale} + {term}"


@pytest.mark.parametrize("man_bits", [6, 7, 8, 9, 10])
@pytest.mark.parametrize("sign", [1, -1])
def test_tie_of_a_long_product(man_bits: int, sign: int) -> None:
    """scale * z = tie + 1 and b = -1 -+ 2^-23: up to 57 bits that end next to the tie, on either side of it."""
    fmt = BlockFormat(8, man_bits)
    products = long_products(fmt)
    assert len(products) > 5
    for significand, scale in products:
        for tail in (2.0**-23, 2.0**-20, 0.0, -(2.0**-23)):
            assert_rounds_correctly(sign * significand, unit_exp(fmt), scale, sign * (tail - 1), fmt)


@pytest.mark.parametrize("sign", [1, -1])
def test_tie_of_a_long_term(sign: int) -> None:
    """b = tie + 1 of 24 bits, scale * z = -(1 + 2^-33) = -683 * 12576771 / 2^33: 57 bits that end below the tie."""
    significand, scale = 683, 12576771
    assert significand * scale == (1 << 33) + 1
    for tie in range(2049, 4096, 10):
        assert_rounds_correctly(-sign * significand, unit_exp(FMT) - 33, scale, sign * ((tie << 12) + 1), FMT)


def test_sums_that_float64_holds_are_exact() -> None:
    """The usual case: coefficients of the default widths and terms of similar magnitude."""
    rng = np.random.default_rng(0)
    spec = NormSpec(FMT, FMT)
    signed = rng.integers(-2047, 2048, (4, 3, 50)).astype(np.float64)
    shared_exp = unit_exp(FMT) + rng.integers(-8, 4, (3, 50))
    scale, term = rng.integers(-255, 256, 3) / 64, rng.integers(-65535, 65536, 3) / 8
    got = scale_and_add(signed.copy(), shared_exp, BlockFormat(8, 10, 4), scale, term, spec)
    assert (got == signed * scale[:, None] * np.ldexp(1.0, shared_exp - unit_exp(FMT)) + term[:, None]).all()
