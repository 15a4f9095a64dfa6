"""Block floating point: encoding against the oracle, and every bit pattern through pack, unpack and decode."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import oracle
import pytest
from comparison import actual_blocks, exact_floats, expected_blocks, oracle_format
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stimulus import boundary, spread

from lightnorm_golden import BlockFormat, Blocks, decode, pack, quantize, unpack

ALL_FIELDS = [(exp_bits, man_bits) for exp_bits in range(2, 9) for man_bits in range(1, 11)]


def assert_same_blocks(got: Blocks, want: list[list[oracle.Block]]) -> None:
    expected = expected_blocks("", want)
    for name, values in actual_blocks("", got).items():
        assert (values == expected[name]).all(), f"{name}: {values.tolist()}, oracle {expected[name].tolist()}"


def assert_quantizes_like_the_oracle(values: NDArray[np.float64], fmt: BlockFormat) -> None:
    columns = values.reshape(1, -1)
    reference = oracle_format(fmt)
    blocks = oracle.quantize(columns[0].tolist(), reference)
    got = quantize(columns, fmt)
    assert_same_blocks(got, [blocks])
    decoded = decode(got, columns.shape[1])
    assert (decoded[0] == exact_floats(oracle.decode(blocks, reference, columns.shape[1]))).all()
    assert not np.signbit(decoded[decoded == 0]).any()


@pytest.mark.parametrize("exp_bits, man_bits", ALL_FIELDS)
def test_quantize_at_boundaries(exp_bits: int, man_bits: int) -> None:
    """Every pair of field widths, unblocked and in blocks."""
    rng = np.random.default_rng([exp_bits, man_bits])
    for block_size in (1, 3, 16):
        fmt = BlockFormat(exp_bits, man_bits, block_size)
        for make in (boundary, spread):
            assert_quantizes_like_the_oracle(make(rng, fmt, 64), fmt)


@pytest.mark.parametrize("man_bits", [1, 2, 3])
def test_quantize_narrow_format_exhaustively(man_bits: int) -> None:
    """All multiples of a quarter of the smallest step, from below zero's tie to beyond the largest value."""
    fmt = BlockFormat(2, man_bits)
    quarter_steps = np.arange(-(fmt.max_significand + 2) * 32, (fmt.max_significand + 2) * 32 + 1)
    assert_quantizes_like_the_oracle(np.ldexp(quarter_steps.astype(float), fmt.min_exponent - 2), fmt)


@pytest.mark.parametrize("exp_bits, man_bits", ALL_FIELDS)
def test_representable_values_are_kept(exp_bits: int, man_bits: int) -> None:
    """Every scalar word with a leading one, and every word with shared_exp 0, encodes to itself."""
    fmt = BlockFormat(exp_bits, man_bits)
    shared_exp, significand = np.meshgrid(np.arange(fmt.max_shared_exp + 1), np.arange(fmt.max_significand + 1))
    canonical = (significand > fmt.max_significand // 2) | (shared_exp == 0)
    words = Blocks(
        fmt,
        shared_exp[canonical].astype(np.uint8).reshape(1, -1),
        (np.arange(canonical.sum()) % 2 == 1).reshape(1, -1, 1) & (significand[canonical] != 0).reshape(1, -1, 1),
        significand[canonical].astype(np.uint16).reshape(1, -1, 1),
    )
    again = quantize(decode(words), fmt)
    for name in ("shared_exp", "sign", "significand"):
        assert (getattr(again, name) == getattr(words, name)).all(), name


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(
    st.builds(BlockFormat, st.integers(2, 8), st.integers(1, 10), st.integers(1, 6)),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=13),
)
def test_quantize_any_float64(fmt: BlockFormat, values: list[float]) -> None:
    """Infinities and subnormals included; a failure is shrunk to a minimal block."""
    assert_quantizes_like_the_oracle(np.array(values), fmt)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_infinities_saturate(dtype: Any) -> None:
    fmt = BlockFormat(5, 4, 4)
    got = quantize(np.array([[np.inf, -np.inf, 1.0, 0.0]], dtype), fmt)
    assert got.shared_exp.tolist() == [[31]]
    assert got.significand.tolist() == [[[31, 31, 0, 0]]]
    assert got.sign.tolist() == [[[False, True, False, False]]]


def test_round_up_does_not_bump_the_exponent() -> None:
    """31.5 / 32 of a binade rounds to 32, which saturates to 31; the exponent stays."""
    fmt = BlockFormat(5, 4)
    got = quantize(np.array([[1.96875, 1.984375, np.nextafter(2.0, 0), 2.0]]), fmt)
    assert got.shared_exp.tolist() == [[15, 15, 15, 16]]
    assert got.significand.ravel().tolist() == [31, 31, 31, 16]


def test_no_negative_zero_and_no_empty_exponent() -> None:
    """A negative element that rounds to zero has sign 0; a block that rounds to zero has shared_exp 0."""
    fmt = BlockFormat(4, 3, 2)
    tiny = 2.0 ** (fmt.min_exponent - 1)  # a tie with zero
    got = quantize(np.array([[1.0, -1e-9, -0.0, 0.0, -tiny, tiny, -1.5 * tiny, tiny]]), fmt)
    assert got.shared_exp.tolist() == [[7, 0, 0, 0]]
    assert got.significand.tolist() == [[[8, 0], [0, 0], [0, 0], [1, 0]]]
    assert got.sign.tolist() == [[[False, False], [False, False], [False, False], [True, False]]]


def test_blocks_are_padded_with_zeros() -> None:
    got = quantize(np.full((2, 5), -3.0), BlockFormat(5, 4, 4))
    assert got.significand.tolist() == [[[24] * 4, [24, 0, 0, 0]]] * 2
    assert got.sign.tolist() == [[[True] * 4, [True, False, False, False]]] * 2
    assert (decode(got, 5) == -3.0).all()
    assert decode(got).shape == (2, 8)


# ---------------------------------------------------------------------------------------------------------------------
# Bits
# ---------------------------------------------------------------------------------------------------------------------


def all_patterns(bits: int) -> NDArray[np.uint8]:
    """(1, 2^bits, bits): every pattern, first bit lowest."""
    return (np.arange(1 << bits)[:, None] >> np.arange(bits) & 1).astype(np.uint8)[None]


@pytest.mark.parametrize(
    "fmt",
    [BlockFormat(2, 1), BlockFormat(2, 1, 2), BlockFormat(3, 2, 2), BlockFormat(2, 2, 3), BlockFormat(8, 3)],
    ids=str,
)
def test_every_bit_pattern(fmt: BlockFormat) -> None:
    """pack inverts unpack, and each pattern decodes to the value that its fields, cut out of an integer, have."""
    bits = all_patterns(fmt.block_bits)
    words = unpack(bits, fmt)
    assert (pack(words) == bits).all()

    width = fmt.man_bits + 2
    expected = []
    for pattern in range(1 << fmt.block_bits):
        unit = oracle_format(fmt).unit(pattern & ((1 << fmt.exp_bits) - 1))
        for lane in range(fmt.block_size):
            element = pattern >> fmt.exp_bits + lane * width & ((1 << width) - 1)
            magnitude = (element & ((1 << width - 1) - 1)) * unit
            expected.append(-magnitude if element >> width - 1 else magnitude)
    decoded = decode(words)
    assert (decoded == exact_floats(expected)).all()
    assert not np.signbit(decoded[decoded == 0]).any()


@pytest.mark.parametrize("fmt", [BlockFormat(8, 10, 64), BlockFormat(5, 4, 16), BlockFormat(7, 9, 5)], ids=str)
def test_random_bit_patterns_of_wide_blocks(fmt: BlockFormat) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (3, 50, fmt.block_bits)).astype(np.uint8)
    assert (pack(unpack(bits, fmt)) == bits).all()


def test_pack_of_encoded_values() -> None:
    """One block by hand: bfp2_e3m2, shared_exp 4 (unit 2^(4-3-2) = 1/2), elements 3.5 = 7 units and -1 = -2 units."""
    bits = pack(quantize(np.array([[3.5, -1.0]]), BlockFormat(3, 2, 2)))
    assert bits.tolist() == [[[0, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1]]]


# ---------------------------------------------------------------------------------------------------------------------
# Refusals
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, message",
    [
        (np.zeros(4), "values must be an array (C, m) of float16, float32 or float64, not float64 (4,)"),
        (np.zeros((1, 4), np.int32), "values must be an array (C, m) of float16, float32 or float64, not int32 (1, 4)"),
        (np.array([[1.0, 2.0], [np.nan, np.nan]]), "values must not hold NaN; the first is at index (1, 0)"),
    ],
)
def test_quantize_refuses(values: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        quantize(values, BlockFormat(5, 4, 4))


def test_unpack_refuses_another_width() -> None:
    message = "bits of bfp4_e5m4 must have the shape (C, blocks, 29), not (1, 2, 28)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        unpack(np.zeros((1, 2, 28), np.uint8), BlockFormat(5, 4, 4))


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize <= 8, reason="this platform's longdouble is float64")
def test_quantize_refuses_what_float64_cannot_hold() -> None:
    """Rounding to float64 first would round twice: 1 + 2^-5 + 2^-60 is above the tie at 1 + 2^-5."""
    with pytest.raises(ValueError, match="float16, float32 or float64"):
        quantize(np.array([[1 + np.longdouble(2) ** -5 + np.longdouble(2) ** -60]]), BlockFormat(5, 4))
