"""Chunks, host constants and exact statistics."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import oracle
import pytest
from comparison import exact_float, oracle_format, oracle_of
from stimulus import channel_values

from lightnorm_golden import GAINS, BlockFormat, NormSpec, host_constants
from lightnorm_golden.block import encode, to_block_major
from lightnorm_golden.statistics import Chunking, binned_sum, expected_range, gain_constant, range_statistics

COUNTS = (2, 3, 4, 5, 7, 16, 25, 100, 784, 1000, 4096, 65536, 1 << 20, 1 << 24)


@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
def test_chunking_exhaustively(block_size: int) -> None:
    for elements in range(2, 150):
        for wanted in (*range(1, 20), 149, 1000):
            chunking = Chunking(elements, block_size, wanted)
            assert (chunking.chunk_blocks, chunking.chunks) == oracle.chunking(elements, block_size, wanted)
            assert (chunking.chunks - 1) * chunking.chunk_blocks < chunking.blocks
            assert chunking.blocks <= chunking.chunks * chunking.chunk_blocks
            assert chunking.chunks <= wanted


def test_expected_range_closed_forms() -> None:
    """Two to five normals have closed forms (H. A. David, Order Statistics); more from Tippett's and ASTM's tables."""
    root_pi = math.sqrt(math.pi)
    assert expected_range(1) == pytest.approx(0, abs=1e-12)
    assert expected_range(2) == pytest.approx(2 / root_pi, rel=1e-13)
    assert expected_range(3) == pytest.approx(3 / root_pi, rel=1e-13)
    assert expected_range(4) == pytest.approx(6 / root_pi * (0.5 + math.asin(1 / 3) / math.pi), rel=1e-13)
    five = 5 / (2 * root_pi) + 15 / math.pi**1.5 * math.asin(1 / 3)
    assert expected_range(5) == pytest.approx(five, rel=1e-13)
    for count, table in ((10, 3.078), (25, 3.931), (50, 4.498), (100, 5.015), (1000, 6.483)):
        assert expected_range(count) == pytest.approx(table, abs=5.1e-4)


@pytest.mark.parametrize("count", COUNTS)
def test_expected_range_equals_the_oracle(count: int) -> None:
    """The page asks for 1e-9; another step and another limit of integration agree much closer."""
    assert expected_range(count) == pytest.approx(oracle.d2(count), rel=1e-12)


def test_gains() -> None:
    """C of the three calibrations worked out from section 3 with a calculator's logarithms."""
    assert gain_constant("lightnorm", 64) == pytest.approx(1 / math.sqrt(8.317766166719343), rel=1e-12)
    assert gain_constant("rangebn", 64) == pytest.approx(0.175 * (1 + 4.355172180607204**0.5) / 2.884053773, rel=1e-9)
    assert gain_constant("d2", 3) == pytest.approx(math.sqrt(math.pi) / 3, rel=1e-12)
    for gain in GAINS:
        assert gain_constant(gain, 1) == 0
    with pytest.raises(ValueError, match="^gain must be one of d2, rangebn, lightnorm, not 'l2'$"):
        gain_constant("l2", 64)


@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("coef_man_bits", [8, 15, 23])
def test_host_constants(gain: str, coef_man_bits: int) -> None:
    for block_size in (1, 16, 64):
        spec = NormSpec(BlockFormat(5, 4, block_size), BlockFormat(6, 3), coef_man_bits, gain=gain)
        for elements in COUNTS:
            for wanted in (1, 3, 16, 64, 1 << 24):
                got = host_constants(elements, wanted, spec)
                chunk_blocks, chunks = oracle.chunking(elements, block_size, wanted)
                constant = Fraction(oracle.gain_constant(gain, min(elements, chunk_blocks * block_size)))
                assert (got.chunk_blocks, got.chunks) == (chunk_blocks, chunks)
                assert got.inv_count == exact_float(oracle.round_wide(Fraction(1, elements), coef_man_bits))
                assert got.range_gain == exact_float(oracle.round_wide(constant / chunks, coef_man_bits))


@pytest.mark.parametrize("wanted", [np.uint8(3), np.int8(3), np.uint64(3), np.int64(3)])
def test_chunks_may_be_a_numpy_integer(wanted: int) -> None:
    spec = NormSpec(BlockFormat(5, 4, 4), BlockFormat(6, 3, 4))
    assert host_constants(1000, wanted, spec) == host_constants(1000, 3, spec)


def test_range_is_unbiased_for_normal_data() -> None:
    """range_gain times the sum of chunk ranges estimates a standard deviation of 1: 20,000 chunks of 16, to 4 sigma."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20000, 16))
    ranges = np.ptp(values, axis=1)
    spec = NormSpec(BlockFormat(5, 4), BlockFormat(5, 4), coef_man_bits=23)
    error = ranges.std() / math.sqrt(len(ranges)) / ranges.mean()
    assert ranges.sum() * host_constants(values.size, 20000, spec).range_gain == pytest.approx(1, rel=4 * error)


@pytest.mark.parametrize("seed", range(150))
def test_statistics_equal_the_oracle(seed: int) -> None:
    """S, T - U and every position, exactly; the model's input is left as it was."""
    rng = np.random.default_rng([seed, 3])
    fmt = BlockFormat(int(rng.integers(2, 9)), int(rng.integers(1, 11)), int(rng.choice([1, 2, 3, 4, 16])))
    elements, wanted = int(rng.integers(2, 60)), int(rng.integers(1, 20))
    columns = np.stack([channel_values(rng, fmt, elements)[0] for _ in range(3)])
    signed, shared_exp = encode(to_block_major(columns, fmt.block_size), fmt)
    before = signed.copy()
    chunk_blocks = Chunking(elements, fmt.block_size, wanted).chunk_blocks
    got = range_statistics(signed, shared_exp, elements, chunk_blocks, fmt)
    assert (signed == before).all()

    step = oracle.power_of_two(fmt.min_exponent)
    for channel, column in enumerate(columns):
        words = oracle.decode(oracle.quantize(column.tolist(), oracle_format(fmt)), oracle_format(fmt), elements)
        want = oracle_of(NormSpec(fmt, fmt)).statistics(words, oracle.ZERO, wanted)
        assert got.total[channel] * step == want.sum
        assert got.range_total[channel] * step == want.max_sum - want.min_sum
        assert got.max_position[channel].tolist() == want.max_positions
        assert got.min_position[channel].tolist() == want.min_positions


def test_sums_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    fmt = BlockFormat(8, 10)
    values = np.ldexp(rng.normal(size=200), rng.integers(-120, 120, 200))
    results = []
    for _ in range(5):
        rng.shuffle(values)
        found = range_statistics(*encode(to_block_major(values[None], 1), fmt), 200, 200, fmt)
        results.append((found.total, found.range_total))
    assert all(result == results[0] for result in results)


def test_accumulators_of_the_largest_channel() -> None:
    """2^24 elements of the largest significand: 2^18 blocks of 64, also as products; no bin loses a bit."""
    blocks = 1 << 18
    for term in (64 * 2047, 64 * 2047 * 2047):
        terms = np.full((1, blocks), float(term))
        shifts = np.zeros((1, blocks), np.int64)
        shifts[0, ::2] = 255
        assert binned_sum(terms, shifts) == [term * (blocks // 2) * (1 + (1 << 255))]
    assert binned_sum(np.array([[3.0, -3.0], [5.0, -7.0]]), np.array([[2, 2], [0, 1]])) == [0, -9]
