"""Scalar formats against ml_dtypes, where the value sets coincide.

With block_size 1 a format is a floating-point format of the same fields and bias as IEEE 754's, but
- the leading bit is explicit, so shared_exp 0 is one more binade of full precision, with numbers below it in steps of
  2^(-bias - man_bits); IEEE's subnormals have twice that step and are all representable here;
- there is no code for infinity or NaN: the top shared_exp is an ordinary binade;
- a round-up saturates within its binade: from the last tie of a binade on, IEEE goes to the next power of two, this
  format stays at its largest significand.
So they agree on every finite value, and on the rounding of every number between two neighbours of one normal binade.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from lightnorm_golden import BlockFormat, WideFormat, decode, quantize
from lightnorm_golden.wide import round_wide

finfo: Any = ml_dtypes.finfo  # untyped

FORMATS: dict[str, tuple[Any, BlockFormat]] = {
    "bfloat16": (ml_dtypes.bfloat16, BlockFormat(8, 7)),
    "float16": (np.float16, BlockFormat(5, 10)),
    "float8_e5m2": (ml_dtypes.float8_e5m2, BlockFormat(5, 2)),
    "float8_e4m3": (ml_dtypes.float8_e4m3, BlockFormat(4, 3)),
    "float8_e4m3fn": (ml_dtypes.float8_e4m3fn, BlockFormat(4, 3)),
    "float8_e3m4": (ml_dtypes.float8_e3m4, BlockFormat(3, 4)),
    "float6_e2m3fn": (ml_dtypes.float6_e2m3fn, BlockFormat(2, 3)),
    "float6_e3m2fn": (ml_dtypes.float6_e3m2fn, BlockFormat(3, 2)),
    "float4_e2m1fn": (ml_dtypes.float4_e2m1fn, BlockFormat(2, 1)),
}


def finite_values(dtype: Any) -> NDArray[np.float32]:
    """Every nonnegative finite value, in order."""
    bits = finfo(dtype).bits
    codes = np.arange(1 << bits - 1, dtype=np.uint16 if bits == 16 else np.uint8)
    values = codes.view(dtype).astype(np.float32)
    return np.sort(values[np.isfinite(values)])


def rounded(values: NDArray[np.float32], fmt: BlockFormat) -> NDArray[np.float64]:
    return decode(quantize(values.reshape(1, -1), fmt)).ravel()


@pytest.mark.parametrize("name", FORMATS)
def test_every_finite_value_is_representable(name: str) -> None:
    dtype, fmt = FORMATS[name]
    values = finite_values(dtype)
    assert len(values) > 3
    assert (rounded(values, fmt) == values).all()
    assert (rounded(-values, fmt) == -values).all()


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_between_neighbours_of_a_normal_binade(name: str) -> None:
    """All midpoints and the float32 next to them on both sides, both signs."""
    dtype, fmt = FORMATS[name]
    values = finite_values(dtype)
    normal = values[values >= float(finfo(dtype).smallest_normal)]
    low, high = normal[:-1], normal[1:]
    inside = np.frexp(low)[1] == np.frexp(high)[1]
    middle = low[inside] + (high[inside] - low[inside]) / 2
    assert len(middle) >= 1
    for points in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))):
        for sign in (1, -1):
            signed = (sign * points).astype(np.float32)
            assert (rounded(signed, fmt) == signed.astype(dtype).astype(np.float64)).all()


@pytest.mark.parametrize("name", FORMATS)
def test_last_tie_of_a_binade_is_where_they_differ(name: str) -> None:
    dtype, fmt = FORMATS[name]
    powers = np.ldexp(np.float32(1), np.arange(2 - fmt.bias, fmt.bias)).astype(np.float32)
    powers = powers[powers <= finite_values(dtype)[-1]]
    tie = powers * np.float32(1 - 2.0 ** -(fmt.man_bits + 2))  # halfway from the largest significand to the power
    assert (tie.astype(dtype).astype(np.float32) == powers).all()
    assert (rounded(tie, fmt) == powers * (1 - 2.0 ** -(fmt.man_bits + 1))).all()


def test_scale_is_a_bfloat16() -> None:
    """A of 7 fraction bits rounds every bfloat16 to itself and every midpoint as bfloat16 does, up to saturation."""
    values = finite_values(ml_dtypes.bfloat16)
    values = values[values >= 2.0**-126]
    fmt = WideFormat(7)
    assert (round_wide(values.astype(np.float64), fmt) == values).all()
    middle = values[:-1] + (values[1:] - values[:-1]) / 2
    for points in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))):
        expected = points.astype(ml_dtypes.bfloat16).astype(np.float64)
        assert (round_wide(points.astype(np.float64), fmt) == expected).all()
        assert (round_wide(-points.astype(np.float64), fmt) == -expected).all()
    assert round_wide(np.array(3.4e38), fmt) == values[-1]  # bfloat16 would be infinite
